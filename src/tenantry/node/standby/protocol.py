"""One request from nginx, one answer to it: uwsgi's packet in, HTTP out.

A request's variables are bounded by their format (64 kB) and by time. A body is not read: nginx keeps it back.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

from tenantry.spec.uwsgi import HEAD_BYTES, parse_head, parse_variables

READ_SECONDS = 5.0  # nginx sends the packet at once
WRITE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Request:
    """What nginx says of a request. Names that begin with HTTP_ are the visitor's; the others are nginx's own."""

    variables: Mapping[str, str]

    def get(self, name: str) -> str:
        return self.variables.get(name, "")


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back. Content-Length is added."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


async def read_request(reader: asyncio.StreamReader) -> Request:
    """Read one request. `ValueError` when it is none, `EOFError` when it ends early, `TimeoutError` when it is slow."""
    async with asyncio.timeout(READ_SECONDS):
        size = parse_head(await reader.readexactly(HEAD_BYTES))
        return Request(parse_variables(await reader.readexactly(size)))


async def write_answer(writer: asyncio.StreamWriter, answer: Answer, *, head_only: bool) -> None:
    """Send an answer, without its body for HEAD. `TimeoutError` when it is not taken."""
    async with asyncio.timeout(WRITE_SECONDS):
        writer.write(encode_answer(answer, head_only=head_only))
        await writer.drain()


def encode_answer(answer: Answer, *, head_only: bool = False) -> bytes:
    """Return the bytes of an answer. `ValueError` for a header that would become another one."""
    status = HTTPStatus(answer.status)
    lines = [f"HTTP/1.1 {status.value} {status.phrase}"]
    for name, value in {**answer.headers, "Content-Length": str(len(answer.body))}.items():
        if any(character in name + value for character in "\r\n\0"):
            raise ValueError(f"the header {name!r:.100} has a line end in it")
        lines.append(f"{name}: {value}")
    head = "\r\n".join([*lines, "", ""]).encode("latin-1")
    return head if head_only else head + answer.body
