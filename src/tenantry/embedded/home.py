"""The home directory: where everything is, and whether it can be used. Standard library only."""

import os
import pwd
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from tenantry.embedded.errors import HomeUnusable
from tenantry.embedded.files import make_directory
from tenantry.spec.users import control_uid, redis_uid

# A unix socket's path ends at 107 bytes; the longest of ours is <home>/run/sites/<slug of 40>/<generation>.sock.
MAX_PATH_BYTES = 46
# PostgreSQL's WAL, two virtualenvs and the demo's databases take about 500 MB.
MIN_FREE_BYTES_FIRST = 700 * 1024 * 1024
MIN_FREE_BYTES = 100 * 1024 * 1024
MIN_FREE_INODES = 20_000
_PATH = re.compile(r"(?:/[A-Za-z0-9][A-Za-z0-9._-]*|/\.[A-Za-z0-9_][A-Za-z0-9._-]*)+\Z")
# What `bin/up` puts into a home before the platform has written its configuration.
_OURS_EARLY = {
    *("venv", "cache", "bootstrap", "lock", "etc", "run", "logs", "secrets", "postgres", "redis", "state"),
    "artifacts",
}


@dataclass(frozen=True, slots=True)
class Home:
    """Paths inside one home. `root` is a real path: no link, no relative part."""

    root: Path

    @property
    def config(self) -> Path:
        """What was chosen at the first up."""
        return self.root / "config.json"

    @property
    def client(self) -> Path:
        """The CLI's URL and token."""
        return self.root / "client.json"

    @property
    def lock(self) -> Path:
        """Held while a platform is being started or stopped."""
        return self.root / "lock"

    @property
    def secrets(self) -> Path:
        """One file for each reader, 0600."""
        return self.root / "secrets"

    @property
    def etc(self) -> Path:
        """Generated configuration of the servers."""
        return self.root / "etc"

    @property
    def logs(self) -> Path:
        """One log for each process."""
        return self.root / "logs"

    @property
    def run(self) -> Path:
        """Sockets, pid files and the routing table."""
        return self.root / "run"

    @property
    def venv(self) -> Path:
        """The platform's own virtualenv."""
        return self.root / "venv"

    @property
    def python(self) -> Path:
        """The virtualenv's interpreter."""
        return self.venv / "bin" / "python"

    @property
    def command(self) -> Path:
        """The `tenantry` command."""
        return self.venv / "bin" / "tenantry"

    @property
    def stamp(self) -> Path:
        """What the virtualenv was made from; absent while it is being changed."""
        return self.venv / "tenantry-stamp.json"

    @property
    def wheels(self) -> Path:
        """The django-tenantry wheel that releases install."""
        return self.root / "cache" / "wheels"

    @property
    def artifacts(self) -> Path:
        """The artifact store of the cluster: packed releases, named by their digest."""
        return self.root / "artifacts"

    @property
    def authority(self) -> Path:
        """The certificate of the cluster's authority, for everybody to read: sites check servers with it."""
        return self.etc / "ca.pem"

    @property
    def supervisor_socket(self) -> Path:
        """supervisord's XML-RPC."""
        return self.run / "supervisor.sock"

    @property
    def admin_password(self) -> Path:
        """The first administrator's password, in a file only its owner reads."""
        return self.secrets / "admin-password"

    def log(self, component: str) -> Path:
        """Return the log of a component."""
        return self.logs / f"{component}.log"


def check_home(path: Path) -> Home:
    """Return `path` as a home; `HomeUnusable` says why it cannot be one. Makes nothing."""
    root = path.expanduser().resolve()
    length = len(os.fsencode(root))
    if length > MAX_PATH_BYTES:
        raise HomeUnusable(
            f"The home {root} is {length} bytes long; sockets inside it need at most {MAX_PATH_BYTES}. "
            "Choose a shorter one with --home."
        )
    _check_characters(root)
    _check_reachable(root)
    if root.is_dir():
        _check_owner(root)
        _check_content(root)
    else:
        _check_parent(root)
    _check_space(root)
    return Home(root)


def create_home(home: Home) -> None:
    """Make the home's directory and what leads to it."""
    try:
        home.root.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise HomeUnusable(_cannot_be_made(home.root, error.strerror or str(error))) from error


def make_layout(home: Home, uid_base: int | None) -> None:
    """Create the directories of a platform. The node and the jobs worker make their own."""
    make_node_layout(home, uid_base)
    make_directory(home.root / "postgres", 0o755)
    redis = None if uid_base is None else (redis_uid(uid_base), redis_uid(uid_base))
    make_directory(home.root / "redis", 0o755, redis)
    make_directory(home.root / "redis" / "data", 0o700, redis)
    # Releases may hold a project's secrets: the jobs worker writes them, control hands them to nodes.
    make_directory(home.artifacts, 0o750, _control_reads(uid_base))


def make_node_layout(home: Home, uid_base: int | None) -> None:
    """Create the directories that every home has, a platform's and a node's."""
    create_home(home)
    make_directory(home.root, 0o755)
    for path in (home.etc, home.root / "cache", home.wheels):
        make_directory(path, 0o755)
    # The access log has every site's URLs in it: for control to show, for no site to read.
    make_directory(home.logs, 0o750, _control_reads(uid_base))
    # Others may pass through to the one file they own, and see no list of names.
    make_directory(home.secrets, 0o711)
    home.run.mkdir(mode=0o755, exist_ok=True)
    (home.logs / "builds").mkdir(mode=0o755, exist_ok=True)


def _control_reads(uid_base: int | None) -> tuple[int, int] | None:
    return None if uid_base is None else (0, control_uid(uid_base))


def _check_characters(root: Path) -> None:
    # The path is written into nginx, supervisor, uWSGI and PostgreSQL files, which have no common way to quote.
    if not _PATH.match(str(root)):
        raise HomeUnusable(
            f"The home {str(root)!r} has a character that servers' configuration files cannot hold. "
            "Use directories named with letters, digits, dots, dashes and underscores (--home)."
        )


def _check_parent(root: Path) -> None:
    """Whether a directory can be made where there is none."""
    if root.exists():
        raise HomeUnusable(_cannot_be_made(root, "there is a file of that name"))
    parent = _nearest(root)
    if not parent.is_dir():
        raise HomeUnusable(_cannot_be_made(root, f"{parent} is not a directory"))
    if not os.access(parent, os.W_OK | os.X_OK, effective_ids=True):
        raise HomeUnusable(_cannot_be_made(root, f"{parent} is not writable for {_user_name(os.geteuid())}"))


def _cannot_be_made(root: Path, reason: str) -> str:
    return f"The home {root} cannot be made: {reason}. Choose a directory you may write with --home."


def _nearest(root: Path) -> Path:
    """Return the nearest thing that exists on the way to `root`."""
    return next(path for path in (root, *root.parents) if path.exists())


def _check_owner(root: Path) -> None:
    config = root / "config.json"
    owner = (config if config.exists() else root).stat().st_uid
    me = os.geteuid()
    if config.exists() and owner != me:
        raise HomeUnusable(
            f"The home {root} was made by {_user_name(owner)}. Run this as that user, or choose another --home."
        )
    if not os.access(root, os.W_OK | os.X_OK, effective_ids=True):
        raise HomeUnusable(
            f"The home {root} is not writable for {_user_name(me)}. Choose another with --home, or change its owner."
        )


def _check_reachable(root: Path) -> None:
    """As root, control, PostgreSQL and the sites run as other users: they must be able to reach the home."""
    if os.geteuid() != 0:
        return
    for parent in root.parents:
        if parent.is_dir() and not parent.stat().st_mode & stat.S_IXOTH:
            raise HomeUnusable(
                f"The home {root} lies in {parent}, which other users may not enter, and the platform's servers run "
                f"as users of their own. Choose another --home, or run: chmod o+x {parent}"
            )


def _check_content(root: Path) -> None:
    if (root / "config.json").exists():
        return
    foreign = sorted(entry.name for entry in root.iterdir() if entry.name not in _OURS_EARLY)
    if foreign:
        raise HomeUnusable(
            f"The directory {root} holds other things ({', '.join(foreign[:3])}{', …' if len(foreign) > 3 else ''}). "
            "Choose a new or empty directory with --home."
        )


def _check_space(root: Path) -> None:
    wanted = MIN_FREE_BYTES if (root / "config.json").exists() else MIN_FREE_BYTES_FIRST
    space = os.statvfs(_nearest(root))
    free = space.f_bavail * space.f_frsize
    if free < wanted:
        raise HomeUnusable(
            f"The disk of {root} has {free // 2**20} MB free; {wanted // 2**20} MB are needed. "
            "Make room, or choose a home on another disk with --home."
        )
    # Some file systems (btrfs) count no inodes and say 0 of 0.
    if space.f_files and space.f_favail < MIN_FREE_INODES:
        raise HomeUnusable(
            f"The disk of {root} has room for only {space.f_favail} more files; {MIN_FREE_INODES} are needed. "
            "Remove some, or choose a home on another disk with --home."
        )


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
