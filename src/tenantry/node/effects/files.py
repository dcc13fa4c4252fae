"""Files and links: whole or not at all, also where something else is in their place."""

import contextlib
import os
import shutil
import stat
from pathlib import Path

_TEMPORARY = ".new"  # the emperor and nginx read no file with this ending


def write_file(
    path: Path, content: bytes, *, mode: int = 0o644, durable: bool = False, mtime_ns: int | None = None
) -> bool:
    """Put `content` at `path` by rename, unless it is there already. Returns whether something was written.

    Readers see the old file or the new one, never a part, also after kill -9 and on a full disk. `durable` waits
    until the disk has it; without it a power failure may leave an empty file behind. The right bytes under a wrong
    mode or owner are put right where they are: the file's time stays. `mtime_ns` is the time a written file gets.
    """
    if _reads(path, content, mode):
        return False
    staged = _staged(path)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(staged, flags, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            if mtime_ns is not None:
                os.utime(file.fileno(), ns=(mtime_ns, mtime_ns))
            if durable:
                os.fsync(file.fileno())
        _put(staged, path)
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
    """Make `path` a link to `target` by rename: at no moment is there nothing, unless a directory was in its place."""
    staged = _staged(path)
    staged.symlink_to(target)
    try:
        _put(staged, path)
    except BaseException:
        with contextlib.suppress(OSError):
            staged.unlink()
        raise


def read_link(path: Path) -> str | None:
    """Return where the link at `path` points, or None when there is none."""
    try:
        return os.readlink(path)  # noqa: PTH115  (Path.readlink would normalise the target)
    except OSError:
        return None


def remove(path: Path) -> None:
    """Remove whatever is at `path`, a directory with all it holds, following no link; nothing there is fine.

    A directory is out of the way in one step: it is renamed first.
    """
    try:
        path.unlink()
    except FileNotFoundError:
        return
    except (IsADirectoryError, PermissionError):
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            raise
        aside = _staged(path)
        path.rename(aside)
        shutil.rmtree(aside)


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


def is_directory(path: Path) -> bool:
    """Whether a directory is at `path` itself: a link to one is none."""
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False


def set_aside(path: Path) -> Path | None:
    """Rename what is at `path` unless it is a directory; returns its new place. Nothing of a tenant's is deleted."""
    if is_directory(path) or not os.path.lexists(path):
        return None
    number = 1
    while os.path.lexists(place := path.with_name(f"{path.name}.displaced-{number}")):
        number += 1
    return path.rename(place)


def set_access(path: Path, mode: int, uid: int | None = None, gid: int | None = None) -> None:
    """Give what is at `path` this mode and owner; `OSError` for a link. None: the owner or group stays."""
    # A socket cannot be opened, so this goes by path; its directory is one that only the agent can write.
    state = os.lstat(path)
    if stat.S_ISLNK(state.st_mode):
        raise OSError(f"{path} is a link")
    wanted = (state.st_uid if uid is None else uid, state.st_gid if gid is None else gid)
    if (state.st_uid, state.st_gid) != wanted:
        os.chown(path, *wanted, follow_symlinks=False)
    if stat.S_IMODE(os.lstat(path).st_mode) != mode:  # a change of owner may have taken bits away
        os.chmod(path, mode)  # noqa: PTH101


def is_stale(name: str) -> bool:
    """Whether a file of this name is what an interrupted write left."""
    return name.startswith(".") and name.endswith(_TEMPORARY)


def remove_stale(directory: Path) -> None:
    """Remove what an interrupted write left in `directory`; not what another process is writing there."""
    for entry in directory.iterdir():
        if is_stale(entry.name) and not _is_being_written(entry.name):
            remove(entry)


def _is_being_written(name: str) -> bool:
    """Whether the process that a staged name names lives and is another one."""
    number = name.removesuffix(_TEMPORARY).rpartition(".")[2]
    return number.isdecimal() and int(number) != os.getpid() and Path("/proc", number).exists()


def _staged(path: Path) -> Path:
    """Return a free name beside `path`: what a killed process with this id left there is removed."""
    staged = path.with_name(f".{path.name}.{os.getpid()}{_TEMPORARY}")
    if os.path.lexists(staged):
        if is_directory(staged):
            shutil.rmtree(staged)
        else:
            staged.unlink()
    return staged


def _put(staged: Path, path: Path) -> None:
    """Rename `staged` over what is at `path`; a directory there is removed first, since none can be renamed over."""
    try:
        staged.rename(path)
    except IsADirectoryError:
        aside = path.with_name(f".{path.name}.{os.getpid()}.old{_TEMPORARY}")
        if os.path.lexists(aside):
            shutil.rmtree(aside)
        path.rename(aside)
        staged.rename(path)
        shutil.rmtree(aside)


def _reads(path: Path, content: bytes, mode: int) -> bool:
    """Whether `content` is there, as the agent's own file; if so its mode and owner are right afterwards."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        state = os.fstat(descriptor)
        # More than one name: it could be written to under the other.
        if not stat.S_ISREG(state.st_mode) or state.st_size != len(content) or state.st_nlink != 1:
            return False
        if _read_all(descriptor, len(content)) != content:
            return False
        own = (os.geteuid(), os.getegid())
        if (state.st_uid, state.st_gid) != own:
            os.fchown(descriptor, *own)
        if stat.S_IMODE(os.fstat(descriptor).st_mode) != mode:
            os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)
    return True


def _read_all(descriptor: int, size: int) -> bytes:
    chunks = []
    while chunk := os.read(descriptor, size + 1):
        chunks.append(chunk)
    return b"".join(chunks)
