"""What of a node is not as it was made, beside its sites: directories, etc/, foreign entries, nginx, the emperor.

Every difference is repaired from what the configuration says; what a person put into the agent's own directories goes.
Nothing here waits on a site, and no step holds the event loop for more than a thousand files.
"""

import asyncio
import logging
import os
import stat
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from tenantry.node.config import Config
from tenantry.node.effects.emperor import EmperorState, ask_emperor, wake_emperor
from tenantry.node.effects.files import is_directory, is_stale, make_directory, remove, set_access, write_file
from tenantry.node.effects.nginx import Nginx
from tenantry.node.errors import EmperorUnavailable, Transient
from tenantry.node.integrity import Drift, Place, Signature, compare, describe, settled, sign
from tenantry.node.layout import Layout, is_slug, parse_vassal
from tenantry.node.prepare import FixedFile, fixed_files, noted_circumstances, own_directories
from tenantry.node.probes import Tables, entries
from tenantry.node.render.engine import STOP_SECONDS
from tenantry.node.render.nginx import served_revision

logger = logging.getLogger(__name__)

SOCKETS_FRESH_SECONDS = 1.0
AGAIN_SECONDS = 1.0  # before a second look at what may have been on its way
ENDING_SECONDS = STOP_SECONDS + 5.0  # a process without its ini may take as long to answer what it has
YOUNG_SECONDS = 10.0  # an ini this new may not have been started yet
BATCH = 1000
STATE_MODE = 0o600
EMPEROR_SOCKET_MODE = 0o700
_SECOND_NS = 1_000_000_000


class VassalTimes:
    """The modification time each ini had when its text was known to be right.

    The emperor starts a process anew when the time of its ini grows past the one it knows, in whole seconds. It knows
    a later one than the file has: then it started the process from another text, unless that later time is ours.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = str(directory)
        self._known: dict[str, int] = {}
        self._emperor: dict[str, int] = {}

    def note(self, name: str) -> None:
        """The file reads as it must now."""
        found = sign(self._path(name))
        if found is not None:
            self._known[name] = found[2]

    def of(self, name: str) -> int | None:
        return self._known.get(name)

    def forget(self, name: str) -> None:
        self._known.pop(name, None)
        self._emperor.pop(name, None)

    def newer(self, name: str) -> int:
        """Return a time (ns) past every one the emperor may know of the file."""
        found = sign(self._path(name))
        seconds = [int(time.time()), self._known.get(name, 0) // _SECOND_NS, self._emperor.get(name, 0)]
        if found is not None:
            seconds.append(found[2] // _SECOND_NS)
        return (max(seconds) + 1) * _SECOND_NS

    def set(self, name: str, mtime_ns: int) -> None:
        """Give the file this time; its text is right."""
        descriptor = os.open(self._path(name), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.utime(descriptor, ns=(mtime_ns, mtime_ns))
        finally:
            os.close(descriptor)
        self._known[name] = mtime_ns

    def check(self, name: str, known_seconds: int) -> str | None:
        """Return what is wrong when the emperor knows the file as of `known_seconds`; None when nothing is."""
        self._emperor[name] = known_seconds
        found = sign(self._path(name))
        if found is None or found[2] // _SECOND_NS > known_seconds:
            return None  # on its way out, or about to be started anew
        if found[2] // _SECOND_NS == known_seconds:
            self._known[name] = found[2]
            return None
        if self._is_ours(name):
            return "its time was set back, by which the next change would go unnoticed"
        return "its process was started from another text of it"

    def mend(self, name: str) -> None:
        """Put the time right, or have the process started anew where it may run from another text."""
        self.set(name, self._known[name] if self._is_ours(name) else self.newer(name))

    def _path(self, name: str) -> str:
        return f"{self._directory}/{name}"

    def _is_ours(self, name: str) -> bool:
        return self._known.get(name, -1) // _SECOND_NS == self._emperor.get(name)


class NodeIntegrity:
    """Examines and repairs one node."""

    def __init__(self, config: Config, tables: Tables) -> None:
        self._config = config
        self._layout: Layout = config.layout
        self._tables = tables
        self._nginx = Nginx(config)
        self._draining: bool | None = None
        self._read: dict[Path, tuple[Signature, bytes]] = {}
        self._gone: dict[str, float] = {}  # whose ini was missing, since when that is seen
        self.times = VassalTimes(self._layout.vassals)

    async def visitors(self) -> int:
        """Return the number of requests nginx is serving; `Transient` when it does not say."""
        try:
            return await self._nginx.visitors()
        except (OSError, TimeoutError) as error:
            raise Transient(f"nginx does not answer: {error}") from error

    def set_draining(self, draining: bool) -> None:
        """Raise or lower the flag run/draining; from now on the other is drift."""
        self._draining = draining
        if draining:
            write_file(self._layout.draining, b"", durable=True)
        else:
            remove(self._layout.draining)

    # Looking

    async def examine(self) -> tuple[Drift, ...]:
        """Return every difference. What may be a change on its way is looked at twice."""
        self._tables.refresh_sockets(SOCKETS_FRESH_SECONDS)
        self._tables.refresh_directories()
        found = [*self._directories(), *self._fixed_files(), *self._foreign(), *self._flag(), *self._emperor_socket()]
        found += await self._state_files()
        found += await self._nginx_drift()
        found += await self._emperor_drift()
        return tuple({(drift.kind, drift.path): drift for drift in found}.values())

    def _directories(self) -> Iterator[Drift]:
        for path, mode in own_directories(self._layout).items():
            drift = compare(Place("", str(path), stat.S_IFDIR, mode, os.geteuid(), os.getegid()), self._layout.home)
            if drift is not None:
                yield drift

    def _files(self) -> list[FixedFile]:
        return fixed_files(self._config, noted_circumstances(self._layout))

    def _fixed_files(self) -> Iterator[Drift]:
        for file in self._files():
            place = Place("", str(file.path), stat.S_IFREG, file.mode, os.geteuid(), os.getegid())
            drift = compare(place, self._layout.home)
            if drift is None and not self._reads(file):
                drift = Drift(None, "file", self._relative(file.path), "its content was changed")
            if drift is not None:
                yield drift

    def _reads(self, file: FixedFile) -> bool:
        now = time.time_ns()
        signature = sign(str(file.path))
        if signature is not None and self._read.get(file.path) == (signature, file.content):
            return True
        try:
            same = file.path.read_bytes() == file.content
        except OSError:
            return False
        if same and signature is not None and settled(signature, now):
            self._read[file.path] = (signature, file.content)
        return same

    def _foreign(self) -> Iterator[Drift]:
        for path in self._foreign_paths():
            try:
                mode = os.lstat(path).st_mode
            except FileNotFoundError:
                continue
            kind = {stat.S_IFLNK: "link", stat.S_IFDIR: "directory"}.get(stat.S_IFMT(mode), "file")
            if path.parent == self._layout.vassals:
                kind = "vassal"
            detail = f"is a {describe(mode)} that the agent did not make"
            yield Drift(None, kind, self._relative(path), detail)

    def _foreign_paths(self) -> Iterator[Path]:
        yield from self._tables.hosts.foreign
        yield from self._tables.vassals.foreign
        sites = set(entries(self._layout.sites))
        # The wrapper starts nothing without a document: a generation without site and process is nobody's.
        for slug in self._tables.vassals.sites() - sites:
            listening = self._tables.sockets.listening.get(slug, set())
            for generation in self._tables.vassals.of(slug) - listening:
                yield self._layout.vassal(slug, generation)
        yield from (self._layout.sites / name for name in sites if not is_slug(name))

    def _flag(self) -> Iterator[Drift]:
        up = os.path.lexists(self._layout.draining)
        path = self._relative(self._layout.draining)
        if self._draining is True:
            place = Place("", str(self._layout.draining), stat.S_IFREG, 0o644, os.geteuid())
            drift = compare(place, self._layout.home)
            if drift is not None:
                yield drift
        elif self._draining is False and up:
            yield Drift(None, "file", path, "is here, though the node is not draining")

    def _emperor_socket(self) -> Iterator[Drift]:
        path = self._layout.emperor_socket
        place = Place("", str(path), stat.S_IFSOCK, EMPEROR_SOCKET_MODE, os.geteuid())
        drift = compare(place, self._layout.home)
        if drift is not None and drift.kind in ("mode", "owner"):
            yield drift

    async def _state_files(self) -> list[Drift]:
        found = []
        number = 0
        known = {str(path) for path in own_directories(self._layout)}
        for directory in (self._layout.state, self._layout.state / "sites", self._layout.written):
            for entry in entries(directory):
                number += 1
                if number % BATCH == 0:
                    await asyncio.sleep(0)
                path = f"{directory}/{entry}"
                if is_stale(entry) or path in known:
                    continue
                state = sign(path)
                if state is None or (stat.S_IFREG | STATE_MODE, os.geteuid()) == (state[4], state[5]):
                    continue
                if stat.S_ISDIR(state[4]) and not entry.endswith(".json"):
                    continue  # of a later release of the agent
                drift = compare(Place("", path, stat.S_IFREG, STATE_MODE, os.geteuid()), self._layout.home)
                if drift is not None:
                    found.append(drift)
        return found

    async def _nginx_drift(self) -> list[Drift]:
        found = []
        if self._nginx.noted_master() is None and self._nginx.master() is not None:
            path = self._relative(self._layout.nginx_pid)
            found.append(Drift(None, "file", path, "does not name this home's nginx"))
        path = self._relative(self._layout.nginx_conf)
        try:
            revision = await self._served()
        except (OSError, TimeoutError) as error:
            return [*found, Drift(None, "nginx", path, f"nginx does not answer: {error or 'it takes too long'}")]
        if revision != self._expected_revision():
            detail = f"nginx serves revision {revision or 'of another configuration'}, not the file's"
            found.append(Drift(None, "nginx", path, detail))
        return found

    async def _served(self) -> str | None:
        try:
            return await self._nginx.revision()
        except (OSError, TimeoutError):
            await asyncio.sleep(AGAIN_SECONDS)
            return await self._nginx.revision()

    def _expected_revision(self) -> str:
        file = next(file for file in self._files() if file.path == self._layout.nginx_conf)
        return served_revision(file.content.decode())

    async def _emperor_drift(self) -> list[Drift]:
        try:
            suspects = self._suspects(await self._ask_twice())
            if suspects:
                await asyncio.sleep(AGAIN_SECONDS)
                self._tables.refresh_directories()
                again = self._suspects(await ask_emperor(self._layout.emperor_socket))
                suspects = {name: again[name] for name in suspects if name in again}
        except EmperorUnavailable as error:
            return [Drift(None, "vassal", self._relative(self._layout.emperor_socket), str(error))]
        return [
            Drift(None, "vassal", self._relative(self._layout.vassals / name), detail)
            for name, detail in suspects.items()
        ]

    async def _ask_twice(self) -> EmperorState:
        try:
            return await ask_emperor(self._layout.emperor_socket)
        except EmperorUnavailable:
            await asyncio.sleep(AGAIN_SECONDS)
            return await ask_emperor(self._layout.emperor_socket)

    def _suspects(self, state: EmperorState) -> dict[str, str]:
        """Return what is odd about the emperor's list, by name of ini."""
        files = self._tables.vassals.names()
        found = dict.fromkeys(state.blacklisted & files, "its process keeps ending; the emperor waits longer each time")
        now = time.monotonic()
        gone = (name for name in state.running - files if parse_vassal(name) is not None)
        self._gone = {name: self._gone.get(name, now) for name in gone}
        for name, since in self._gone.items():
            if now - since > ENDING_SECONDS:
                found[name] = "the emperor runs it though it is gone"
        for name in files - state.running - state.blacklisted:
            # Also one of a later time: the clock was set back since.
            if abs(time.time() - _mtime(self._layout.vassals / name)) > YOUNG_SECONDS:
                found[name] = "the emperor does not run it"
        for name in state.running & files:
            problem = self.times.check(name, state.times.get(name, 0))
            if problem is not None:
                found[name] = problem
        return found

    # Repairing

    async def repair(self, drifts: Iterable[Drift]) -> None:
        """Put everything right that can be; `Transient` afterwards when something could not."""
        problems = []
        for drift in drifts:
            try:
                await self._repair(drift)
            except (OSError, TimeoutError, Transient) as error:
                logger.warning("%s: not repaired: %s", drift, error)
                problems.append(f"{drift.path}: {error}")
        if problems:
            raise Transient("; ".join(problems))

    async def _repair(self, drift: Drift) -> None:
        layout, path = self._layout, self._layout.home / drift.path
        directories = own_directories(layout)
        files = {file.path: file for file in self._files()}
        if drift.kind == "nginx":
            await self._repair_nginx()
        elif path in directories:
            if not is_directory(path):
                remove(path)
            make_directory(path, directories[path], os.geteuid(), os.getegid())
        elif path in files:
            write_file(path, files[path].content, mode=files[path].mode, durable=True)
        elif path == layout.draining and self._draining is not None:
            self.set_draining(self._draining)
        elif path == layout.nginx_pid:
            master = self._nginx.master()
            if master is not None:
                self._nginx.note_master(master)
        elif path == layout.emperor_socket:
            await self._repair_emperor_socket()
        elif layout.state in path.parents:
            self._repair_state_file(path)
        elif path in set(self._foreign_paths()):
            remove(path)
            await self._wake()
        elif path.parent == layout.vassals:
            await self._repair_vassal(path.name)

    async def _repair_nginx(self) -> None:
        expected = self._expected_revision()
        if await self._nginx.revision() != expected:
            await self._nginx.reload(expected)

    async def _repair_emperor_socket(self) -> None:
        path = self._layout.emperor_socket
        found = sign(str(path))
        if found is not None and stat.S_ISSOCK(found[4]):
            set_access(path, EMPEROR_SOCKET_MODE, os.geteuid())
        await ask_emperor(path)  # says what is wrong when that was not it

    def _repair_state_file(self, path: Path) -> None:
        state = sign(str(path))
        if state is not None and stat.S_ISREG(state[4]):
            set_access(path, STATE_MODE, os.geteuid())
        else:
            remove(path)

    async def _repair_vassal(self, name: str) -> None:
        state = await ask_emperor(self._layout.emperor_socket)  # which makes it look again, too
        if name in state.running and self.times.check(name, state.times.get(name, 0)) is not None:
            self.times.mend(name)
            await self._wake()
        elif name not in state.running:
            logger.info("%s: left to the emperor, which was woken", name)

    async def _wake(self) -> None:
        if not await wake_emperor(self._layout.emperor_socket):
            logger.warning("the emperor does not answer; it looks by itself within 5 s")

    def _relative(self, path: Path) -> str:
        return os.path.relpath(path, self._layout.home)


def _mtime(path: Path) -> float:
    try:
        return os.lstat(path).st_mtime
    except OSError:
        return time.time()
