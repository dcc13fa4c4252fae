"""Logs that grow for ever do not: the sites' and nginx's are cut at a size, with one older piece kept.

Whoever writes a log keeps its descriptor open and appends, so a log is copied and emptied in place rather than
renamed: no process has to be told. Lines written between the two steps are lost; all of it is where there is no room
for the copy, since a full disk stops every site.
"""

import asyncio
import contextlib
import logging
import os
from pathlib import Path

from tenantry.node.effects.files import write_file
from tenantry.node.layout import Layout
from tenantry.spec.names import Slug

logger = logging.getLogger(__name__)

LIMIT_BYTES = 32 * 1024 * 1024  # of one log; on disk there is at most twice that, and what one interval adds
INTERVAL_SECONDS = 5.0  # the log of a site that does nothing but write has reached a file's largest size by then
NEW_BYTES = 65_536
TAIL_BYTES = 4_096
_LOG_MODE = 0o640


async def trim_for_ever(layout: Layout) -> None:
    """Cut the logs that have grown too large, every few seconds, in a thread."""
    while True:
        await asyncio.to_thread(trim_logs, layout, LIMIT_BYTES)
        await asyncio.sleep(INTERVAL_SECONDS)


def trim_logs(layout: Layout, limit_bytes: int) -> None:
    """Cut each log of at least `limit_bytes`. One that cannot be cut is said, and tried again the next time."""
    for path in [*_large_logs(layout.site_logs, limit_bytes), *layout.nginx_logs]:
        try:
            trim_log(path, limit_bytes)
        except OSError as error:
            logger.warning("cannot cut %s: %s", path, error.strerror)


def _large_logs(directory: Path, limit_bytes: int) -> list[Path]:
    """Return the logs that have reached the limit: of 10,000 sites, all but a few have not."""
    found = []
    with contextlib.suppress(FileNotFoundError), os.scandir(directory) as logs:
        for entry in logs:
            with contextlib.suppress(FileNotFoundError):
                if entry.name.endswith(".log") and entry.stat(follow_symlinks=False).st_size >= limit_bytes:
                    found.append(Path(entry.path))
    return found


def trim_log(path: Path, limit_bytes: int) -> bool:
    """Move what a log of at least `limit_bytes` holds to `<name>.1` (its last `limit_bytes`) and empty it.

    Returns whether it did. It is emptied also when the older piece cannot be kept. A link in the log's place is an
    error: its directory belongs to the agent's user, so a link there was put by somebody else.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    with os.fdopen(descriptor, "r+b") as log:
        found = os.fstat(log.fileno())
        if found.st_size < limit_bytes:
            return False
        log.seek(-limit_bytes, os.SEEK_END)
        try:
            _keep_older(path.with_name(f"{path.name}.1"), log.read(limit_bytes), found.st_gid)
        except OSError as error:
            # Most likely the disk is full, and this log is what fills it.
            logger.warning("%s is emptied without a copy: %s", path, error.strerror)
        log.truncate(0)
    return True


class SiteLogs:
    """What was written to the sites' logs, from one look to the next."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._sizes: dict[str, int] = {}

    def grown(self) -> dict[Slug, str]:
        """Return what was written since the last call, of much the end. The first call returns all that is there."""
        sizes: dict[str, int] = {}
        with contextlib.suppress(FileNotFoundError), os.scandir(self._layout.site_logs) as logs:
            for entry in logs:
                with contextlib.suppress(FileNotFoundError):
                    if entry.name.endswith(".log"):
                        sizes[entry.name] = entry.stat(follow_symlinks=False).st_size
        before, self._sizes = self._sizes, sizes
        grown = {name: before.get(name, 0) for name, size in sizes.items() if size != before.get(name)}
        return {Slug(name[:-4]): read_tail(self._layout.site_logs / name, grown[name], NEW_BYTES) for name in grown}

    def tail(self, slug: Slug) -> str:
        """Return the end of one log."""
        return read_tail(self._layout.log(slug), 0, TAIL_BYTES)


def read_tail(path: Path, start: int, limit_bytes: int) -> str:
    """Return what a log has from `start` on, the last `limit_bytes` at most; nothing of one that cannot be read.

    A log that is shorter than `start` was cut since: then all of it counts.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return ""
    with os.fdopen(descriptor, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(max(start if start <= size else 0, size - limit_bytes))
        return file.read(limit_bytes).decode(errors="replace").replace("\0", "")


def _keep_older(path: Path, content: bytes, gid: int) -> None:
    write_file(path, content, mode=_LOG_MODE)
    if os.geteuid() == 0:
        os.chown(path, 0, gid, follow_symlinks=False)  # control may show it; the site has no use for it
