"""The last copy of a site's data before it is removed: `backups/<slug>-site_<number>-<time>.dump` and `….media.tar`.

Both are 0600. The number tells a site from an earlier one of its slug; no slug has the underscore before it.
"""

import contextlib
import os
import re
import resource
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tenantry.control.data.databases import open_site_database, site_database_exists, site_name
from tenantry.control.data.directories import SiteOwner
from tenantry.control.data.server import TenantServer, random_password

DUMP_SECONDS = 3600  # of one site; a dump that takes longer hangs on a lock or a dead disk
KEPT_FREE_BYTES = 1 << 30  # for the database beside it, whose disk this may be; of a small disk a twentieth
LINE_MAX = 400  # characters of a program's complaint: a path in it may be as long as its tenant likes

_reserving = threading.Lock()
_reserved: dict[object, int] = {}  # bytes of disk, for each file being written by this process, which alone writes them
_PLAIN = {"LANG": "C.UTF-8", "PATH": "/usr/bin:/bin"}


class DumpFailed(Exception):
    """The data could not be copied, so nothing may be dropped. The message says why."""


@dataclass(frozen=True, slots=True)
class DumpRequest:
    """Whose data to copy."""

    home: Path
    slug: str
    number: int
    owner: SiteOwner
    at: datetime


@dataclass(frozen=True, slots=True)
class _Command:
    argv: Sequence[str]
    environment: Mapping[str, str]
    directory: Path
    owner: SiteOwner


def dump_site(server: TenantServer, request: DumpRequest) -> Path | None:
    """Copy the database (pg_dump's custom format) and the media of a site; returns the dump's path.

    The dump appears complete or not at all. When the database is gone already (a repeated job), the dump that was made
    before it was dropped is returned, or None when there was none.
    """
    directory = request.home / "backups"
    directory.mkdir(mode=0o700, exist_ok=True)
    if not site_database_exists(server, request.number):
        return latest_dump(directory, request.slug, request.number)
    target = directory / f"{_stem(request.slug, request.number)}-{request.at.astimezone(UTC):%Y%m%dT%H%M%SZ}.dump"
    media = request.home / "data" / request.slug / "media"
    try:
        if media.is_dir() and not media.is_symlink():
            _archive_media(media, request.owner, target.with_suffix(".media.tar"))
        _dump_database(server, request, target)
    except DumpFailed as error:
        # The job is tried again under another time; the archives of its tries would fill the disk.
        target.with_suffix(".media.tar").unlink(missing_ok=True)
        without = f"«tenantry site delete {request.slug} --no-dump» deletes the site without a dump."
        raise DumpFailed(f"{error} ({without})") from error
    return target


def _archive_media(media: Path, owner: SiteOwner, target: Path) -> None:
    # tar runs as the site: whatever links the directory holds lead only to what the site can read anyway.
    # (Started in the directory: tar's own --directory needs to list it, which a site may not.)
    # What the site has closed to itself it opens first; what is not its own stays closed, and tar names it.
    opening = _Command(["chmod", "--recursive", "--silent", "u+rX", "--", "media"], _PLAIN, media.parent, owner)
    # --sparse: what takes no room here takes none in the archive.
    archiving = _Command(["tar", "--create", "--sparse", "--file=-", "--", "media"], _PLAIN, media.parent, owner)
    with contextlib.suppress(DumpFailed):
        _run(opening, subprocess.DEVNULL)
    _write(archiving, target)


def _dump_database(server: TenantServer, request: DumpRequest, target: Path) -> None:
    # The site's own role makes the dump: a hostile database cannot use the rights of the role that administrates.
    name = site_name(request.number)
    password = random_password()
    open_site_database(server, request.number, password)
    binaries = server.address.binaries
    argv = [str(binaries / "pg_dump") if binaries else "pg_dump", "--format=custom", "--no-password", name]
    environment = _PLAIN | {
        "PGCONNECT_TIMEOUT": "5",
        "PGHOST": server.address.host,
        "PGPASSWORD": password,
        "PGPORT": str(server.address.port),
        "PGUSER": name,
    }
    _write(_Command(argv, environment, Path("/"), SiteOwner(None, None)), target)


def _write(command: "_Command", target: Path) -> None:
    """Run `command` with its output in `target`, readable by the platform alone."""
    partial = target.with_name(f".{target.name}.partial")
    partial.unlink(missing_ok=True)
    with _room(target.parent) as room:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as output:
                _run(command, output.fileno(), room)
                os.fsync(output.fileno())
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def _room(directory: Path) -> Iterator[int]:
    """Reserve half of what the disk can spare, in bytes: the other half is for those who come meanwhile."""
    mine = object()
    with _reserving:
        disk = shutil.disk_usage(directory)
        spare = disk.free - min(KEPT_FREE_BYTES, disk.total // 20) - sum(_reserved.values())
        _reserved[mine] = max(spare, 0) // 2
    try:
        yield _reserved[mine]
    finally:
        with _reserving:
            del _reserved[mine]


def _run(command: "_Command", output: int, room: int | None = None) -> None:
    """Run `command` as its owner, which writes `room` bytes at most; `DumpFailed` with the first error it printed."""
    program = command.argv[0].rpartition("/")[2]
    bounded = []
    if room is not None:
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        size = room if hard == resource.RLIM_INFINITY else min(room, hard)
        bounded = ["prlimit", "--core=0", f"--fsize={size}", "--"]  # what the kernel ends leaves no core with secrets
    try:
        done = subprocess.run(
            [*bounded, *command.argv],
            cwd=command.directory,
            env=dict(command.environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.PIPE,
            timeout=DUMP_SECONDS,
            check=False,
            user=command.owner.uid,
            group=command.owner.own_gid,
            extra_groups=None if command.owner.uid is None else [],
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DumpFailed(f"{program} failed: {error}") from error
    if done.returncode == -signal.SIGXFSZ and room is not None:
        raise DumpFailed(f"{program} needs more room than the disk with the backups can spare, {room >> 20:,} MB")
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip()
        raise DumpFailed(f"{program} failed: {_telling(said) or f'exit code {done.returncode}'}")


def _telling(said: str) -> str:
    """Return the line that names the cause: tar sums up in its last line, and warns before it fails."""
    lines = said.splitlines()
    errors = [line for sign in ("error:", ": Cannot ") for line in lines if sign in line]
    first = next(iter(errors or lines), "")
    return first if len(first) <= LINE_MAX else f"{first[: LINE_MAX // 2]}…{first[-LINE_MAX // 2 :]}"


def latest_dump(directory: Path, slug: str, number: int) -> Path | None:
    """Return the newest finished dump of this site, never one of an earlier site of its slug."""
    pattern = re.compile(re.escape(_stem(slug, number)) + r"-\d{8}T\d{6}Z\.dump")
    return max((path for path in directory.iterdir() if pattern.fullmatch(path.name)), default=None)


def _stem(slug: str, number: int) -> str:
    return f"{slug}-{site_name(number)}"
