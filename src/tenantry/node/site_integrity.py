"""One site compared with what was made for it: cheap while nothing was touched, file by file where something was.

`damage` names what is not as it was made (the planner's names, see `planner`), each with the difference to report.
A site that was found whole is remembered by its signatures; `unchanged` compares those and reads nothing.
"""

import os
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tenantry.node.config import Config
from tenantry.node.effects.files import is_directory, is_stale, read_link
from tenantry.node.integrity import Drift, Place, Signature, compare, describe, settled, sign, sign_shell
from tenantry.node.layout import Layout, socket_name
from tenantry.node.planner import FLAGS, FORMER, idle_target, is_former, media_target, mode_flags, static_target
from tenantry.node.probes import Tables, serving_generation
from tenantry.node.render.engine import Protocol
from tenantry.node.render.engines import driver_of
from tenantry.node.site_places import (
    DOCUMENT_MODE,
    FLAG_MODE,
    VASSAL_MODE,
    generation_in,
    is_own,
    mode_files,
    parse_entry,
    site_places,
)
from tenantry.node.upstream import FLAG_MODE as PROTOCOL_FLAG_MODE
from tenantry.node.upstream import WAKE_TARGETS, flag_path, link_path, read_upstream
from tenantry.node.vassal import SOCKET_MODE
from tenantry.node.written import Written
from tenantry.spec.names import Slug
from tenantry.spec.sites import Mode, ReleaseSpec, SiteSpec

LEFTOVER_SECONDS = 60.0  # after a switch in which an older generation's files are still being taken away

Damage = dict[str, Drift]
Renderer = Callable[[SiteSpec, int], bytes | None]


@dataclass(frozen=True, slots=True)
class Renderers:
    """What a document and an ini must hold, and the document of a mode for one of its readers.

    None when it cannot be told (secrets that cannot be opened). `unnoted_vassal`: what an ini may hold of which nobody
    noted what was written, because agents did not yet.
    """

    document: Renderer
    vassal: Renderer
    unnoted_vassal: Renderer
    mode: Callable[[SiteSpec, str], bytes | None]


@dataclass(frozen=True, slots=True)
class _Known:
    """A site as it was found whole. `inode`: of the socket its process listens on, None of one that sleeps."""

    spec: SiteSpec
    inode: int | None
    signed: tuple[tuple[str, Signature], ...]
    shells: tuple[tuple[str, Signature | None], ...]


class SiteIntegrity:
    """Compares sites with what is desired. `served` holds which generation visitors of each got when it was whole."""

    def __init__(
        self,
        config: Config,
        tables: Tables,
        written: Written,
        renderers: Renderers,
        present: Callable[[ReleaseSpec], bool],
    ) -> None:
        self._config = config
        self._layout: Layout = config.layout
        self._nginx_gid = config.nginx_gid()
        self._tables = tables
        self._written = written
        self._renderers = renderers
        self._present = present
        self._known: dict[Slug, _Known] = {}
        self.served: dict[Slug, int] = {}

    def forget(self, slug: Slug) -> None:
        self._known.pop(slug, None)

    def unchanged(self, slug: Slug, spec: SiteSpec) -> bool:
        """Whether the site is as it was when it was last found whole. Reads no content; tables as they are."""
        known = self._known.get(slug)
        if known is None or (known.spec is not spec and known.spec != spec):
            return False
        generation = spec.generation
        tables = self._tables
        vassals = tables.vassals.of(slug)
        if known.inode is None:
            if vassals - {generation}:
                return False
        elif generation not in tables.sockets.listening.get(slug, ()) or vassals != {generation}:
            return False
        if tables.hosts.known(slug) != set(spec.hostnames):
            return False
        for path, signature in known.signed:
            if sign(path) != signature:
                return False
        for path, shell in known.shells:
            if sign_shell(path) != shell:
                return False
        bound = known.inode is None or tables.sockets.is_bound(slug, generation, known.inode)
        return bound and self._present(spec.release)

    def damage(self, slug: Slug, spec: SiteSpec) -> Damage:
        """Return what of the site is not as it was made, by the planner's names. Reads what has to be read."""
        now = time.time_ns()
        before = self._sign(spec)
        found: Damage = {}
        for name, drift in self._differences(slug, spec):
            found.setdefault(name, drift)
        asleep, serving = serving_generation(self._layout.site(slug))
        left = self._tables.vassals.of(slug) - {serving}
        if found or serving != spec.generation or left or not (asleep or self._tables.vassals.of(slug)):
            self.forget(slug)
        elif all(settled(signature, now) for _, signature in before if signature is not None):
            watched = [place.path for place in self._places(spec)[1:]]
            if spec.mode is Mode.LIVE:
                watched.append(str(self._layout.process_mode(slug)))  # which must not be there
            shells = tuple((path, sign_shell(path)) for path in watched)
            signed = tuple((path, signature) for path, signature in before if signature is not None)
            socket = dict(before)[str(self._layout.socket(slug, serving))]
            self._known[slug] = _Known(spec, None if asleep or socket is None else socket[0], signed, shells)
        if serving is not None and "app.sock" not in found:
            self.served[slug] = serving
        return found

    def _sign(self, spec: SiteSpec) -> list[tuple[str, Signature | None]]:
        layout, slug, generation = self._layout, spec.slug, spec.generation
        paths = [
            layout.site(slug),
            layout.socket(slug, generation),
            layout.document(slug, generation),
            *self._inis(spec),
            *(layout.site(slug) / f"mode.{flag}" for flag in sorted(mode_flags(spec.mode))),
            *self._protocol_flag(spec),
            *([] if spec.mode is Mode.LIVE else [layout.mode(slug), layout.process_mode(slug)]),
        ]
        return [(str(path), sign(str(path))) for path in paths]

    def _protocol_flag(self, spec: SiteSpec) -> list[Path]:
        speaks_http = driver_of(spec.release.engine).protocol is Protocol.HTTP
        return [flag_path(self._layout.site(spec.slug))] if speaks_http else []

    def _inis(self, spec: SiteSpec) -> list[Path]:
        """The inis of the desired generation; of an on-demand one, the vassal comes and goes."""
        layout, slug, generation = self._layout, spec.slug, spec.generation
        if not spec.sleeps:
            return [layout.vassal(slug, generation)]
        return [layout.parked(slug, generation), layout.vassal(slug, generation)]

    def _places(self, spec: SiteSpec) -> list[Place]:
        return site_places(self._config, self._nginx_gid, spec)

    def _differences(self, slug: Slug, spec: SiteSpec) -> Iterator[tuple[str, Drift]]:
        for place in self._places(spec):
            if place.name == "log" and not os.path.lexists(place.path):
                continue  # made when a process starts
            drift = compare(place, self._layout.home, slug)
            if drift is not None:
                yield place.name, drift
        directory = self._layout.site(slug)
        asleep, serving = serving_generation(directory) if is_directory(directory) else (False, None)
        yield from self._hostnames(slug, spec, serving)
        if self._is_made(spec, serving) and not self._present(spec.release):
            yield "release", Drift(slug, "release", f"releases/{spec.release.name}", "is not here, or not whole")
        if not is_directory(directory):
            if spec.generation in self._tables.sockets.listening.get(slug, ()):
                gone = self._layout.socket(slug, spec.generation)
                yield f"socket:{spec.generation}", self._drift(spec, "socket", gone, "is gone")
            return
        yield from self._links(spec, serving, asleep)
        yield from self._flags(spec)
        yield from self._mode_files(spec)
        yield from self._entries(spec, serving)
        checked = spec.generation if self._is_made(spec, serving) else serving
        if checked is not None:
            yield from self._generation(spec, checked, asleep=asleep and checked == serving)

    def _is_made(self, spec: SiteSpec, serving: int | None) -> bool:
        """Whether the desired generation is the one whose files must be whole; before its switch it is work."""
        if serving == spec.generation:
            return True
        other = serving is not None and self._layout.document(spec.slug, serving).exists()
        return not other and self._layout.document(spec.slug, spec.generation).exists()

    def _hostnames(self, slug: Slug, spec: SiteSpec, serving: int | None) -> Iterator[tuple[str, Drift]]:
        known = self._tables.hosts.known(slug)
        for fqdn in sorted(set(known) - set(spec.hostnames)):
            yield f"host:{fqdn}", Drift(slug, "link", f"run/hosts/{fqdn}", "routes to a site whose name it is not")
        if serving is None and slug not in self.served:
            return  # not routed before something serves
        for fqdn in sorted(set(spec.hostnames) - set(known)):
            place = Place(
                f"host:{fqdn}", str(self._layout.host(fqdn)), stat.S_IFLNK, target=f"../sites/{slug}"
            )  # fmt: skip
            drift = compare(place, self._layout.home, slug)
            if drift is not None:
                yield place.name, drift

    def _links(self, spec: SiteSpec, serving: int | None, asleep: bool) -> Iterator[tuple[str, Drift]]:
        wanted = {"media": media_target(spec)}
        if serving == spec.generation:
            wanted["static"] = static_target(spec)
            if spec.sleeps:
                wanted["idle"] = idle_target(spec)
        if spec.sleeps and serving is not None and not asleep:
            wanted["serving"] = socket_name(serving)
        for name, target in wanted.items():
            path = self._layout.site(spec.slug) / name
            if target is not None:
                drift = compare(Place(name, str(path), stat.S_IFLNK, target=target), self._layout.home, spec.slug)
                if drift is not None:
                    yield name, drift
            elif os.path.lexists(path):
                yield name, self._drift(spec, "link", path, "is here, though the project has none")
        if serving == spec.generation:
            yield from self._protocol(spec)
        elif self._is_made(spec, serving) or self._was_served(spec, serving):
            generation = self.served.get(spec.slug, spec.generation)
            upstream = read_upstream(self._layout.site(spec.slug))
            speaks = driver_of(spec.release.engine).protocol if generation == spec.generation else upstream.protocol
            path = link_path(self._layout.site(spec.slug), speaks)
            sleeps = spec.sleeps and self._layout.parked(spec.slug, generation).exists()
            runs = generation in self._tables.sockets.listening.get(spec.slug, ())
            target = WAKE_TARGETS[speaks] if sleeps and not runs else socket_name(generation)
            place = Place("app.sock", str(path), stat.S_IFLNK, target=target)
            drift = compare(place, self._layout.home, spec.slug)
            if drift is not None:
                yield "app.sock", drift
            elif speaks is Protocol.HTTP:
                yield from self._flag_of_http(spec)  # without it nginx looks for the other link, which leads nowhere

    def _protocol(self, spec: SiteSpec) -> Iterator[tuple[str, Drift]]:
        """Whether nginx speaks with the desired generation in the way that its engine understands."""
        upstream = read_upstream(self._layout.site(spec.slug))
        if upstream.protocol is not driver_of(spec.release.engine).protocol:
            detail = f"leads to a generation that does not speak {upstream.protocol}"
            yield "app.sock", self._drift(spec, "link", upstream.path, detail)
        elif upstream.protocol is Protocol.HTTP:
            yield from self._flag_of_http(spec)

    def _flag_of_http(self, spec: SiteSpec) -> Iterator[tuple[str, Drift]]:
        flag = flag_path(self._layout.site(spec.slug))
        place = Place("app.sock", str(flag), stat.S_IFREG, PROTOCOL_FLAG_MODE, os.geteuid(), os.getegid())
        drift = compare(place, self._layout.home, spec.slug)
        if drift is not None:
            yield "app.sock", drift

    def _was_served(self, spec: SiteSpec, serving: int | None) -> bool:
        served = self.served.get(spec.slug)
        if served is None or served == serving:
            return False
        return serving is None or not self._layout.document(spec.slug, serving).exists()

    def _flags(self, spec: SiteSpec) -> Iterator[tuple[str, Drift]]:
        wanted = mode_flags(spec.mode)
        for flag in FLAGS:
            path = self._layout.site(spec.slug) / f"mode.{flag}"
            if flag in wanted:
                place = Place(flag, str(path), stat.S_IFREG, FLAG_MODE, os.geteuid(), os.getegid())
                drift = compare(place, self._layout.home, spec.slug)
                if drift is not None:
                    yield f"flag:{flag}", drift
            elif os.path.lexists(path):
                yield f"flag:{flag}", self._drift(spec, "file", path, f"is here, though the mode is {spec.mode}")

    def _mode_files(self, spec: SiteSpec) -> Iterator[tuple[str, Drift]]:
        for reader, path, mode in mode_files(self._layout, spec.slug):
            name = f"mode:{reader}"
            if spec.mode is Mode.LIVE:
                if os.path.lexists(path):
                    yield name, self._drift(spec, "file", path, "is here, though the mode is live")
                continue
            place = Place(name, str(path), stat.S_IFREG, mode, os.geteuid(), os.getegid())
            drift = compare(place, self._layout.home, spec.slug)
            if drift is None and self._is_other(path, self._renderers.mode(spec, reader)):
                drift = self._drift(spec, "file", path, "does not say what the mode is")
            if drift is not None:
                yield name, drift

    @staticmethod
    def _is_other(path: Path, expected: bytes | None) -> bool:
        try:
            return expected is not None and path.read_bytes() != expected
        except OSError:
            return True

    def _entries(self, spec: SiteSpec, serving: int | None) -> Iterator[tuple[str, Drift]]:
        """What is in the directory, or in run/vassals for the site, beside what belongs there."""
        directory = self._layout.site(spec.slug)
        kept = {serving, spec.generation, self.served.get(spec.slug)}
        left = []
        for name in sorted(entry.name for entry in directory.iterdir()):
            generation = parse_entry(name)
            path = directory / name
            if name == FORMER and not is_former(spec, read_link(path)):
                detail = "does not lead to static files of the site's project"
                yield f"foreign:{name}", self._drift(spec, "link", path, detail)
            if generation is None and not is_own(name):
                if is_stale(name):
                    detail = "was left by an interrupted write"
                else:
                    detail = f"is a {describe(os.lstat(path).st_mode)} that the agent did not make"
                yield f"foreign:{name}", self._drift(spec, "file", path, detail)
            elif generation is not None and generation not in kept:
                left.append((name, path))
        for generation in self._tables.vassals.of(spec.slug) - kept:
            path = self._layout.vassal(spec.slug, generation)
            if os.path.lexists(path):
                left.append((path.name, path))
        if abs(read_upstream(directory).age_seconds) <= LEFTOVER_SECONDS:  # below 0, the clock was set back since
            # Generations only grow: a newer one than the desired was never served, so nothing of it is on its way out.
            left = [(name, path) for name, path in left if (generation_in(name) or 0) > spec.generation]
        for name, path in left:
            kind = "vassal" if name.endswith(".ini") else "file"
            yield f"leftover:{name}", self._drift(spec, kind, path, "is of a generation that does not serve")

    def _generation(self, spec: SiteSpec, generation: int, *, asleep: bool) -> Iterator[tuple[str, Drift]]:
        slug, layout = spec.slug, self._layout
        document, vassal = layout.document(slug, generation), layout.vassal(slug, generation)
        started = _mtime(layout.socket(slug, generation))
        parts = [("document", document, DOCUMENT_MODE)]
        if spec.sleeps:
            parts.append(("parked", layout.parked(slug, generation), VASSAL_MODE))
        if not asleep:
            parts.append(("vassal", vassal, VASSAL_MODE))
        for part, path, mode in parts:
            name = f"{part}:{generation}"
            place = Place(name, str(path), stat.S_IFREG, mode, os.geteuid(), os.getegid())
            drift = compare(place, layout.home, slug)
            if drift is None or drift.kind in ("mode", "owner"):
                changed = self._is_changed(spec, generation, part, path)
                drift = self._drift(spec, "file", path, "its content was changed") if changed else drift
                # One that nobody noted was written by another release of the agent, so its process is as good as ever.
                suspicious = changed and part == "document" and self._written.noted(slug, path.name)
                if suspicious and started is not None and started >= _ctime(path):
                    detail = "its process started with a changed document"
                    yield f"socket:{generation}", self._drift(spec, "vassal", vassal, detail)
            if drift is not None:
                yield name, drift
        if not asleep:
            yield from self._socket(spec, generation)

    def _is_changed(self, spec: SiteSpec, generation: int, part: str, path: Path) -> bool:
        try:
            content = path.read_bytes()
        except OSError:
            return True
        if self._written.knows(spec.slug, path.name, content):
            return False
        if generation != spec.generation:
            return False  # an older generation's specification is not known any more
        renderer = self._renderers.document if part == "document" else self._renderers.vassal
        expected = renderer(spec, generation)
        if expected is None or content == expected:
            return False
        unnoted = part == "vassal" and not self._written.noted(spec.slug, path.name)
        return not (unnoted and content == self._renderers.unnoted_vassal(spec, generation))

    def _socket(self, spec: SiteSpec, generation: int) -> Iterator[tuple[str, Drift]]:
        slug, path = spec.slug, self._layout.socket(spec.slug, generation)
        name = f"socket:{generation}"
        place = Place(name, str(path), stat.S_IFSOCK, SOCKET_MODE, os.geteuid(), self._nginx_gid)
        if generation not in self._tables.sockets.listening.get(slug, ()):
            vassal = self._layout.vassal(slug, generation)
            if vassal.exists():
                yield f"process:{generation}", self._drift(spec, "vassal", vassal, "no process of it listens")
            if os.path.lexists(path) and not stat.S_ISSOCK(os.lstat(path).st_mode):
                yield name, self._drift(spec, "socket", path, "is no socket")
            return
        drift = compare(place, self._layout.home, slug)
        if drift is None and not self._tables.sockets.is_bound(slug, generation, os.lstat(path).st_ino):
            drift = self._drift(spec, "socket", path, "is not the socket its process listens on")
        if drift is not None:
            yield name, drift

    def _drift(self, spec: SiteSpec, kind: str, path: Path, detail: str) -> Drift:
        return Drift(spec.slug, kind, os.path.relpath(path, self._layout.home), detail)


def _mtime(path: Path) -> int | None:
    try:
        return os.lstat(path).st_mtime_ns
    except OSError:
        return None


def _ctime(path: Path) -> int:
    try:
        return os.lstat(path).st_ctime_ns
    except OSError:
        return 0
