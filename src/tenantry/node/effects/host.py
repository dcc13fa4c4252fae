"""A plan's actions, done on this machine; and what is on it, observed."""

import asyncio
import contextlib
import os
import time
from pathlib import Path
from typing import NoReturn

from tenantry.node.config import Config
from tenantry.node.effects.emperor import ask_emperor
from tenantry.node.effects.files import make_directory, remove, set_link, sync, write_file
from tenantry.node.effects.health import CONNECT_STEP_SECONDS, FIRST_BAD_STATUS, HealthRequest, check_health
from tenantry.node.errors import EmperorUnavailable, NodeError, NotReady, Transient
from tenantry.node.planner import (
    Action,
    AwaitReady,
    LinkHost,
    ObservedSite,
    PrepareSite,
    RemoveGeneration,
    RemoveSite,
    SetLink,
    Switch,
    UnlinkHost,
    WriteDocument,
    WriteVassal,
)
from tenantry.node.probes import HostTable, Sockets, observe_site, read_sockets, scan_vassals
from tenantry.node.render.document import Secrets, encode, site_document
from tenantry.node.render.uwsgi import render_vassal
from tenantry.sealing import Sealer, SealError
from tenantry.spec.errors import InvalidDocument, UserIdsExhausted
from tenantry.spec.names import Slug
from tenantry.spec.sites import SiteSpec

READY_SECONDS = 60.0
WATCH_STEP_SECONDS = 0.5
WORKER_DIED = "DAMN ! worker"  # uWSGI's words when a worker ends by itself and is started again
WORKER_DEATHS = 3
SOCKETS_FRESH_SECONDS = 0.05  # one reading of the kernel's table serves the sites observed together
BACKLOG_MAX = 1024
LOG_TAIL_BYTES = 4096
# After these the kernel's table is read anew, also when they failed. It lists the whole machine's sockets: reading it
# after every action would cost most where many sites change at once.
_CHANGES_SOCKETS = (WriteVassal, AwaitReady, RemoveGeneration)


class LocalHost:
    """This machine: implements the reconciler's `Host`."""

    def __init__(self, config: Config, *, ready_seconds: float = READY_SECONDS) -> None:
        self._config = config
        self._layout = config.layout
        self._sealer = Sealer(config.platform_keys)
        self._nginx_gid = config.nginx_gid()
        self._ready_seconds = ready_seconds
        self._hosts = HostTable(self._layout.hosts)
        self._vassals: dict[Slug, set[int]] = {}
        self._sockets = Sockets()
        self._sockets_at = float("-inf")
        self._log_start: dict[tuple[Slug, int], int] = {}
        self._backlog = min(int(Path("/proc/sys/net/core/somaxconn").read_text()), BACKLOG_MAX)

    def scan(self) -> frozenset[Slug]:
        """Read the directories again; return the sites of which something is here."""
        self._hosts.scan()
        self._vassals = scan_vassals(self._layout)
        self._sockets_at = float("-inf")
        return frozenset({Slug(path.name) for path in self._layout.sites.iterdir()} | set(self._vassals)) | (
            self._hosts.sites()
        )

    def observe(self, slug: Slug, spec: SiteSpec | None) -> ObservedSite:
        now = time.monotonic()
        if now - self._sockets_at > SOCKETS_FRESH_SECONDS:
            self._sockets, self._sockets_at = read_sockets(self._layout.sites), now
        hostnames = self._hosts.of(slug, spec.hostnames if spec else ())
        candidates = {*self._vassals.get(slug, ()), *([spec.generation] if spec else [])}
        return observe_site(self._config, slug, hostnames, self._sockets, candidates)

    async def apply(self, action: Action, spec: SiteSpec | None) -> None:
        """Do one step. `NotReady` and `Transient` as their names say; a full disk and the like are transient."""
        try:
            await self._apply(action, spec)
        except OSError as error:
            raise Transient(f"{type(action).__name__}: {error.strerror}: {error.filename}") from error
        except UserIdsExhausted as error:
            raise NotReady(str(error)) from error
        finally:
            if isinstance(action, _CHANGES_SOCKETS):
                self._sockets_at = float("-inf")

    async def _apply(self, action: Action, spec: SiteSpec | None) -> None:
        directory = self._layout.site(action.slug)
        match action:
            case PrepareSite():
                self._prepare(_needed(spec))
            case SetLink(name=name, target=None):
                remove(directory / name)
            case SetLink(name=name, target=str(target)):
                set_link(directory / name, target)
            case WriteDocument():
                self._write_document(_needed(spec), action.generation)
            case WriteVassal():
                await self._write_vassal(_needed(spec), action.generation)
            case AwaitReady():
                await self._await_ready(_needed(spec), action.generation)
            case Switch(generation=generation):
                set_link(directory / "app.sock", f"{generation:d}.sock")
            case LinkHost(hostname=hostname):
                set_link(self._layout.host(hostname), f"../sites/{action.slug}")
                self._hosts.look(hostname)
            case UnlinkHost(hostname=hostname):
                # It may have been given to another site meanwhile; no await lies between looking and removing.
                if self._hosts.look(hostname) == action.slug:
                    remove(self._layout.host(hostname))
                    self._hosts.look(hostname)
            case RemoveGeneration(generation=generation):
                await self._remove_generation(action.slug, generation)
            case RemoveSite():
                _remove_directory(directory)
            case _:
                raise NodeError(f"an action nobody knows: {action}")

    def _prepare(self, spec: SiteSpec) -> None:
        """The site's directory: root's, nginx may look. Its data: root's shell around three places of the site's."""
        as_root = self._config.uid_base is not None
        make_directory(self._layout.site(spec.slug), 0o750, 0 if as_root else None, self._nginx_gid)
        owner = self._config.owner(spec.number, spec.project_number)
        uid, gid = (owner.uid, owner.gid) if owner else (None, None)
        data = self._layout.data(spec.slug)
        make_directory(data, 0o711, 0 if as_root else None)
        make_directory(data / "media", 0o2750, uid, self._nginx_gid)
        make_directory(data / "home", 0o700, uid, gid)
        make_directory(data / "tmp", 0o700, uid, gid)

    def _write_document(self, spec: SiteSpec, generation: int) -> None:
        path = self._layout.document(spec.slug, generation)
        write_file(path, encode(build_document(spec, self._sealer, self._config, self._nginx_gid)), mode=0o600)

    async def _write_vassal(self, spec: SiteSpec, generation: int) -> None:
        text = render_vassal(
            spec.slug, generation, processes=spec.processes, threads=spec.threads, backlog=self._backlog
        )
        self._log_start[spec.slug, generation] = _size(self._layout.log(spec.slug))
        self._vassals.setdefault(spec.slug, set()).add(generation)
        write_file(self._layout.vassal(spec.slug, generation), text.encode())
        await self._wake_emperor()

    async def _await_ready(self, spec: SiteSpec, generation: int) -> None:
        """The files reach the disk while the application loads, so that what gets switched to is durable."""
        durable = asyncio.create_task(asyncio.to_thread(self._make_durable, spec.slug, generation))
        try:
            async with asyncio.timeout(self._ready_seconds):
                status = await self._first_answer(spec, generation)
        except TimeoutError:
            message = f"generation {generation} did not answer within {self._ready_seconds:.0f} s"
            raise NotReady(message, self._log_tail(spec.slug, generation)) from None
        except NotReady as error:
            raise NotReady(str(error), self._log_tail(spec.slug, generation)) from error
        finally:
            await durable
        if status >= FIRST_BAD_STATUS:
            message = f"generation {generation} answered {spec.health_path} with status {status}"
            raise NotReady(message, self._log_tail(spec.slug, generation))

    async def _first_answer(self, spec: SiteSpec, generation: int) -> int:
        """Ask until an answer comes; `NotReady` as soon as it is clear that none will."""
        watch = asyncio.create_task(self._watch_start(spec.slug, generation))
        answer = asyncio.create_task(self._ask(spec, generation))
        try:
            await asyncio.wait({watch, answer}, return_when=asyncio.FIRST_COMPLETED)
            return answer.result() if answer.done() else watch.result()
        finally:
            watch.cancel()
            answer.cancel()
            await asyncio.gather(watch, answer, return_exceptions=True)

    async def _ask(self, spec: SiteSpec, generation: int) -> int:
        hostname = spec.hostnames[0] if spec.hostnames else "localhost"
        socket = self._layout.socket(spec.slug, generation)
        request = HealthRequest(socket, hostname, self._config.http_port, spec.health_path)
        while True:
            try:
                return await check_health(request)
            except (FileNotFoundError, ConnectionRefusedError):
                await asyncio.sleep(CONNECT_STEP_SECONDS)

    async def _watch_start(self, slug: Slug, generation: int) -> NoReturn:
        """Notice a process that keeps ending, which a request waiting in the socket's queue does not."""
        while True:
            await asyncio.sleep(WATCH_STEP_SECONDS)
            if self._log_tail(slug, generation).count(WORKER_DIED) >= WORKER_DEATHS:
                raise NotReady(f"generation {generation}: its worker keeps ending before it answers")
            if not self._layout.socket(slug, generation).exists():
                state = await ask_emperor(self._layout.emperor_socket)
                if f"{slug}.{generation}.ini" in state.blacklisted:
                    raise NotReady(f"generation {generation}: its process keeps ending before it listens")

    def _make_durable(self, slug: Slug, generation: int) -> None:
        for path in (self._layout.document(slug, generation), self._layout.vassal(slug, generation)):
            sync(path)
            sync(path.parent)

    async def _remove_generation(self, slug: Slug, generation: int) -> None:
        """The ini first: whatever interrupts, the emperor never sees an ini without its document."""
        vassal = self._layout.vassal(slug, generation)
        if vassal.exists():
            remove(vassal)
            with contextlib.suppress(EmperorUnavailable):
                await self._wake_emperor()  # else the emperor's own scan finds out within 5 s
        remove(self._layout.socket(slug, generation))
        remove(self._layout.document(slug, generation))
        self._vassals.get(slug, set()).discard(generation)
        self._log_start.pop((slug, generation), None)

    async def _wake_emperor(self) -> None:
        await ask_emperor(self._layout.emperor_socket)

    def _log_tail(self, slug: Slug, generation: int) -> str:
        """Return the end of what the generation wrote, at most 4 kB."""
        path = self._layout.log(slug)
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            with os.fdopen(descriptor, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                start = self._log_start.get((slug, generation), 0)
                file.seek(max(start if start <= size else 0, size - LOG_TAIL_BYTES))
                return file.read(LOG_TAIL_BYTES).decode(errors="replace").replace("\0", "")
        return ""


def build_document(spec: SiteSpec, sealer: Sealer, config: Config, nginx_gid: int | None) -> dict[str, object]:
    """Return site.<generation>.json of `spec`; `NotReady` when its secrets cannot be opened."""
    try:
        secrets = Secrets.from_document(sealer.unseal(spec.sealed))
        return site_document(spec, secrets, config, nginx_gid)
    except (SealError, InvalidDocument) as error:
        raise NotReady(str(error)) from error


def _needed(spec: SiteSpec | None) -> SiteSpec:
    if spec is None:
        raise NodeError("this action needs a desired site")
    return spec


def _size(path: Path) -> int:
    try:
        return os.lstat(path).st_size
    except OSError:
        return 0


def _remove_directory(directory: Path) -> None:
    """Remove the directory and the files and links right in it; it holds no directories."""
    for path in directory.iterdir():
        remove(path)
    directory.rmdir()
