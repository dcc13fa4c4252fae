"""Visitors of sleeping sites: held until the site runs, then led to it byte by byte. None is refused for waiting.

nginx connects here because app.sock of a sleeping site leads to `run/wake.sock`, or its app.http to `wake.http.sock`.
What is held is bounded, for each site and in all, so that one site's visitors cannot use up what the others need.
A request in a protocol that the site does not speak any more is handed back to nginx, which asks again in the other.
"""

import asyncio
import contextlib
import logging
import resource
import socket
from collections import Counter
from pathlib import Path

from tenantry.node.layout import is_slug
from tenantry.node.render.engine import Protocol
from tenantry.node.render.nginx import UNTOUCHED_HEADER
from tenantry.node.standby.protocol import Answer, encode_answer
from tenantry.node.standby.waking import Unwakeable, Waker
from tenantry.spec.names import Slug
from tenantry.spec.uwsgi import HEAD_BYTES, parse_head, parse_variables

logger = logging.getLogger(__name__)

HELD_MAX = 200  # visitors of one site; the queue of its own socket is longer
HELD_ALL_MAX = 4000
DESCRIPTORS_EACH = 2
DESCRIPTORS_BESIDES = 100
READ_SECONDS = 5.0  # nginx sends the packet at once
HOLD_SECONDS = 55.0  # nginx waits a minute for the first byte
QUEUE_STEP_SECONDS = 0.02
CHUNK_BYTES = 65_536
CROWDED_SECONDS = 5

PAGE = (
    "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=width=device-width>"
    "<title>One moment, please</title><style>body{font:1.1rem/1.5 system-ui,sans-serif;margin:15vh auto;"
    "max-width:32rem;padding:0 1rem}</style><h1>One moment, please</h1>"
    "<p>This site is not answering right now. Try again.</p></html>\n"
)


class Visitors:
    """Serves connections to the wake sockets."""

    def __init__(self, waker: Waker) -> None:
        self._waker = waker
        self._held: Counter[Slug] = Counter()
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._most = min(HELD_ALL_MAX, (files - DESCRIPTORS_BESIDES) // DESCRIPTORS_EACH)

    async def serve_uwsgi(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Hold one request in uWSGI's protocol until its site runs, and lead it there."""
        await self._serve(Protocol.UWSGI, reader, writer)

    async def serve_http(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The same for HTTP, and for what becomes a websocket."""
        await self._serve(Protocol.HTTP, reader, writer)

    async def _serve(self, protocol: Protocol, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            slug, packet = await _READERS[protocol](reader)
            if self._waker.protocol(slug) is not protocol:
                _hand_back(writer)
                return
            if self._held[slug] >= HELD_MAX or self._held.total() >= self._most:
                await _refuse(writer, CROWDED_SECONDS)
                return
            self._held[slug] += 1
            try:
                await self._lead(slug, protocol, packet, (reader, writer))
            finally:
                self._held[slug] -= 1
                if not self._held[slug]:
                    del self._held[slug]
        except (OSError, EOFError, TimeoutError, ValueError) as error:
            logger.warning("a visitor was not led to a site: %r", error)

    async def _lead(self, slug: Slug, protocol: Protocol, packet: bytes, here: "Streams") -> None:
        writer = here[1]
        try:
            async with asyncio.timeout(HOLD_SECONDS):
                awake = await self._waker.wake(slug)
                if awake.protocol is not protocol:
                    _hand_back(writer)
                    return
                there = await _connect(awake.socket)
        except Unwakeable as error:
            await _refuse(writer, round(error.retry_after_seconds) + 1)
            return
        except (TimeoutError, OSError):
            await _refuse(writer, CROWDED_SECONDS)
            return
        there[1].write(packet)
        await relay(here, there)


async def _connect(path: Path) -> "Streams":
    """Connect to a site's socket, as soon as its queue has room: those whom it woke all come at once."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.setblocking(False)
    try:
        while True:
            try:
                connection.connect(str(path))
                return await asyncio.open_unix_connection(sock=connection)
            except BlockingIOError:  # asyncio's own way takes this for a connection that is being made
                await asyncio.sleep(QUEUE_STEP_SECONDS)
    except BaseException:
        connection.close()
        raise


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def relay(here: Streams, there: Streams) -> None:
    """Pass on what either says until the site has said all, or the visitor left."""
    onward = asyncio.create_task(_copy(here[0], there[1]))
    back = asyncio.create_task(_copy(there[0], here[1]))
    try:
        await asyncio.wait({onward, back}, return_when=asyncio.FIRST_COMPLETED)
        # A site may answer without taking all of a request. nginx closes its side only when it gives the visitor up.
        if not back.done() and not here[0].at_eof():
            await back
    finally:
        for task in (onward, back):
            task.cancel()
        await asyncio.gather(onward, back, return_exceptions=True)
        there[1].close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while chunk := await reader.read(CHUNK_BYTES):
            writer.write(chunk)
            await writer.drain()


async def _read_packet(reader: asyncio.StreamReader) -> tuple[Slug, bytes]:
    """Return the site that nginx names, and the packet as it came."""
    async with asyncio.timeout(READ_SECONDS):
        head = await reader.readexactly(HEAD_BYTES)
        block = await reader.readexactly(parse_head(head))
    name = parse_variables(block).get("TENANTRY_ROUTE", "")
    return _named(name), head + block


async def _read_http(reader: asyncio.StreamReader) -> tuple[Slug, bytes]:
    """Return the site that nginx names, and the head of the request as it came."""
    try:
        async with asyncio.timeout(READ_SECONDS):
            head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError as error:
        raise ValueError("a request's head is too long") from error
    lines = head.decode("latin-1").split("\r\n")[1:]
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return _named(headers.get("x-tenantry-route", "")), head


def _named(name: str) -> Slug:
    if not is_slug(name):
        raise ValueError(f"nginx names no site: {name!r:.100}")
    return Slug(name)


_READERS = {Protocol.UWSGI: _read_packet, Protocol.HTTP: _read_http}


def _hand_back(writer: asyncio.StreamWriter) -> None:
    """Have nginx ask again, in the protocol that the site speaks by now: nobody has got the request yet.

    nginx does so only where it gets no valid answer; the header tells this from a process that died.
    """
    writer.write(b"HTTP/1.1 502 Bad Gateway\r\n%s: 1\r\n\0\r\n\r\n" % UNTOUCHED_HEADER.encode())


async def _refuse(writer: asyncio.StreamWriter, retry_after_seconds: int) -> None:
    headers = {
        "Content-Type": "text/html; charset=utf-8",
        "Retry-After": str(retry_after_seconds),
        "Cache-Control": "no-store",
    }
    writer.write(encode_answer(Answer(503, headers, PAGE.encode())))
    await writer.drain()
