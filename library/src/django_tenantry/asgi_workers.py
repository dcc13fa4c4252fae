"""The workers of one process, and how whoever of them is asked has all of them ask the project.

Before visitors get a new process, each thread of each of its workers must have answered once. Which worker takes a
connection is the kernel's choice, and mostly it takes the same; so the worker that the platform asks tells the others.
Each asks its own application, past the server, and says the worst status.

Between workers there is one inbox for each, made before they are. Who is still loading finds there what was asked.
"""

import asyncio
import itertools
import marshal
import os
import socket
import sys
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

from django_tenantry.interface import ASGIApplication, Message, Scope

END_SECONDS = 5.0  # from the beginning of an answer: what the platform waits for an answer's end, too
_MESSAGE_MAX = 1 << 18
# What of a scope is plain, and the same in each worker; its `state` is each one's own.
_PLAIN = frozenset(
    {"type", "asgi", "http_version", "method", "scheme", "path", "raw_path", "root_path", "query_string", "headers"}
    | {"client", "server", "tenantry"}
)
_QUESTION, _ANSWER = 0, 1

AskHere = Callable[[Scope], Awaitable[int]]


class Workers:
    """All workers, in one of them or, before they are started, in the process that starts them."""

    def __init__(self, count: int) -> None:
        self._pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(count)]
        self._index = 0
        self._numbers = itertools.count()
        self._asked: dict[tuple[int, int], asyncio.Future[list[int]]] = {}
        self._statuses: dict[tuple[int, int], list[int]] = {}
        self._tasks: set[asyncio.Future[Any]] = set()

    @property
    def count(self) -> int:
        return len(self._pairs)

    def become(self, index: int) -> None:
        """In a worker: keep no other's inbox."""
        self._index = index
        for number, (inbox, outbox) in enumerate(self._pairs):
            outbox.setblocking(False)
            inbox.setblocking(False)
            if number != index:
                inbox.close()

    def close(self) -> None:
        """Let go of all of it: nobody here asks or is asked any more."""
        for inbox, outbox in self._pairs:
            inbox.close()
            outbox.close()

    def listen(self, ask_here: AskHere) -> None:
        """In a worker, from now on: answer with what `ask_here` returns."""
        inbox = self._pairs[self._index][0]
        asyncio.get_running_loop().add_reader(inbox.fileno(), self._read, inbox, ask_here)

    async def ask(self, scope: Scope) -> int:
        """Have each worker ask its application; return the worst status, when all have one, however long that takes."""
        number = os.getpid(), next(self._numbers)  # of one that was in this worker's place and ended: another pid
        self._statuses[number] = []
        self._asked[number] = asyncio.get_running_loop().create_future()
        plain = {name: value for name, value in scope.items() if name in _PLAIN}
        try:
            for worker in range(len(self._pairs)):
                self._send(worker, (_QUESTION, number, self._index, plain))
            return max(await self._asked[number])
        finally:
            del self._asked[number], self._statuses[number]

    def _send(self, worker: int, message: tuple[Any, ...]) -> None:
        self._pairs[worker][1].send(marshal.dumps(message))

    def _read(self, inbox: socket.socket, ask_here: AskHere) -> None:
        try:
            kind, number, *rest = marshal.loads(inbox.recv(_MESSAGE_MAX))  # noqa: S302 - from the same program's workers
        except BlockingIOError:
            return  # a worker that is being replaced read it
        if kind == _QUESTION:
            sender, scope = rest
            task = asyncio.ensure_future(self._answer(number, sender, scope, ask_here))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif number in self._asked:
            self._statuses[number] += rest
            if len(self._statuses[number]) == len(self._pairs) and not self._asked[number].done():
                self._asked[number].set_result(self._statuses[number])

    async def _answer(self, number: tuple[int, int], sender: int, scope: Scope, ask_here: AskHere) -> None:
        self._send(sender, (_ANSWER, number, await ask_here(scope)))


async def ask_application(application: ASGIApplication, scope: Scope) -> int:
    """Return the status of the application's answer to a request without a body, read to its end.

    500 when it fails or the answer does not end; the log has the traceback.
    """
    visit = _Visit()
    answering = asyncio.ensure_future(application(scope, visit.receive, visit.send))
    try:
        return await visit.status(answering)
    except Exception:
        traceback.print_exc(file=sys.stderr)
        sys.stderr.flush()
        answering.cancel()
        return 500


class _Visit:
    """The server's side of a request that comes from the worker itself."""

    def __init__(self) -> None:
        self._began: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._ended: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._is_told = False

    async def status(self, answering: asyncio.Future[None]) -> int:
        """Return the status, when the answer has ended; raises what the application does, and RuntimeError."""
        await asyncio.wait({answering, self._began}, return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            await asyncio.wait({answering, self._ended}, return_when=asyncio.FIRST_COMPLETED, timeout=END_SECONDS)
        if answering.done():
            answering.result()
        if not self._ended.done():
            raise RuntimeError("the answer is not whole" if answering.done() else "the answer does not end")
        return int(self._began.result())

    async def receive(self) -> Message:
        if self._is_told:
            await self._ended
            return {"type": "http.disconnect"}
        self._is_told = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start" and not self._began.done():
            self._began.set_result(int(message["status"]))
        elif message["type"] == "http.response.body" and not message.get("more_body") and not self._ended.done():
            self._ended.set_result(None)
