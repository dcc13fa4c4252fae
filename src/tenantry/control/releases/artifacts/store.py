"""Where artifacts are kept: the interface, and the directory that is the default."""

import os
from pathlib import Path
from typing import Protocol

from tenantry.control.releases.artifacts.packing import Packed

ENDING = ".tar.gz"


class StoreError(Exception):
    """The store did not do its part. The message is for a person: what was asked of which store, what it said."""


class ArtifactMissing(StoreError):
    """The store does not have the artifact."""


class ArtifactStore(Protocol):
    """Keeps artifacts by their digest (64 hexadecimal digits). What it has once is never changed.

    `staging` is a directory of this machine for files that are not finished. Failures are `StoreError` or `OSError`.
    """

    @property
    def staging(self) -> Path: ...

    def prepare(self) -> None:
        """Make the directories that `put` needs."""

    def put(self, staged: Path, packed: Packed) -> None:
        """Keep the finished file `staged`, which may be moved. Again is no error."""

    def locate(self, digest: str) -> Path | str:
        """Return the artifact's file, or an address that hands it out for a few minutes; `ArtifactMissing`."""

    def remove(self, digest: str) -> None:
        """Forget an artifact; one that is not there is fine."""


class DirectoryStore:
    """Artifacts as files `<digest>.tar.gz` of a directory, for its owner and `group` (control's) only."""

    def __init__(self, directory: Path, group: int | None = None) -> None:
        self._directory = directory
        self._group = group

    @property
    def staging(self) -> Path:
        return self._directory

    def prepare(self) -> None:
        make_private_directory(self._directory, self._group)

    def put(self, staged: Path, packed: Packed) -> None:
        if self._group is not None:
            os.chown(staged, -1, self._group, follow_symlinks=False)
        staged.chmod(0o640)
        staged.rename(self._path(packed.digest))
        _sync_directory(self._directory)

    def locate(self, digest: str) -> Path:
        path = self._path(digest)
        if not path.is_file():
            raise ArtifactMissing(f"{path} is missing. Restore it from a backup, or build the release again.")
        return path

    def remove(self, digest: str) -> None:
        self._path(digest).unlink(missing_ok=True)

    def _path(self, digest: str) -> Path:
        return self._directory / f"{digest}{ENDING}"


def make_private_directory(directory: Path, group: int | None) -> None:
    """Make `directory`, which its owner may write and `group` may read; others see nothing of it."""
    directory.mkdir(mode=0o750, parents=True, exist_ok=True)
    if group is not None and directory.stat().st_gid != group:
        os.chown(directory, -1, group)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
