"""Unpack an artifact: exactly what a release may hold, as the build left it, and nothing outside of its directory.

The archive was verified, and still is not trusted: a project's own code had a hand in what a build leaves.
"""

import contextlib
import os
import shutil
import stat
import tarfile
import threading
import zlib
from dataclasses import dataclass, field
from pathlib import Path

from tenantry.node.errors import NotReady, Transient

HEADER_DIRECTORY, HEADER_BYTES, HEADER_ENTRIES = "TENANTRY.directory", "TENANTRY.bytes", "TENANTRY.entries"
RELEASE_MODE = 0o751  # of its directory: passed by all, for nginx comes to the static files; listed by its project
RESERVE_BYTES = 64 << 20  # that unpacking leaves free: sites write logs and uploads on the same disk
GROWTH = 6  # unpacked and packed together, over packed: measured at 5.2; known exactly once the archive is here
_CONTENT = frozenset({"release.json", "src", "static", "venv"})
_OPEN = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(slots=True)
class Tree:
    """What was unpacked below `root`: paths relative to it. `built_in` is where the build had it, "" when unknown."""

    root: Path
    built_in: str = ""
    directories: dict[str, int] = field(default_factory=dict)  # with their modes
    files: list[str] = field(default_factory=list)


def check_space(directory: Path, needed: int, entries: int = 0) -> None:
    """`Transient` when the file system of `directory` has less than `needed` bytes, or `entries` files, to spare."""
    system = os.statvfs(directory)
    free = system.f_bavail * system.f_frsize
    if free < needed + RESERVE_BYTES:
        raise Transient(
            f"the disk of {directory} has {free >> 20} MiB free, and the release needs {(needed + RESERVE_BYTES) >> 20}"
            " MiB with what is left for the sites; make room, the agent tries again"
        )
    if system.f_files and system.f_favail < entries:
        raise Transient(f"the disk of {directory} has inodes for {system.f_favail} files; the release has {entries}")


def unpack(archive: Path, root: Path, owner: int | None, stopping: threading.Event) -> Tree:
    """Unpack `archive` into the new directory `root`, all of it owned by `owner` (a uid and gid) as a build leaves it.

    `NotReady` for an archive with a member that no release has; `Transient` when it cannot be read or the disk is too
    small. What was unpacked until then stays: the caller removes it.
    """
    root.mkdir(mode=0o700)
    tree = Tree(root)
    try:
        with tarfile.open(archive, "r|gz", bufsize=1 << 18) as tar:
            for member in tar:
                if not tree.directories and not tree.files:
                    _read_header(tar, tree)
                if stopping.is_set():
                    raise Transient("the agent ends while a release is unpacked")
                _check_member(member, tree)
                _unpack_member(tar, member, tree, owner)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise Transient(f"the artifact cannot be unpacked: {error}") from error
    _check_whole(tree)
    return tree


def finish_modes(tree: Tree, owner: int | None) -> None:
    """Give the directories, which were the agent's alone until now, the modes of the build; the root's last."""
    for name, mode in sorted(tree.directories.items(), reverse=True):
        path = tree.root / name
        if owner is not None:
            os.chown(path, owner, owner, follow_symlinks=False)
        path.chmod(mode)
    if owner is not None:
        os.chown(tree.root, -1, owner, follow_symlinks=False)
    tree.root.chmod(RELEASE_MODE)


def _read_header(tar: tarfile.TarFile, tree: Tree) -> None:
    header = tar.pax_headers
    tree.built_in = header.get(HEADER_DIRECTORY, "")
    with contextlib.suppress(ValueError):
        check_space(tree.root, int(header.get(HEADER_BYTES, "0")), int(header.get(HEADER_ENTRIES, "0")))


def _check_member(member: tarfile.TarInfo, tree: Tree) -> None:
    """Every name is new, below a directory that this archive brought, and is a file, a directory or a link."""
    name = member.name
    parts = name.split("/")
    parent = name.rpartition("/")[0]
    if name.startswith("/") or "\0" in name or not all(part not in ("", ".", "..") for part in parts):
        raise _refused(member, "its path leads out of the release")
    if parts[0] not in _CONTENT:
        raise _refused(member, "a release has no such part")
    if not (member.isreg() or member.isdir() or member.issym()):
        raise _refused(member, "it is neither a file, a directory nor a symbolic link")
    if member.mode & ~0o777:
        raise _refused(member, "its mode gives rights (setuid, setgid, sticky)")
    if parent and parent not in tree.directories:
        raise _refused(member, "it lies below something that is no directory of the release")


def _refused(member: tarfile.TarInfo, reason: str) -> NotReady:
    return NotReady(f"the artifact is refused: {member.name[:200]!r}: {reason}. Build the release again")


def _unpack_member(tar: tarfile.TarFile, member: tarfile.TarInfo, tree: Tree, owner: int | None) -> None:
    path = tree.root / member.name
    try:
        if member.isdir():
            path.mkdir(mode=0o700)
            tree.directories[member.name] = member.mode
        elif member.issym():
            path.symlink_to(member.linkname)
            if owner is not None:
                os.chown(path, owner, owner, follow_symlinks=False)
        else:
            _write_file(tar, member, path, None if member.name == "release.json" else owner)
            tree.files.append(member.name)
    except FileExistsError as error:
        raise _refused(member, "it comes twice") from error


def _write_file(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path, owner: int | None) -> None:
    source = tar.extractfile(member)
    if source is None:
        raise _refused(member, "it has no content")
    with os.fdopen(os.open(path, _OPEN, 0o600), "wb") as file:
        shutil.copyfileobj(source, file, 1 << 18)
        if owner is not None:
            os.fchown(file.fileno(), owner, owner)
        os.fchmod(file.fileno(), member.mode)
        file.flush()
        os.utime(file.fileno(), (member.mtime, member.mtime))  # nginx makes the ETags of static files of it


def _check_whole(tree: Tree) -> None:
    missing = {"src", "venv", "venv/bin"} - tree.directories.keys()
    if missing or "release.json" not in tree.files:
        raise NotReady(f"the artifact is refused: it lacks {', '.join(sorted(missing)) or 'release.json'}")


def replace_file(tree: Tree, name: str, content: bytes) -> None:
    """Write a regular file of the tree anew, with the owner and the mode that it has."""
    path = tree.root / name
    before = os.lstat(path)
    if not stat.S_ISREG(before.st_mode):
        raise NotReady(f"the artifact is refused: {name} is no file")
    path.unlink()
    with os.fdopen(os.open(path, _OPEN, 0o600), "wb") as file:
        file.write(content)
        os.fchown(file.fileno(), before.st_uid, before.st_gid)
        os.fchmod(file.fileno(), stat.S_IMODE(before.st_mode))
