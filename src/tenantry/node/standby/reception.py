"""Takes connections from listening sockets; each is under way from the moment at which it leaves the queue.

asyncio's servers tell of a connection a few rounds of the loop after they took it. Whoever came within these rounds was
lost when the program was replaced: nobody knew of him, and he was in no queue any more.
"""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable

logger = logging.getLogger(__name__)

AT_ONCE = 100  # connections taken before what is under way gets its turn
PAUSE_SECONDS = 1.0  # without descriptors or memory, those who come wait in the queue
STILL_SECONDS = 10.0  # in which a visitor takes nothing of the rest of his answer: he is gone

Service = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Reception:
    """Leads connections to services, until it is closed; what a service wrote is sent, and the connection ended."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._open: dict[int, socket.socket] = {}
        self._under_way: set[asyncio.Task[None]] = set()

    def open(self, listener: socket.socket, serve: Service) -> None:
        """Take connections from a socket that does not block."""
        self._open[listener.fileno()] = listener
        self._resume(listener, serve)

    def close(self) -> None:
        """Take no more. The sockets stay open, and have a queue."""
        for number in self._open:
            self._loop.remove_reader(number)
        self._open.clear()

    async def finish(self, seconds: float) -> None:
        """Wait until nothing is under way, at most some seconds."""
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=seconds)

    def _resume(self, listener: socket.socket, serve: Service) -> None:
        if listener.fileno() in self._open:
            self._loop.add_reader(listener.fileno(), self._take, listener, serve)

    def _take(self, listener: socket.socket, serve: Service) -> None:
        for _ in range(AT_ONCE):
            try:
                connection, _ = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                logger.warning("no connection is taken for %.0f s: %s", PAUSE_SECONDS, error)
                self._loop.remove_reader(listener.fileno())
                self._loop.call_later(PAUSE_SECONDS, self._resume, listener, serve)
                return
            task = self._loop.create_task(_served(connection, serve))
            self._under_way.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a bug; only this connection meets it", exc_info=error)


async def _served(connection: socket.socket, serve: Service) -> None:
    try:
        reader, writer = await asyncio.open_unix_connection(sock=connection)
    except BaseException:
        connection.close()
        raise
    try:
        await serve(reader, writer)
        await _sent(writer)
    finally:
        writer.transport.abort()  # of one that is closed nothing is left to be broken off


async def _sent(writer: asyncio.StreamWriter) -> None:
    """Close, and return when all is sent, or nothing moves any more."""
    writer.close()
    closed, left = asyncio.ensure_future(writer.wait_closed()), -1
    try:
        while not closed.done() and left != (now := writer.transport.get_write_buffer_size()):
            left = now
            await asyncio.wait({closed}, timeout=STILL_SECONDS)
    finally:
        closed.cancel()
        await asyncio.gather(closed, return_exceptions=True)  # whoever was to be answered may be gone
