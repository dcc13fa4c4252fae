"""`data/<slug>`: what a site may write, and who owns it.

`data/` and `data/<slug>` belong to the platform, so that no site can replace a directory by a link; only what is
inside (`media`, `home`, `tmp`) is the site's.
"""

import contextlib
import grp
import os
from dataclasses import dataclass
from pathlib import Path

from tenantry.removal import remove_tree
from tenantry.spec.users import site_uid

WEB_GROUPS = ("www-data", "nginx")  # Debian's, others'


@dataclass(frozen=True, slots=True)
class SiteOwner:
    """The ids of a site. None: the platform runs as an ordinary user, and so do its sites."""

    uid: int | None
    media_gid: int | None

    @property
    def own_gid(self) -> int | None:
        return self.uid


def site_owner(uid_base: int | None, number: int) -> SiteOwner:
    """Return who owns the data of site `number`: its own uid and gid; the group of its media is the web server's.

    `UserIdsExhausted` when the home's range has no user id for that number.
    """
    if uid_base is None:
        return SiteOwner(None, None)
    uid = site_uid(uid_base, number)
    return SiteOwner(uid, web_group(uid))


def web_group(default: int) -> int:
    """Return the id of the group that the web server runs in."""
    for name in WEB_GROUPS:
        with contextlib.suppress(KeyError):
            return grp.getgrnam(name).gr_gid
    return default


def make_site_directories(home: Path, slug: str, owner: SiteOwner) -> None:
    """Make `data/<slug>` with `media` (2750, readable by the web server), `home` and `tmp` (0700).

    What a former site of the same slug left is moved to `data/.removed-…` and deleted.
    """
    base = home / "data"
    base.mkdir(mode=0o711, exist_ok=True)
    base.chmod(0o711)
    directory = base / slug
    if _belongs_to_another(directory, owner):
        remove_site_directories(home, slug)
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=0o711)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        os.fchmod(descriptor, 0o711)
        _make(descriptor, "media", 0o2750, owner.uid, owner.media_gid)
        _make(descriptor, "home", 0o700, owner.uid, owner.own_gid)
        _make(descriptor, "tmp", 0o700, owner.uid, owner.own_gid)
    finally:
        os.close(descriptor)


def _belongs_to_another(directory: Path, owner: SiteOwner) -> bool:
    try:
        found = os.stat(directory / "media", follow_symlinks=False)  # noqa: PTH116
    except OSError:
        return False
    # 0: an earlier attempt was interrupted between mkdir and chown.
    return owner.uid is not None and found.st_uid not in (owner.uid, 0)


def _make(parent: int, name: str, mode: int, uid: int | None, gid: int | None) -> None:
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=parent)
    child = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    try:
        if uid is not None and gid is not None:
            os.fchown(child, uid, gid)
        os.fchmod(child, mode)  # after the chown, which clears set-group-id
    finally:
        os.close(child)


def remove_site_directories(home: Path, slug: str) -> None:
    """Delete `data/<slug>` and all in it, however deep; links are removed, never followed."""
    base = home / "data"
    grave = base / f".removed-{slug}"
    for directory in (grave, base / slug, grave):
        if directory != grave and directory.is_symlink():
            directory.unlink()
        elif directory != grave:
            # Gone at once for the rest of the platform, however long the deletion takes.
            with contextlib.suppress(FileNotFoundError):
                directory.rename(grave)
        else:
            remove_tree(grave)


def remove_site_logs(home: Path, slug: str) -> None:
    """Delete what the site's processes and migrations wrote: the log is given to whoever has the slug next."""
    logs = home / "logs" / "sites"
    for name in (f"{slug}.log", f"{slug}.log.1", f"{slug}.migrate.log"):
        (logs / name).unlink(missing_ok=True)
