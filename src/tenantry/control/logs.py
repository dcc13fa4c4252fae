"""Reading the log files of sites and builds. Names come from the database, never from a request as they are."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from asgiref.sync import sync_to_async
from django.conf import settings

from tenantry.control.config import ControlConfig
from tenantry.control.errors import Conflict

LINES_MAX = 10_000
BLOCK_BYTES = 65_536
TAIL_BYTES_MAX = 4_000_000  # a site may write lines of any length; what is read of them is held in memory
FOLLOW_SECONDS = 0.25  # how often a followed file is looked at; files cannot be waited for
FINISHED_CHECK_SECONDS = 1.0


def site_log(slug: str) -> Path:
    """Return the path of a site's log; `slug` is that of a site in the database."""
    return _logs() / "sites" / f"{slug}.log"


def build_log(release: str) -> Path:
    """Return the path of a build's log; `release` is that of a release in the database."""
    return _logs() / "builds" / f"{release}.log"


def tail(path: Path, lines: int) -> tuple[bytes, int, int]:
    """Return the last `lines` lines, the offset where they end and the file's inode; nothing for a missing file.

    Raises `Conflict` when the file cannot be read. Reads from the end, at most TAIL_BYTES_MAX: a large log costs no
    more than a small one, and a line longer than that has lost its beginning.
    """
    descriptor = _open(path)
    if descriptor is None:
        return b"", 0, 0
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        end = position = status.st_size
        first = max(0, end - TAIL_BYTES_MAX)
        blocks: list[bytes] = []
        ends = 0
        while position > first and ends <= lines and lines > 0:
            size = min(BLOCK_BYTES, position - first)
            position -= size
            file.seek(position)
            blocks.append(file.read(size))
            ends += blocks[-1].count(b"\n")
        kept = b"".join(reversed(blocks)).splitlines(keepends=True)[-lines:] if lines else []
        return b"".join(kept), end, status.st_ino


async def follow(path: Path, lines: int, finished: Callable[[], Awaitable[bool]]) -> AsyncIterator[bytes]:
    """Yield the last `lines` lines and then what is appended, until `finished` says so. A file that is replaced or
    truncated is read from its beginning; one that is missing is waited for."""
    text, offset, inode = await sync_to_async(tail)(path, lines)
    yield text
    waited_seconds = 0.0
    while True:
        over = waited_seconds >= FINISHED_CHECK_SECONDS and await finished()
        if waited_seconds >= FINISHED_CHECK_SECONDS:
            waited_seconds = 0.0
        text, offset, inode = await sync_to_async(_appended)(path, offset, inode)
        if text:
            yield text
            continue
        if over:
            return
        await asyncio.sleep(FOLLOW_SECONDS)
        waited_seconds += FOLLOW_SECONDS


def _appended(path: Path, offset: int, inode: int) -> tuple[bytes, int, int]:
    descriptor = _open(path)
    if descriptor is None:
        return b"", 0, 0
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if status.st_ino != inode or status.st_size < offset:
            offset = 0
        file.seek(offset)
        text = file.read(BLOCK_BYTES)
        return text, offset + len(text), status.st_ino


def _open(path: Path) -> int | None:
    """Open without following a link: what a tenant's process may replace must not lead elsewhere."""
    try:
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Conflict(f"The log {path.name} cannot be read: {error.strerror}.") from error


def _logs() -> Path:
    config: ControlConfig = settings.TENANTRY
    return config.home / "logs"
