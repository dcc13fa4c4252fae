"""Files and links: whole or not at all."""

import contextlib
import os
from pathlib import Path

_TEMPORARY = ".new"  # the emperor and nginx read no file with this ending


def write_file(path: Path, content: bytes, *, mode: int = 0o644, durable: bool = False) -> bool:
    """Put `content` at `path` by rename, unless it is there already. Returns whether something was written.

    Readers see the old file or the new one, never a part, also after kill -9 and on a full disk. `durable` waits
    until the disk has it; without it a power failure may leave an empty file behind.
    """
    if _reads(path, content, mode):
        return False
    staged = path.with_name(f".{path.name}.{os.getpid()}{_TEMPORARY}")
    descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        staged.rename(path)
    except BaseException:
        with contextlib.suppress(OSError):
            staged.unlink()
        raise
    if durable:
        sync(path.parent)
    return True


def sync(path: Path) -> None:
    """Wait until the disk has what was written to the file or directory `path`; a path that is gone is fine."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def set_link(path: Path, target: str) -> None:
    """Make `path` a link to `target` by rename: at no moment is there nothing."""
    staged = path.with_name(f".{path.name}.{os.getpid()}{_TEMPORARY}")
    with contextlib.suppress(FileNotFoundError):
        staged.unlink()
    staged.symlink_to(target)
    staged.rename(path)


def read_link(path: Path) -> str | None:
    """Return where the link at `path` points, or None when there is none."""
    try:
        return os.readlink(path)  # noqa: PTH115  (Path.readlink would normalise the target)
    except OSError:
        return None


def remove(path: Path) -> None:
    """Remove the file or link at `path`; one that is gone is fine."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()


def make_directory(path: Path, mode: int, uid: int | None = None, gid: int | None = None) -> None:
    """Make `path` a directory with exactly this mode and owner, below a directory only the agent can write.

    A link in its place is refused (`NotADirectoryError`), so what is changed is what is named.
    """
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        state = os.fstat(descriptor)
        wanted = (state.st_uid if uid is None else uid, state.st_gid if gid is None else gid)
        if (state.st_uid, state.st_gid) != wanted:
            os.fchown(descriptor, *wanted)
        if state.st_mode & 0o7777 != mode:
            os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)


def remove_stale(directory: Path) -> None:
    """Remove what an interrupted write left in `directory`."""
    for entry in directory.iterdir():
        if entry.name.startswith(".") and entry.name.endswith(_TEMPORARY):
            remove(entry)


def _reads(path: Path, content: bytes, mode: int) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    with os.fdopen(descriptor, "rb") as file:
        state = os.fstat(file.fileno())
        return state.st_size == len(content) and state.st_mode & 0o7777 == mode and file.read() == content
