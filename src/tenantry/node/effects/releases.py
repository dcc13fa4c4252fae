"""The releases of this node: here or not, whole or not; fetched when they are not, removed when nobody uses them.

How a release comes: 1 room on the disk · 2 the archive, verified while it streams · 3 unpacked below a hidden
directory `.<name>.<pid>.new` that only the agent can enter · 4 made to run here · 5 on the disk · 6 its record
written · 7 renamed into place. Invariant: `releases/<name>/release.json` exists exactly when everything else does. An
interruption leaves a hidden directory, which the next start removes.

A damaged release is replaced by exchanging the two directories in one step. Processes that run on the old one keep it:
it is removed when none has its working directory in it, for they import and open by path relative to that.
"""

import asyncio
import contextlib
import fcntl
import itertools
import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

from tenantry.node.config import Config
from tenantry.node.effects import manifest, unpacking
from tenantry.node.effects.exchange import exchange, sync_file_system
from tenantry.node.effects.fetching import Artifact, fetch
from tenantry.node.effects.files import sync, write_file
from tenantry.node.effects.relocation import relocate
from tenantry.node.errors import NodeError, NotReady, Transient
from tenantry.removal import remove_tree
from tenantry.spec.errors import InvalidName, UserIdsExhausted
from tenantry.spec.sites import ReleaseName, ReleaseSpec
from tenantry.spec.users import project_uid

_T = TypeVar("_T")

MARKER = "release.json"
BUILT_HERE = ".built-here"  # in releases/: a jobs worker builds in this home, its releases are the originals
UNUSED_DAYS = 7
PRESENT_SECONDS = 0.5  # one look at a release serves the sites observed together
BACKOFF_SECONDS = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)  # after a failure: many sites may wait for one release
REFUSED_SECONDS = 5.0  # after what a person must mend: each site asks once, and again when it is restarted


@dataclass(frozen=True, slots=True)
class _Look:
    """What was found of a release, and until when that is good. `digest` is the one its release.json names."""

    until: float
    runs: bool
    digest: str | None


@dataclass(frozen=True, slots=True)
class _Held:
    """A release that could not be had lately: nobody tries before `until`."""

    artifact: str | None
    attempts: int
    until: float
    error: Transient | NotReady


class Releases:
    """The releases of this node. One object in a process; `clock` is monotonic seconds."""

    def __init__(self, config: Config, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._config = config
        self._layout = config.layout
        self._clock = clock
        self._looks: dict[ReleaseName, _Look] = {}
        self._markers: dict[ReleaseName, tuple[tuple[int, ...], str]] = {}
        self._damaged: dict[ReleaseName, str] = {}  # in words
        self._held: dict[ReleaseName, _Held] = {}
        self._running: dict[ReleaseName, asyncio.Task[None]] = {}
        self._fetched: dict[ReleaseName, int] = {}
        self._seen: dict[ReleaseName, manifest.Seen] = {}
        self._verifying = asyncio.Lock()
        self._claiming = threading.Lock()
        self._claim: int | None = None  # the descriptor whose lock says that leftovers here are nobody's

    def present(self, release: ReleaseSpec) -> bool:
        """Whether the release is here, and was whole when it was last verified. Cheap: asked for every site.

        One that was not published cannot be had anew: it counts as present as long as a site can be started from it.
        """
        name = release.name
        look = self._looks.get(name)
        if look is None or look.until < self._clock():
            look = _Look(self._clock() + PRESENT_SECONDS, self._runs(name), self._digest_here(name))
            self._looks[name] = look
        if release.artifact is None:
            return look.runs
        return look.runs and look.digest == release.digest and name not in self._damaged

    def _runs(self, name: ReleaseName) -> bool:
        directory = self._layout.release(name)
        return (directory / "src").is_dir() and (directory / "venv/bin/python").exists()

    def _digest_here(self, name: ReleaseName) -> str | None:
        """The digest that release.json names, None without it: the directory is half-made."""
        path = self._layout.release(name) / MARKER
        try:
            status = os.lstat(path)
            signature = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            known = self._markers.get(name)
            if known is None or known[0] != signature:
                known = (signature, str(json.loads(path.read_bytes())["digest"]))
                self._markers[name] = known
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return known[1]

    async def ensure(self, release: ReleaseSpec) -> None:
        """Make the release be here and whole. Those who ask at once share one download.

        `Transient`: to be tried again (a full disk, a store that is away, not published or damaged). `NotReady`: trying
        again does not help (no such Python here, an archive that is refused).
        """
        if self.present(release):
            return
        task = self._running.get(release.name)
        if task is None:
            self._check_held(release)
            task = asyncio.create_task(self._obtain(release))
            self._running[release.name] = task
            task.add_done_callback(lambda done: self._done(release, done))
        await asyncio.shield(task)

    async def verify(self, name: ReleaseName) -> str | None:
        """Compare the release with its record, file by file; return the first differences in words, or None.

        A release without a record (built here, or by an agent that kept none) is recorded at first sight, if it has the
        digest of its release.json. One that differs is not `present` until `ensure` has replaced it. `NodeError` when
        the record is a newer agent's: nothing is changed then.
        """
        async with self._verifying:
            before = self._fetched.get(name)
            words = await _in_thread(self._verify, name)
        if self._fetched.get(name) != before:
            return None  # replaced meanwhile, and read back then
        if words is None:
            self._damaged.pop(name, None)
        else:
            self._damaged[name] = words
        self._looks.pop(name, None)
        return words

    async def clean(self) -> None:
        """Remove what an agent that ended left unfinished; for the start."""
        await _in_thread(self._clean)

    async def collect(self, used: frozenset[ReleaseName]) -> list[str]:
        """Remove leftovers, and fetched releases that were not in `used` for UNUSED_DAYS; return what was removed.

        To be called now and then, with the releases of the sites this node is to serve. In a home where releases are
        built they are the originals, and stay.
        """
        return await _in_thread(self._collect, used | frozenset(self._running))

    # Fetching

    def _check_held(self, release: ReleaseSpec) -> None:
        held = self._held.get(release.name)
        if held is not None and held.artifact == release.artifact and self._clock() < held.until:
            raise type(held.error)(str(held.error))

    def _done(self, release: ReleaseSpec, task: asyncio.Task[None]) -> None:
        name = release.name
        self._running.pop(name, None)
        self._looks.pop(name, None)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, (Transient, NotReady)):
            held = self._held.get(name)
            attempts = held.attempts + 1 if held is not None and held.artifact == release.artifact else 1
            backoff = BACKOFF_SECONDS[min(attempts, len(BACKOFF_SECONDS)) - 1]
            wait = REFUSED_SECONDS if isinstance(error, NotReady) else backoff
            self._held[name] = _Held(release.artifact, attempts, self._clock() + wait, error)
        elif error is None:
            self._held.pop(name, None)

    async def _obtain(self, release: ReleaseSpec) -> None:
        try:
            await _in_thread(self._fetch, release)
        except (Transient, NotReady) as error:
            damage = self._damaged.get(release.name)
            if damage is None:
                raise
            raise type(error)(f"the release is damaged ({damage}) and cannot be replaced: {error}") from error
        self._damaged.pop(release.name, None)
        self._fetched[release.name] = self._fetched.get(release.name, 0) + 1

    def _fetch(self, release: ReleaseSpec, stopping: threading.Event) -> None:
        if release.artifact is None:
            raise Transient(
                f"{release.name} is not on this node and was not published yet; the jobs worker does so at its start"
            )
        artifact = Artifact.of(release.artifact, release.artifact_size)
        self._clean(stopping)
        staging = self._layout.releases / f".{release.name}.{os.getpid()}.new"
        try:
            remove_tree(staging)
            unpacking.check_space(self._layout.releases, (artifact.size or 0) * unpacking.GROWTH)
            staging.mkdir(mode=0o700)
            fetch(artifact, self._config, staging / "artifact", stopping)
            self._unpack(release, staging, stopping)
        except OSError as error:
            where = f" ({error.filename})" if error.filename else ""
            raise Transient(f"{release.name} cannot be brought here: {error.strerror or error}{where}") from error
        except UserIdsExhausted as error:
            raise NotReady(str(error)) from error
        finally:
            remove_tree(staging)

    def _unpack(self, release: ReleaseSpec, staging: Path, stopping: threading.Event) -> None:
        owner = self._owner(release)
        target = self._layout.release(release.name)
        tree = unpacking.unpack(staging / "artifact", staging / "tree", owner, stopping)
        (staging / "artifact").unlink()
        if json.loads((tree.root / MARKER).read_bytes()).get("digest") != release.digest:
            raise NotReady(f"the artifact is refused: it holds another release than {release.name}")
        relocate(tree, self._layout.home, target, owner)
        unpacking.finish_modes(tree, owner)
        record, seen = manifest.take_record(tree.root, release.artifact or "", stopping, rest=False)
        if stopping.is_set():
            raise Transient("the agent ends while a release is unpacked")
        sync_file_system(tree.root)
        manifest.write_record(self._layout.release_record(release.name), record)
        self._put(tree.root, target)
        self._seen[release.name] = seen

    def _owner(self, release: ReleaseSpec) -> int | None:
        """The uid, and gid, that everything in the release belongs to: its project's."""
        if self._config.uid_base is None:
            return None
        if release.project_number is None:
            raise NodeError(f"{release.name}: the number of its project is not known")
        return project_uid(self._config.uid_base, release.project_number)

    def _put(self, tree: Path, target: Path) -> None:
        """Rename `tree` to `target`; what was there goes aside, and stays as long as a process runs on it."""
        if not os.path.lexists(target):
            tree.rename(target)
        elif exchange(tree, target):
            self._set_aside(tree, target.name)
        else:  # a file system without it: for a moment nothing is there, and who looks then, looks again
            aside = self._set_aside(target, target.name)
            try:
                tree.rename(target)
            except OSError:
                aside.rename(target)
                raise
        sync(self._layout.releases)
        self._remove_aside()

    def _set_aside(self, directory: Path, name: str) -> Path:
        for number in itertools.count(1):
            aside = self._layout.releases / f".{name}.{number}.old"
            if not os.path.lexists(aside):
                directory.rename(aside)
                return aside
        raise AssertionError("unreachable")

    # Verifying

    def _verify(self, name: ReleaseName, stopping: threading.Event) -> str | None:
        directory = self._layout.release(name)
        if not directory.is_dir():
            return f"releases/{name} is missing"
        try:
            record = manifest.read_record(self._layout.release_record(name))
            if record is None:
                return self._first_sight(name, directory, stopping)
            seen = self._seen.setdefault(name, manifest.Seen())
            # Where all are one user, sites can write into their release, and what they add is theirs.
            foreign = self._config.uid_base is not None
            words, count = manifest.differences(directory, record, seen, stopping, foreign=foreign)
        except OSError as error:
            return f"releases/{name} cannot be read: {error.strerror}: {error.filename}"
        if not count:
            return None
        return "; ".join(words) + (f"; and {count - len(words)} more" if count > len(words) else "")

    def _first_sight(self, name: ReleaseName, directory: Path, stopping: threading.Event) -> str | None:
        record, seen = manifest.take_record(directory, "", stopping, rest=True)
        if stopping.is_set():
            return None
        digest = self._digest_here(name)
        if digest is None or not self._runs(name):
            return f"releases/{name} lacks its {MARKER}, source or interpreter"
        if self._config.uid_base is not None and manifest.digest_of(record) != digest:
            return f"releases/{name} does not have the digest of its {MARKER}: it was changed since it was built"
        manifest.write_record(self._layout.release_record(name), record)
        self._seen[name] = seen
        return None

    # Removing

    def _clean(self, stopping: threading.Event) -> None:
        self._layout.releases.mkdir(mode=0o755, exist_ok=True)
        self._claim_leftovers()

    def _claim_leftovers(self) -> None:
        """Remove what an agent that ended left unfinished. Only one agent works in a home: the lock says which."""
        with self._claiming:
            if self._claim is not None:
                return
            self._layout.state.mkdir(mode=0o700, exist_ok=True)
            descriptor = os.open(self._layout.state / "releases.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return
            self._claim = descriptor
            for path in self._layout.releases.glob(".*.new"):
                remove_tree(path)
            self._remove_aside()

    def _remove_aside(self) -> list[str]:
        """Remove replaced directories that no process works in; return their names."""
        removed = []
        for path in self._layout.releases.glob(".*.old"):
            if not _is_worked_in(path):
                remove_tree(path)
                removed.append(path.name)
        return removed

    def _collect(self, used: frozenset[ReleaseName], stopping: threading.Event) -> list[str]:
        if not self._layout.releases.is_dir():
            return []
        self._claim_leftovers()
        removed = self._remove_aside()
        if (self._layout.releases / BUILT_HERE).exists():
            return removed
        since = self._unused_since(used)
        due = time.time() - timedelta(days=UNUSED_DAYS).total_seconds()
        for name, moment in since.items():
            if stopping.is_set() or moment > due or self._is_named(name):
                continue
            self._remove(name)
            removed.append(str(name))
        return removed

    def _unused_since(self, used: frozenset[ReleaseName]) -> dict[ReleaseName, float]:
        """Since when (seconds since 1970) each fetched release is not used; kept over restarts."""
        path = self._layout.state / "releases.unused.json"
        before: dict[str, float] = {}
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
            before = {str(name): float(moment) for name, moment in json.loads(path.read_bytes()).items()}
        now = time.time()
        since = {}
        for directory in self._layout.releases.iterdir():
            with contextlib.suppress(InvalidName):
                name = ReleaseName.parse(directory.name)
                if name not in used and self._was_fetched(name):
                    since[name] = min(before.get(str(name), now), now)
        document = {str(name): moment for name, moment in since.items()}
        if document != before:
            write_file(path, json.dumps(document, sort_keys=True).encode(), mode=0o600, durable=True)
        return since

    def _was_fetched(self, name: ReleaseName) -> bool:
        try:
            record = manifest.read_record(self._layout.release_record(name))
        except NodeError:
            return False  # a newer agent knows; until it is back, it stays
        return record is not None and record.origin != ""

    def _is_named(self, name: ReleaseName) -> bool:
        """Whether a generation on this node runs on the release: one serves on while its successor does not start."""
        needle = f"{self._layout.release(name)}/".encode()
        documents = self._layout.sites.glob("*/site.*.json")
        return any(needle in _content(path) for path in documents) or _is_worked_in(self._layout.release(name))

    def _remove(self, name: ReleaseName) -> None:
        directory = self._layout.release(name)
        aside = self._set_aside(directory, directory.name)
        remove_tree(aside)
        self._layout.release_record(name).unlink(missing_ok=True)
        for known in (self._looks, self._markers, self._seen, self._held):
            known.pop(name, None)


async def _in_thread(work: Callable[..., _T], *arguments: object) -> _T:
    """Run `work` in a thread, with an event that is set when nobody waits for it any more."""
    stopping = threading.Event()
    try:
        return await asyncio.to_thread(work, *arguments, stopping)
    except asyncio.CancelledError:
        stopping.set()
        raise


def _is_worked_in(directory: Path) -> bool:
    """Whether a process of this machine has its working directory in `directory`."""
    for link in Path("/proc").glob("[0-9]*/cwd"):
        with contextlib.suppress(OSError):
            if Path(os.readlink(link)).is_relative_to(directory):  # noqa: PTH115
                return True
    return False


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
