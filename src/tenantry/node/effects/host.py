"""A plan's actions, done on this machine; and what is on it, observed."""

import json
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from typing import Protocol as Interface

from tenantry.node.actions import (
    Action,
    AwaitEnd,
    AwaitReady,
    FetchRelease,
    GenerationAction,
    LetSleep,
    LinkHost,
    ParkVassal,
    PrepareSite,
    RemoveForeign,
    RemoveGeneration,
    RemoveParked,
    RemoveSite,
    RestoreSocket,
    SetFlag,
    SetLink,
    SetModeFile,
    Switch,
    UnlinkHost,
    WriteDocument,
    WriteVassal,
)
from tenantry.node.config import Config
from tenantry.node.effects.content import SiteContent
from tenantry.node.effects.files import (
    make_directory,
    remove,
    set_access,
    set_aside,
    set_link,
    write_file,
)
from tenantry.node.effects.flushing import Flusher
from tenantry.node.effects.generations import Generations, Knowledge
from tenantry.node.effects.limits import SiteLimits, needs_long
from tenantry.node.effects.logs import SiteLogs
from tenantry.node.effects.node_integrity import NodeIntegrity
from tenantry.node.effects.touches import Touches
from tenantry.node.errors import NodeError, NotReady, Transient
from tenantry.node.integrity import Drift, sign
from tenantry.node.layout import is_slug, socket_name
from tenantry.node.planner import ObservedSite
from tenantry.node.probes import Tables, entries, observe_site
from tenantry.node.render.document import encode, protocol_of, same_start
from tenantry.node.render.engine import Protocol
from tenantry.node.render.modes import standby_mode_document
from tenantry.node.site_integrity import Renderers, SiteIntegrity
from tenantry.node.site_places import FLAG_MODE, LOG_MODE, mode_files, site_places
from tenantry.node.upstream import lead_to, lead_to_standby, read_upstream
from tenantry.node.written import Written
from tenantry.spec.errors import UserIdsExhausted
from tenantry.spec.names import Fqdn, Slug
from tenantry.spec.sites import ReleaseName, ReleaseSpec, SiteSpec

SOCKETS_FRESH_SECONDS = 0.05  # one reading of the kernel's table serves the sites observed together
EXAMINED_FRESH_SECONDS = 1.0  # ... and the sites examined together, unless something about one is amiss
# After these the kernel's table is read anew, also when they failed. It lists the whole machine's sockets: reading it
# after every action would cost most where many sites change at once.
_CHANGES_SOCKETS = (WriteVassal, AwaitEnd, AwaitReady, RestoreSocket, RemoveGeneration)


class Releases(Interface):
    """The releases of this node: whether one is here, getting it, proving it."""

    def present(self, release: ReleaseSpec) -> bool: ...

    async def ensure(self, release: ReleaseSpec) -> None: ...

    async def verify(self, name: ReleaseName) -> str | None: ...


class LocalHost:
    """This machine: implements the reconciler's `Host`."""

    def __init__(self, config: Config, releases: Releases | None = None, *, ready_seconds: float | None = None) -> None:
        self._config = config
        self._layout = config.layout
        self._nginx_gid = config.nginx_gid()
        self._tables = Tables(self._layout)
        self._touches = Touches(self._layout)
        self.logs = SiteLogs(self._layout)
        self._releases = releases
        self._limits = SiteLimits(config)
        self.flusher = Flusher(self._layout.home)
        self._written = Written(self._layout.written, self.flusher)
        self._content = content = SiteContent(config, self._nginx_gid)
        self._sites = SiteIntegrity(
            config,
            self._tables,
            self._written,
            Renderers(content.document_text, content.vassal_text, content.unnoted_vassal_text, content.mode_text),
            self._is_present,
        )
        self._node = NodeIntegrity(config, self._tables)
        knowledge = Knowledge(self._tables, self._written, self._node)
        seconds = config.ready_seconds if ready_seconds is None else ready_seconds
        self._generations = Generations(config, content, knowledge, seconds)
        self._observed: dict[Slug, ObservedSite] = {}

    def scan(self) -> frozenset[Slug]:
        """Read the directories again; return the sites of which something is here."""
        self._tables.forget_sockets()
        self._tables.refresh_directories()
        found = {Slug(name) for name in entries(self._layout.sites) if is_slug(name)}
        return frozenset(found | self._tables.vassals.sites() | self._tables.hosts.sites())

    def observe(self, slug: Slug, spec: SiteSpec | None) -> ObservedSite:
        """Return what is on the node for the site. Of one that nobody touched, what was found before is reused."""
        self._tables.refresh_sockets(SOCKETS_FRESH_SECONDS)
        if spec is not None and slug in self._observed and self._sites.unchanged(slug, spec):
            sockets, problem = self._tables.sockets, self._tables.wake_failures.of(slug)
            # An older generation's process may have been there still: who waits for its end must see it.
            return replace(
                self._observed[slug],
                listening=frozenset(sockets.listening.get(slug, ())),
                in_flight=sockets.connections.get(slug, {}),
                wake_problem=problem,
            )
        self._observed.pop(slug, None)
        self._tables.hosts.of(slug, spec.hostnames if spec else ())
        candidates = {*self._tables.vassals.of(slug), *([spec.generation] if spec else [])}
        observed = observe_site(self._config, slug, self._tables, candidates)
        if spec is None:
            self._sites.forget(slug)
            return replace(observed, directory=os.path.lexists(self._layout.site(slug)))
        damage = self._sites.damage(slug, spec)
        observed = replace(
            observed,
            served=self._sites.served.get(slug),
            damaged=frozenset(damage),
            release=self._is_present(spec.release),
        )
        if self._sites.unchanged(slug, spec):
            # Its age matters to generations on their way out alone, of which there are none.
            self._observed[slug] = observed
        return observed

    def resembles(self, spec: SiteSpec) -> bool:
        """Whether the files of the spec's generation say what they would say if they were written now."""
        slug, generation = spec.slug, spec.generation
        try:
            document = self._layout.document(slug, generation).read_bytes()
            vassal = self._layout.vassal(slug, generation).read_bytes()
        except OSError:
            return False
        expected = self._content.document_text(spec, generation)
        return (
            expected is not None
            and vassal == self._content.vassal_text(spec, generation)
            and same_start(document, expected)
        )

    def made_for(self, slug: Slug, generation: int) -> int | None:
        """Return the number of the site whose database the generation's document names, None without one."""
        try:
            name = str(self._read_document(slug, generation)["environment"]["PGDATABASE"])
        except (OSError, ValueError, KeyError, TypeError):
            return None  # nothing, or nothing whole: what is damaged says nothing of its site
        number = name.removeprefix("site_")
        return int(number) if number.isascii() and number.isdigit() else None

    def _read_document(self, slug: Slug, generation: int) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self._layout.document(slug, generation).read_bytes())
        return document

    def _protocol(self, slug: Slug, generation: int) -> Protocol:
        """Return what the generation speaks; of one whose document is damaged, what nginx speaks with it now."""
        try:
            return protocol_of(self._read_document(slug, generation))
        except (OSError, ValueError, AttributeError):
            return read_upstream(self._layout.site(slug)).protocol

    def examine(self, slug: Slug, spec: SiteSpec) -> tuple[Drift, ...]:
        """Return how the site differs from what was made for it. For sites at rest: work in progress differs, too.

        An untouched site costs some lstat; contents are read where a signature is new.
        """
        self._tables.refresh_sockets(EXAMINED_FRESH_SECONDS)
        self._tables.refresh_directories()
        if self._sites.unchanged(slug, spec) or not self._sites.damage(slug, spec):
            return ()
        self._tables.refresh_sockets(SOCKETS_FRESH_SECONDS)  # what was read a second ago may have changed rightly
        self._tables.refresh_directories()
        return tuple(self._sites.damage(slug, spec).values())

    async def examine_node(self) -> tuple[Drift, ...]:
        """Return what differs beside the sites: the node's own files and directories, nginx, the emperor's list."""
        return await self._node.examine()

    async def repair_node(self, drifts: tuple[Drift, ...]) -> None:
        """Put right what `examine_node` found. `Transient` when something could not be."""
        try:
            await self._node.repair(drifts)
        except OSError as error:
            raise Transient(f"repair: {error.strerror}: {error.filename}") from error

    def changed_wakings(self) -> frozenset[Slug]:
        """Return the sites of which standby found anew that they cannot be woken, or that they can again."""
        return self._tables.wake_failures.scan()

    async def set_draining(self, draining: bool) -> None:
        """Make nginx's readiness say no, or yes again. Sites go on serving whoever comes."""
        self._node.set_draining(draining)

    async def visitors(self) -> int:
        """Return the number of requests nginx is serving to visitors."""
        return await self._node.visitors()

    def with_file(self, slugs: Sequence[Slug], *, own: bool) -> list[Slug]:
        """Return which of the sites have the file by which they are restarted."""
        return self._touches.with_file(slugs, own=own)

    def touched(self, slug: Slug, *, own: bool) -> int | None:
        """Return when that file was touched, if that counts."""
        return self._touches.touched(slug, own=own)

    def _is_present(self, release: ReleaseSpec) -> bool:
        return self._releases is None or self._releases.present(release)

    async def apply(self, action: Action, spec: SiteSpec | None) -> None:
        """Do one step. `NotReady` and `Transient` as their names say; a full disk and the like are transient."""
        try:
            await self._apply(action, spec)
        except OSError as error:
            raise Transient(f"{type(action).__name__}: {error.strerror}: {error.filename}") from error
        except UserIdsExhausted as error:
            raise NotReady(str(error)) from error
        finally:
            self._flush_later(action)
            if isinstance(action, _CHANGES_SOCKETS):
                self._tables.forget_sockets()

    def _flush_later(self, action: Action) -> None:
        """Have on the disk, too, what the action changed; nobody waits for that."""
        if isinstance(action, LinkHost | UnlinkHost):
            self.flusher.note(self._layout.hosts)
        elif isinstance(action, RemoveSite):
            self.flusher.note(self._layout.sites)
        elif isinstance(action, RemoveParked):
            self.flusher.note(self._layout.parked(action.slug, action.generation))
        elif not isinstance(action, FetchRelease | AwaitEnd | AwaitReady):  # these wait for the disk themselves
            self.flusher.note_files(self._layout.site(action.slug))

    async def _apply(self, action: Action, spec: SiteSpec | None) -> None:
        directory = self._layout.site(action.slug)
        match action:
            case GenerationAction():
                await self._apply_to_generation(action, spec)
            case PrepareSite():
                self._prepare(_needed(spec))
            case SetFlag(name=name, up=True):
                write_file(directory / f"mode.{name}", b"", mode=FLAG_MODE)
            case SetFlag(name=name):
                remove(directory / f"mode.{name}")
            case SetModeFile(reader=reader, up=up):
                self._set_mode_file(_needed(spec), reader, up=up)
            case RemoveForeign(name=name):
                remove(directory / name)
            case FetchRelease():
                await self._fetch(_needed(spec))
            case SetLink(name=name, target=None):
                remove(directory / name)
            case SetLink(name=name, target=str(target)):
                set_link(directory / name, target)
            case LinkHost(hostname=hostname):
                set_link(self._layout.host(hostname), f"../sites/{action.slug}")
                self._tables.hosts.look(hostname)
            case UnlinkHost(hostname=hostname):
                self._unlink_host(action.slug, hostname)
            case RemoveSite():
                self._remove_site(action.slug)
            case _:
                raise NodeError(f"an action nobody knows: {action}")

    async def _apply_to_generation(self, action: GenerationAction, spec: SiteSpec | None) -> None:
        slug, generation, generations = action.slug, action.generation, self._generations
        match action:
            case WriteDocument():
                if needs_long(_needed(spec).limits):  # shortened by the limiter, when what serves now is gone
                    self._limits.set_long(slug, _needed(spec).limits)
                generations.write_document(_needed(spec), generation)
            case ParkVassal():
                generations.park(_needed(spec), generation)
            case RemoveParked():
                generations.unpark(slug, generation)
            case WriteVassal():
                await generations.write_vassal(_needed(spec), generation)
            case RestoreSocket():
                await generations.restore_socket(slug, generation)
            case AwaitEnd():
                await generations.await_end(slug, generation)
            case AwaitReady():
                await generations.await_ready(_needed(spec), generation, served=self._sites.served.get(slug))
            case Switch():
                self._switch(slug, spec, generation)
            case LetSleep():
                self._let_sleep(slug, generation)
            case RemoveGeneration():
                await generations.remove(slug, generation)
            case _:
                raise NodeError(f"an action nobody knows: {action}")

    def _unlink_host(self, slug: Slug, hostname: Fqdn) -> None:
        # It may have been given to another site meanwhile; no await lies between looking and removing.
        if self._tables.hosts.look(hostname) == slug:
            remove(self._layout.host(hostname))
            self._tables.hosts.look(hostname)

    def _remove_site(self, slug: Slug) -> None:
        remove(self._layout.site(slug))
        remove(self._layout.wake_failures / slug)
        remove(self._layout.process_mode(slug))
        self._written.drop(slug)
        self._limits.set_long(slug, None)
        self._limits.set_full(slug, False)
        self._sites.served.pop(slug, None)

    def _prepare(self, spec: SiteSpec) -> None:
        """The site's directory: root's, nginx may look. Its data: root's shell around three places of the site's.

        What stands in a data directory's place is kept under another name: the tenant may miss it.
        """
        # Raises when the site can have no user id.
        self._config.owner(spec.number, spec.project_number)
        as_root = self._config.uid_base is not None
        for place in site_places(self._config, self._nginx_gid, spec):
            path = Path(place.path)
            if place.name == "log":
                _mend_log(path, place.uid, place.gid)
                continue
            if place.name == "data":
                set_aside(path)
            elif not stat.S_ISDIR(_mode(path)):
                remove(path)
            make_directory(path, place.mode or 0, place.uid if as_root else None, place.gid if as_root else None)

    async def _fetch(self, spec: SiteSpec) -> None:
        if self._releases is None:
            raise NotReady(f"the release {spec.release.name} is not on this node")
        await self._releases.ensure(spec.release)

    def _set_mode_file(self, spec: SiteSpec, reader: str, *, up: bool) -> None:
        path, mode = next((path, mode) for name, path, mode in mode_files(self._layout, spec.slug) if name == reader)
        if not up:
            remove(path)
            return
        # A site whose secrets cannot be opened is closed all the same, to everybody.
        content = self._content.mode_text(spec, reader) or encode(standby_mode_document(spec, None))
        write_file(path, content, mode=mode)

    def _switch(self, slug: Slug, spec: SiteSpec | None, generation: int) -> None:
        """Lead visitors to the generation. To one that slept: standby may be about to take its ini away.

        It looks where app.sock leads after that, and we for the ini after we led: one of both sees the other.
        """
        slept = read_upstream(self._layout.site(slug)).asleep
        self._lead(slug, generation, lead_to)
        if slept and spec is not None and not self._layout.vassal(slug, generation).exists():
            self._let_sleep(slug, generation)
            raise Transient(f"generation {generation} fell asleep meanwhile")
        remove(self._layout.wake_failures / slug)  # what was said of one that visitors get no more

    def _let_sleep(self, slug: Slug, generation: int) -> None:
        self._lead(slug, generation, lambda site, _, protocol: lead_to_standby(site, protocol))

    def _lead(self, slug: Slug, generation: int, lead: Callable[[Path, int, Protocol], None]) -> None:
        """Lead visitors on. `serving` first: standby never wakes, and never goes back to, another generation."""
        directory = self._layout.site(slug)
        set_link(directory / "serving", socket_name(generation))
        lead(directory, generation, self._protocol(slug, generation))
        self._sites.served[slug] = generation


def _needed(spec: SiteSpec | None) -> SiteSpec:
    if spec is None:
        raise NodeError("this action needs a desired site")
    return spec


def _mode(path: Path) -> int:
    try:
        return os.lstat(path).st_mode
    except OSError:
        return stat.S_IFDIR  # nothing there to be removed


def _mend_log(path: Path, uid: int | None, gid: int | None) -> None:
    """Put right what is in the log's place; a process makes its own when it starts."""
    found = sign(str(path))
    if found is None:
        return
    if stat.S_ISREG(found[4]):
        set_access(path, LOG_MODE, uid, gid)
    else:
        remove(path)
