"""What is open when the process has to end, and how it is closed.

A process that is replaced goes on with what it has for half a minute. What is still open then would be cut off in the
middle: a websocket is closed with 1012 (service restart), upon which clients connect again; a stream of server-sent
events ends as if it were complete, upon which browsers ask again. Other responses may finish in the seconds that are
left: a download that ends early must not look complete.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from typing import Protocol

from django_tenantry.interface import ASGIApplication, Message, Receive, Scope, Send

SERVICE_RESTART = 1012
STOP_FD_VARIABLE = "TENANTRY_STOP_FD"  # a pipe that the launcher closes when the process has to end


class Endable(Protocol):
    """A request or a websocket under way."""

    def end(self) -> None: ...


class Ending:
    """Closes what is open when the process ends."""

    def __init__(self) -> None:
        self._begun = False
        self._open: set[Endable] = set()

    def watch(self) -> None:
        """From now on notice that the launcher ends this process, all of its kind, or was killed itself."""
        with contextlib.suppress(NotImplementedError):  # by some loops, where only the end of all workers is told
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._end)
        descriptor = os.environ.pop(STOP_FD_VARIABLE, "")
        if descriptor:
            asyncio.get_running_loop().add_reader(int(descriptor), self._stop, int(descriptor))

    def _stop(self, descriptor: int) -> None:
        asyncio.get_running_loop().remove_reader(descriptor)
        self._end()

    def _end(self) -> None:
        self.begin()
        signal.raise_signal(signal.SIGINT)  # the server's own way to end, whichever way it was told here

    def begin(self) -> None:
        """The process ends."""
        self._begun = True
        for one in list(self._open):
            one.end()

    @contextlib.contextmanager
    def ends(self, one: Endable) -> Iterator[None]:
        """While this is entered, `one` is told when the process ends."""
        self._open.add(one)
        try:
            yield
        finally:
            self._open.discard(one)

    @property
    def has_begun(self) -> bool:
        return self._begun


class Conversation:
    """A websocket. Closed from this side, its application gets the `websocket.disconnect` that it waits for."""

    def __init__(self, ending: Ending, send: Send) -> None:
        self._ending = ending
        self._send = send
        self._is_open = False
        self._closing: asyncio.Future[None] | None = None

    async def run(self, project: ASGIApplication, scope: Scope, receive: Receive) -> None:
        """Have the project serve it."""
        with self._ending.ends(self):
            await project(scope, receive, self._sent)

    def end(self) -> None:
        """The process ends."""
        if self._is_open and self._closing is None:
            close = {"type": "websocket.close", "code": SERVICE_RESTART, "reason": "service restart"}
            self._closing = asyncio.ensure_future(self._send(close))

    async def _sent(self, message: Message) -> None:
        if self._closing is not None:
            return
        self._is_open = message["type"] in ("websocket.accept", "websocket.send")
        await self._send(message)
        if self._ending.has_begun:
            self.end()
