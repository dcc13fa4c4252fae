"""Step freeze: permissions, digest and `release.json`, after which a release is never written to again."""

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from tenantry.control.releases.building.commands import Owner
from tenantry.control.releases.building.context import BuildResult, StepFailed
from tenantry.spec.digests import DIGESTED, is_bytecode, release_digest

MARKER = "release.json"


def own_tree(root: Path, owner: Owner) -> None:
    """Give everything below and including `root` to `owner`. Only for trees that no other process writes to."""
    if owner.uid is None or owner.gid is None:
        return
    os.chown(root, owner.uid, owner.gid, follow_symlinks=False)
    for directory, directories, files in os.walk(root):
        for name in directories + files:
            os.chown(f"{directory}/{name}", owner.uid, owner.gid, follow_symlinks=False)


def set_permissions(release: Path, static: str | None) -> None:
    """src and venv: for the project's group only. The static files, and the way to them: for everybody.

    The project's processes are gone when this runs; still nothing is opened through a link.
    """
    release.chmod(0o751)
    for name in ("src", "venv"):
        for path, mode in _entries(release / name):
            _restrict(path, mode)
    if static is None:
        return
    root = release / static
    for path, mode in _entries(root):
        if stat.S_ISDIR(mode):
            _chmod(path, 0o755)
        elif stat.S_ISREG(mode):
            _chmod(path, 0o644)
    for parent in root.parents:
        if parent == release:
            break
        _chmod(str(parent), 0o751)  # may be passed, not listed: what it holds stays closed


def _entries(root: Path) -> Iterator[tuple[str, int]]:
    """`root` and everything below it with its mode, links as themselves."""
    mode = os.lstat(root).st_mode
    yield str(root), mode
    if not stat.S_ISDIR(mode):
        return
    pending = [str(root)]
    while pending:
        with os.scandir(pending.pop()) as found:
            for entry in found:
                mode = entry.stat(follow_symlinks=False).st_mode
                if stat.S_ISDIR(mode):
                    pending.append(entry.path)
                yield entry.path, mode


def _restrict(path: str, mode: int) -> None:
    if stat.S_ISDIR(mode) or (stat.S_ISREG(mode) and mode & 0o100):
        _chmod(path, 0o750)
    elif stat.S_ISREG(mode):
        _chmod(path, 0o640)


def _chmod(path: str, mode: int) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if stat.S_IMODE(os.fstat(descriptor).st_mode) != mode:
            os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)


def digest_of(release: Path) -> str:
    """Return the digest of what is in `release` (`spec.digests`)."""
    return release_digest(
        (os.path.relpath(path, release), mode, _content(path, mode))
        for name in DIGESTED
        for path, mode in _entries(release / name)
        if not is_bytecode(path)  # not even read
    )


def _content(path: str, mode: int) -> str:
    if stat.S_ISLNK(mode):
        return os.readlink(path)  # noqa: PTH115 - strings throughout
    if not stat.S_ISREG(mode):
        return ""
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:  # noqa: PTH123 - a descriptor
        return hashlib.file_digest(file, "sha256").hexdigest()


def refuse_special_files(release: Path) -> None:
    """Raise `StepFailed` when the build left a device, a pipe or a socket: a release is files only."""
    for name in DIGESTED:
        for path, mode in _entries(release / name):
            if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
                raise StepFailed(f"{os.path.relpath(path, release)} is neither a file, a directory nor a link.")


def refuse_moved_static(release: Path, static: str | None) -> None:
    """Raise `StepFailed` when the way to the static files leads over a link.

    nginx follows the way to them and serves what it finds to everybody: the project's code may have put a link to
    another site's files there after `collectstatic`.
    """
    if static is not None and os.path.realpath(release / static) != f"{os.path.realpath(release)}/{static}":
        raise StepFailed(f"{static} became a link during the build; static files are served from a directory only.")


def write_marker(release: Path, result: BuildResult) -> None:
    """Write `release.json`, atomically and last: a directory without it is half-made.

    It is part of the artifact, which therefore it cannot name.
    """
    facts = {name: value for name, value in asdict(result).items() if not name.startswith("artifact")}
    partial = release / f".{MARKER}.partial"
    with partial.open("w") as file:
        json.dump(facts, file, indent=1, sort_keys=True)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    partial.chmod(0o644)
    partial.rename(release / MARKER)
