"""One request: how long it may take until it is answered, and how its answer ends when the process has to end.

uWSGI ends a worker whose request takes too long, and a full queue tells nginx that no more can wait. A process that
serves many requests at a time must say both itself, so that nobody hangs: 503, with when to come again. An answer that
has begun may take as long as it likes: it is a stream.

Where an answer is cut, the application first hears that its visitor is gone, and is cancelled if it does not care.
"""

import asyncio
from typing import Any

from django_tenantry.interface import ASGIApplication, Message, Receive, Scope, Send
from django_tenantry.threads import SyncThread, SyncThreads

UNANSWERED_MAX = 500  # of one worker; behind as many nobody is served in time
UNWIND_SECONDS = 1.0
_DISCONNECT = {"type": "http.disconnect"}
_PAGE = b"This site is not answering right now. Try again.\n"


class Answer:
    """An answer under way."""

    def __init__(self, threads: SyncThreads, seconds: float, receive: Receive, send: Send) -> None:
        self._threads = threads
        self._thread: SyncThread = threads.least_busy()
        self._seconds = seconds
        self._visitor = receive, send
        self._loop = asyncio.get_running_loop()
        self._cut: asyncio.Future[None] = self._loop.create_future()
        self._task: asyncio.Task[Any] | None = None
        self._is_waiting = True
        self._streams = False

    async def run(self, project: ASGIApplication, scope: Scope) -> None:
        """Have the project answer, or answer in its place."""
        if self._threads.unanswered >= UNANSWERED_MAX:
            await self._refuse()
            return
        self._task = asyncio.current_task()
        self._thread.bind()
        self._thread.unanswered += 1
        timer = self._loop.call_later(self._seconds, self._expire)
        try:
            await project(scope, self._receive, self._send)
        except asyncio.CancelledError:
            if not self._cut.done():
                raise
        finally:
            timer.cancel()
            self._answered()
        if self._cut.done():
            await self._complete()

    def end(self) -> None:
        """The process ends: a stream of events is complete with what was sent, upon which browsers ask again."""
        if self._streams:
            self._cut_off()

    def _expire(self) -> None:
        if self._is_waiting:
            self._threads.replace(self._thread)
            self._cut_off()

    def _cut_off(self) -> None:
        if not self._cut.done():
            self._cut.set_result(None)
            if self._task is not None:
                self._loop.call_later(UNWIND_SECONDS, self._task.cancel)

    async def _receive(self) -> Message:
        message = asyncio.ensure_future(self._visitor[0]())
        try:
            either: set[asyncio.Future[Any]] = {message, self._cut}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            return message.result() if message.done() else dict(_DISCONNECT)
        finally:
            message.cancel()

    async def _send(self, message: Message) -> None:
        if self._cut.done():
            return
        self._answered()
        if message["type"] == "http.response.start":
            kinds = [value for name, value in message.get("headers", ()) if name.lower() == b"content-type"]
            self._streams = any(kind.startswith(b"text/event-stream") for kind in kinds)
            if self._streams:
                # nginx would gather events until there are some kilobytes of them.
                message = {**message, "headers": [*message.get("headers", ()), (b"x-accel-buffering", b"no")]}
        elif not message.get("more_body"):
            self._streams = False
        await self._visitor[1](message)

    def _answered(self) -> None:
        if self._is_waiting:
            self._is_waiting = False
            self._thread.unanswered -= 1

    async def _complete(self) -> None:
        if self._streams:
            await self._visitor[1]({"type": "http.response.body", "body": b"", "more_body": False})
        else:
            await self._refuse()

    async def _refuse(self) -> None:
        headers = [(b"content-type", b"text/plain"), (b"retry-after", b"5"), (b"cache-control", b"no-store")]
        await self._visitor[1]({"type": "http.response.start", "status": 503, "headers": headers})
        await self._visitor[1]({"type": "http.response.body", "body": _PAGE})
