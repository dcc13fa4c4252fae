"""Which processes of this machine belong to a home, as /proc tells it.

What supervisord keeps is asked of supervisord. This module is for the case that supervisord is gone and left orphans: a
process is ended only when it proves to be ours, by one of

- the mark that supervisord's environment gave it (servers that rewrite their title, nginx and PostgreSQL, lose it);
- a user id of the home's own range (of a cluster's: together with a file, a directory or an argument inside the home);
- the session that our supervisord began, together with a file, a directory or an argument inside the home;
- being a PostgreSQL process that works in the home's cluster;
- a command line that runs one of the home's vassals.

A process with a terminal is a person's, and never ours; nor is one in a container whose home has the same path.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tenantry.embedded.config import Config
from tenantry.embedded.files import read_json, write_json
from tenantry.embedded.home import Home
from tenantry.spec.users import range_size

MARK = "TENANTRY_SUPERVISED"


@dataclass(frozen=True, slots=True)
class Process:
    """One line of /proc. `started` is in clock ticks since the boot: with the pid it names a process for ever."""

    pid: int
    parent: int
    session: int
    terminal: int
    started: int
    state: str


def read_process(pid: int) -> Process | None:
    """Return the process, None when it is gone or only waits to be reaped."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name in brackets may hold anything, so what follows the last bracket counts.
    fields = text.rpartition(")")[2].split()
    if fields[0] in "ZX":
        return None
    return Process(pid, int(fields[1]), int(fields[3]), int(fields[4]), int(fields[19]), fields[0])


def record_supervisor(home: Home, pid: int) -> None:
    """Keep which process our supervisord is, across a `kill -9` and against a reused pid."""
    process = read_process(pid)
    if process:
        write_json(_record(home), {"pid": pid, "started": process.started, "boot": _boot()}, 0o600)


def forget_supervisor(home: Home) -> None:
    """Everything has ended: the next up finds no trace."""
    _record(home).unlink(missing_ok=True)


def find_supervisor(home: Home) -> int | None:
    """Return the pid of the home's supervisord when it lives, None otherwise."""
    record = read_json(_record(home)) or {}
    if record.get("boot") != _boot():
        return None
    process = read_process(int(record["pid"]))
    return process.pid if process and process.started == record["started"] else None


def find_processes(home: Home, config: Config | None) -> list[Process]:
    """Return the living processes that belong to the home, supervisord included."""
    record = read_json(_record(home)) or {}
    session = int(record["pid"]) if record.get("boot") == _boot() else 0
    spared = _ancestors(os.getpid())
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) not in spared:
            process = read_process(int(entry.name))
            if process and process.terminal == 0 and _belongs(process, home, config, session):
                found.append(process)
    return found


def end_processes(find: Callable[[], list[Process]], polite_seconds: float) -> list[Process]:
    """End what `find` finds: SIGTERM, then SIGKILL after `polite_seconds`. Returns what did not go.

    It looks again each time, because a process may have started another meanwhile.
    """
    for number, seconds in ((signal.SIGTERM, polite_seconds), (signal.SIGKILL, 5.0)):
        end = time.monotonic() + seconds
        told: set[tuple[int, int]] = set()
        while True:
            left = find()
            if not left:
                return []
            for process in left:
                if (process.pid, process.started) not in told:
                    told.add((process.pid, process.started))
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.kill(process.pid, _polite_signal(process) if number is signal.SIGTERM else number)
            if time.monotonic() > end:
                break
            time.sleep(0.05)
    return find()


def _polite_signal(process: Process) -> signal.Signals:
    """PostgreSQL waits for its clients after SIGTERM, and sends them away after SIGINT."""
    postgres = _read(Path(f"/proc/{process.pid}/comm")).strip() == b"postgres"
    return signal.SIGINT if postgres else signal.SIGTERM


def _belongs(process: Process, home: Home, config: Config | None, session: int) -> bool:
    place = Path(f"/proc/{process.pid}")
    mark = f"{MARK}={home.root}".encode()
    arguments = _read(place / "cmdline").split(b"\0")
    inside = os.fsencode(home.root) + b"/"
    if not _sees(place, home):
        return False
    if mark in _read(place / "environ").split(b"\0"):
        return True
    if any(argument.startswith(inside + b"run/vassals/") for argument in arguments) and b"--ini" in arguments:
        return True
    if _read(place / "comm").strip() == b"postgres" and _works_in(place, home.root / "postgres" / "data"):
        return True
    mentions = any(inside in argument for argument in arguments) or _touches(place, inside)
    if process.session == session and mentions:
        return True
    if config is None or config.uid_base is None:
        return False
    # A range of one's own is proof enough; the small one of containers, and a cluster's, may be another home's too.
    return _has_uid(place, config.uid_base) and (mentions or not config.shares_uids)


def _sees(place: Path, home: Home) -> bool:
    """Whether the home's path means this home to the process: in a container or chroot it is another directory."""
    try:
        return os.path.samestat(Path(f"{place}/root{home.root}").stat(), home.root.stat())
    except OSError:
        return False


def _touches(place: Path, inside: bytes) -> bool:
    """Whether the process works in the home, or has a file of it open."""
    links = [place / "cwd"]
    with contextlib.suppress(OSError):
        links += list((place / "fd").iterdir())
    for link in links:
        with contextlib.suppress(OSError):
            if (os.fsencode(link.readlink()) + b"/").startswith(inside):
                return True
    return False


def _works_in(place: Path, directory: Path) -> bool:
    with contextlib.suppress(OSError):
        return (place / "cwd").readlink() == directory
    return False


def _has_uid(place: Path, base: int) -> bool:
    for line in _read(place / "status").splitlines():
        if line.startswith(b"Uid:"):
            return any(base <= int(word) < base + range_size(base) for word in line.split()[1:])
    return False


def _ancestors(pid: int) -> set[int]:
    found = {pid}
    process = read_process(pid)
    while process and process.parent > 0 and process.parent not in found:
        found.add(process.parent)
        process = read_process(process.parent)
    return found


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _record(home: Home) -> Path:
    return home.run / "supervisord.json"


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
