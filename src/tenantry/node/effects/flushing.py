"""What was renamed into place reaches the disk a moment later, many at a time, and nobody waits for it.

For what a check makes anew when a power failure took it: flags, links, hashes. A visitor sees a flag with the rename;
waiting for the disk first would take a mode 2 to 50 ms, and a thousand hostnames as many waits.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from tenantry.node.effects.exchange import sync_file_system
from tenantry.node.effects.files import sync

logger = logging.getLogger(__name__)

COALESCE_SECONDS = 0.1
ALONE_MAX = 32  # paths; more are waited for in one go, with whatever else the file system has to write


class Flusher:
    """Brings noted paths to the disk while `run` runs. An error is logged and the paths are tried with the next."""

    def __init__(self, directory: Path) -> None:
        """`directory` is one of the file system that all paths are on."""
        self._directory = directory
        self._paths: set[Path] = set()
        self._trees: set[Path] = set()
        self._noted = asyncio.Event()

    def note(self, path: Path) -> None:
        """`path` was put in its place or removed, or is a directory with other entries than before."""
        self._paths.add(path)
        self._noted.set()

    def note_files(self, directory: Path) -> None:
        """Anything in `directory` may be another than before."""
        self._trees.add(directory)
        self._noted.set()

    async def run(self) -> None:
        while True:
            await self._noted.wait()
            await asyncio.sleep(COALESCE_SECONDS)
            self._noted.clear()
            await asyncio.to_thread(self.flush)

    def flush(self) -> None:
        """Wait until the disk has what was noted so far."""
        paths, self._paths = self._paths, set()
        trees, self._trees = self._trees, set()
        try:
            if len(paths) + len(trees) > ALONE_MAX:
                sync_file_system(self._directory)
            else:
                _sync(paths | {path for tree in trees for path in _files(tree)})
        except OSError as error:
            logger.warning("not on the disk yet: %s: %s", error.filename or self._directory, error.strerror)
            self._paths |= paths
            self._trees |= trees


def _files(directory: Path) -> Iterator[Path]:
    """Yield the directory and the plain files in it; one that is gone meanwhile has none."""
    yield directory
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(directory) as entries:
        yield from (Path(entry.path) for entry in entries if entry.is_file(follow_symlinks=False))


def _sync(paths: set[Path]) -> None:
    """Contents first: a name on the disk without its content would be an empty file."""
    directories = {path if path.is_dir() else path.parent for path in paths}
    for path in sorted(paths - directories):
        sync(path)
    for directory in sorted(directories):
        sync(directory)
