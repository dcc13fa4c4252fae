"""What must be at a path, and how what is there differs. Reads by lstat; contents only where a signature is new.

A signature is what changes whenever somebody touches a file: also an edit that puts the old time back moves the ctime,
which no program can set. A directory's signature moves when an entry comes, goes or is renamed over, so that one lstat
of `run/sites/<slug>` answers for the links in it, and one of `run/hosts` for all of its links.
"""

import os
import stat
import time
from dataclasses import dataclass
from pathlib import Path

from tenantry.spec.names import Slug

# A file changed again within the clock tick in which it was signed has the same signature: one this young is not
# trusted but read again. The kernel's file times advance in steps of up to 10 ms.
SETTLED_NS = 20_000_000

Signature = tuple[int, ...]

_WORDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "link",
    stat.S_IFSOCK: "socket",
    stat.S_IFIFO: "pipe",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
}


@dataclass(frozen=True, slots=True)
class Drift:
    """One difference. `path` is relative to the home; `kind` is what of it differs:

    file, mode, owner, link, directory, socket, vassal, nginx or release.
    """

    slug: Slug | None
    kind: str
    path: str
    detail: str

    def __str__(self) -> str:
        return f"{self.path}: {self.detail}"


@dataclass(frozen=True, slots=True)
class Place:
    """What must be at `path`: `form` is a file type of `stat`. None: any mode, owner or group will do.

    `name` is the planner's word for it, `target` where a link points.
    """

    name: str
    path: str
    form: int
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    target: str | None = None


def sign(path: str) -> Signature | None:
    """Return the signature of what is at `path` itself, None when there is nothing."""
    try:
        state = os.lstat(path)
    except OSError:
        return None
    return (
        state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_mode, state.st_uid, state.st_gid
    )  # fmt: skip


def sign_shell(path: str) -> Signature | None:
    """Return the signature of something whose content changes all the time: a tenant's directory, a log."""
    try:
        state = os.lstat(path)
    except OSError:
        return None
    return (state.st_mode, state.st_uid, state.st_gid)


def settled(signature: Signature | None, now_ns: int) -> bool:
    """Whether `signature`, taken at `now_ns`, moves at the next change for certain."""
    return signature is not None and not 0 <= now_ns - signature[3] < SETTLED_NS


def compare(place: Place, home: Path, slug: Slug | None = None) -> Drift | None:
    """Return how what is at the place differs from what must be there; None when it does not."""
    path = os.path.relpath(place.path, home)
    word = _WORDS[place.form]
    try:
        state = os.lstat(place.path)
    except OSError:
        return Drift(slug, word, path, "is gone")
    if stat.S_IFMT(state.st_mode) != place.form:
        return Drift(slug, word, path, f"is a {describe(state.st_mode)} instead of a {word}")
    if place.target is not None:
        target = os.readlink(place.path)  # noqa: PTH115  (Path.readlink would normalise the target)
        if target != place.target:
            return Drift(slug, "link", path, f"points to {target!r:.200} instead of {place.target!r}")
        return None
    owner = (place.uid, place.gid)
    found = (state.st_uid, state.st_gid)
    if any(wanted is not None and wanted != has for wanted, has in zip(owner, found, strict=True)):
        return Drift(slug, "owner", path, f"belongs to {_pair(found)} instead of {_pair(owner)}")
    if place.mode is not None and stat.S_IMODE(state.st_mode) != place.mode:
        return Drift(slug, "mode", path, f"has mode {stat.S_IMODE(state.st_mode):04o} instead of {place.mode:04o}")
    return None


def describe(mode: int) -> str:
    """Return the word for a file type."""
    return _WORDS.get(stat.S_IFMT(mode), "special file")


def _pair(owner: tuple[int | None, int | None]) -> str:
    return ":".join("any" if part is None else str(part) for part in owner)


class Watched:
    """A directory's list of entries, known to be current while the directory's signature is the same."""

    def __init__(self, directory: Path) -> None:
        self._directory = str(directory)
        self._signature: Signature | None = None

    def moved(self) -> bool:
        """Whether the entries have to be read (again); afterwards they are taken for read."""
        now = time.time_ns()
        found = sign(self._directory)
        if found is not None and found == self._signature:
            return False
        self._signature = found if settled(found, now) else None
        return True
