"""One request to a site's own socket, in the protocol that is spoken there, past nginx."""

import asyncio
import contextlib
import re
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tenantry.node.errors import NotReady
from tenantry.node.render.engine import Protocol
from tenantry.spec.uwsgi import encode_packet

CONNECT_STEP_SECONDS = 0.005  # between attempts until the wrapper has bound the socket: costs 20 µs each
BODY_SECONDS = 5.0  # from the first byte: a page that streams for ever tells nothing of whether the site works
HEAD_MAX_BYTES = 65_536
BODY_MAX_BYTES = 10_000_000  # of a longer one the rest is not looked at
FIRST_BAD_STATUS = 500
_CREDENTIALS = struct.Struct("=iII")  # pid, uid, gid
COOKIES_MAX = 20
COOKIE_MAX = 2_000  # characters; longer ones are not sent back
ASKED = "x-tenantry-asked"  # of an answer: how many threads' it is
_STATUS = re.compile(rb"HTTP/\d\.\d (\d{3})(?: [^\r\n]*)?\r?\n")


@dataclass(frozen=True, slots=True)
class HealthRequest:
    """What to ask: a path of printable ASCII, under a hostname the site knows.

    `probe`: whether the application is loaded is all that matters; the library answers without asking the project.
    `everyone`, over HTTP: the library has every thread of every worker answer, and says the worst status with ASKED; a
    library that cannot do that takes it for a probe.
    """

    socket: Path
    hostname: str
    port: int
    path: str
    cookies: Mapping[str, str] = field(default_factory=dict)
    probe: bool = False
    everyone: bool = False
    protocol: Protocol = Protocol.UWSGI

    @property
    def host(self) -> str:
        """The Host header."""
        return self.hostname if self.port == 80 else f"{self.hostname}:{self.port}"


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. Names of headers are in lower case; `cookies` are what it sets."""

    status: int
    headers: Mapping[str, str]
    cookies: Mapping[str, str]


def encode_request(request: HealthRequest, content_length: int = 0) -> bytes:
    """Return a GET as it is sent: the answer is HTTP in either protocol, and ends with the connection.

    A body of `content_length` bytes is to follow. The site answers in whatever mode it is: a new generation must be
    found ready.
    """
    return _ENCODERS[request.protocol](request, content_length)


def _http(request: HealthRequest, content_length: int) -> bytes:
    headers = {
        "Host": request.host,
        "Connection": "close",
        "User-Agent": "tenantry-agent",
        "X-Forwarded-For": "127.0.0.1",
        "X-Forwarded-Port": str(request.port),
        "X-Forwarded-Proto": "http",
        "X-Real-IP": "127.0.0.1",
        "X-Tenantry-Let-Through": "1",
    }
    if content_length:
        headers["Content-Length"] = str(content_length)
    if request.cookies:
        headers["Cookie"] = _cookies(request)
    if request.probe or request.everyone:
        headers["X-Tenantry-Probe"] = "all" if request.everyone else "1"
    lines = [f"GET {request.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _uwsgi(request: HealthRequest, content_length: int) -> bytes:
    """The packet of uWSGI's protocol (modifier 0: WSGI)."""
    path, _, query = request.path.partition("?")
    variables = {
        "REQUEST_METHOD": "GET",
        "REQUEST_URI": request.path,
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_NAME": request.hostname,
        "SERVER_PORT": str(request.port),
        "REQUEST_SCHEME": "http",
        "REMOTE_ADDR": "127.0.0.1",
        "CONTENT_LENGTH": str(content_length) if content_length else "",
        "TENANTRY_LET_THROUGH": "1",
        "HTTP_HOST": request.host,
        "HTTP_USER_AGENT": "tenantry-agent",
        "HTTP_X_FORWARDED_PROTO": "http",
        "HTTP_X_FORWARDED_FOR": "127.0.0.1",
    }
    if request.cookies:
        variables["HTTP_COOKIE"] = _cookies(request)
    return encode_packet(variables | ({"TENANTRY_PROBE": "1"} if request.probe else {}))


def _cookies(request: HealthRequest) -> str:
    return "; ".join(f"{name}={value}" for name, value in request.cookies.items())


async def ask(request: HealthRequest) -> Answer:
    """Return the answer. Fails as `HeldRequest` does."""
    held = await HeldRequest.begin(request)
    return await held.finish()


class HeldRequest:
    """A request that occupies one of the workers' threads from the moment it is accepted until `finish`.

    Its body is held back, and uWSGI reads bodies before it runs the application (`post-buffering`). Not for longer
    than 4 s: then uWSGI gives up waiting for it. Over HTTP nothing is held: such engines answer before there is a body.
    """

    def __init__(self, request: HealthRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._request = request
        self._reader = reader
        self._writer = writer
        self._body = b""

    @classmethod
    async def begin(cls, request: HealthRequest, *, hold: bool = False) -> "HeldRequest":
        """Send the request; with `hold` all but its body. `OSError` when nobody listens."""
        reader, writer = await asyncio.open_unix_connection(str(request.socket), limit=HEAD_MAX_BYTES)
        held = cls(request, reader, writer)
        held._body = b"." if hold and request.protocol is Protocol.UWSGI else b""
        with contextlib.suppress(ConnectionError):  # `finish` says so
            writer.write(encode_request(request, len(held._body)))
            await writer.drain()
        return held

    async def finish(self) -> Answer:
        """Send what was held back and return the answer; it waits in the socket's queue until somebody takes it.

        `NotReady` saying why when what comes is no answer, or only a part of one.
        """
        path = self._request.path
        try:
            self._writer.write(self._body)
            await self._writer.drain()
            first = await self._reader.read(1)
            if not first:
                raise NotReady(f"the process ended before it answered {path}, or hung up without an answer")
            async with asyncio.timeout(BODY_SECONDS):
                return await self._read(first)
        except TimeoutError as error:
            raise NotReady(f"its answer to {path} does not end (after {BODY_SECONDS:.0f} s)") from error
        except ConnectionError as error:
            raise NotReady(f"the process ended before it answered {path}") from error
        finally:
            self.close()

    @property
    def pid(self) -> int:
        """Return the process that began to listen on the socket: the one the emperor started."""
        connection = self._writer.get_extra_info("socket")
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        return int(_CREDENTIALS.unpack(credentials)[0])

    def close(self) -> None:
        """Hang up."""
        self._writer.close()

    async def _read(self, first: bytes) -> Answer:
        path = self._request.path
        try:
            head = first + await self._reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            head = first + error.partial
        except asyncio.LimitOverrunError as error:
            raise NotReady(f"what it sent for {path} is not an answer in HTTP: {first!r} and more") from error
        status = _STATUS.match(head)
        if status is None:
            raise NotReady(f"what it sent for {path} is not an answer in HTTP: {head[:40]!r}")
        if not head.endswith(b"\r\n\r\n"):
            raise NotReady(f"it sent half an answer to {path}: its headers do not end")
        headers, cookies = _fields(head)
        taken = 0
        while taken < BODY_MAX_BYTES and (chunk := await self._reader.read(HEAD_MAX_BYTES)):
            taken += len(chunk)
        expected = headers.get("content-length", "")
        if expected.isdecimal() and taken < min(int(expected), BODY_MAX_BYTES):
            raise NotReady(f"it sent half an answer to {path}: {taken} of {expected} bytes")
        return Answer(int(status[1]), headers, cookies)


def _fields(head: bytes) -> tuple[dict[str, str], dict[str, str]]:
    headers: dict[str, str] = {}
    cookies: dict[str, str] = {}
    for line in head.decode("latin-1").split("\r\n")[1:]:
        name, _, value = line.partition(":")
        if name.lower() == "set-cookie":
            cookie, _, content = value.partition(";")[0].strip().partition("=")
            if len(line) <= COOKIE_MAX and len(cookies) < COOKIES_MAX:
                cookies[cookie] = content
        else:
            headers[name.strip().lower()] = value.strip()
    return headers, cookies


_ENCODERS = {Protocol.UWSGI: _uwsgi, Protocol.HTTP: _http}
