"""One HTTP request to a site's own socket, in uWSGI's protocol, past nginx."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

from tenantry.node.errors import NotReady
from tenantry.spec.uwsgi import encode_packet

CONNECT_STEP_SECONDS = 0.005  # between attempts until the wrapper has bound the socket: costs 20 µs each
BODY_SECONDS = 1.0  # a page that streams for ever is ready all the same
BODY_MAX_BYTES = 1_000_000
FIRST_BAD_STATUS = 500


@dataclass(frozen=True, slots=True)
class HealthRequest:
    """What to ask: a path of printable ASCII, under a hostname the site knows.

    `probe`: whether the application is loaded is all that matters; the library answers without asking the project.
    """

    socket: Path
    hostname: str
    port: int
    path: str
    probe: bool = False


def encode_request(request: HealthRequest) -> bytes:
    """Return the uwsgi packet (modifier 0: WSGI) of a GET."""
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
        "CONTENT_LENGTH": "",
        # In whatever mode the site is: a new generation must be found ready.
        "TENANTRY_LET_THROUGH": "1",
        "HTTP_HOST": request.hostname if request.port == 80 else f"{request.hostname}:{request.port}",
        "HTTP_USER_AGENT": "tenantry-agent",
        "HTTP_X_FORWARDED_PROTO": "http",
        "HTTP_X_FORWARDED_FOR": "127.0.0.1",
    }
    return encode_packet(variables | ({"TENANTRY_PROBE": "1"} if request.probe else {}))


async def check_health(request: HealthRequest) -> int:
    """Return the HTTP status of the answer; it waits in the socket's queue until the application is loaded.

    `OSError` when nobody listens, `NotReady` when the process went away without an answer.
    """
    reader, writer = await asyncio.open_unix_connection(str(request.socket))
    try:
        writer.write(encode_request(request))
        await writer.drain()
        line = await reader.readline()
        status = _status(line)
        await _read_rest(reader)
    except (ConnectionError, ValueError) as error:
        raise NotReady(f"the process ended before it answered {request.path}") from error
    finally:
        writer.close()
    return status


async def _read_rest(reader: asyncio.StreamReader) -> None:
    """Take the body, so that the application does not see its visitor hang up."""
    taken = 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while taken < BODY_MAX_BYTES and (chunk := await reader.read(65_536)):
                taken += len(chunk)
    except TimeoutError:
        pass


def _status(line: bytes) -> int:
    parts = line.split(b" ", 2)
    if len(parts) < 2 or not parts[0].startswith(b"HTTP/") or not parts[1].isdigit():
        raise ValueError("not a status line")
    return int(parts[1])
