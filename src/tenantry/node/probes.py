"""Probes: what is on disk and which sockets are alive, read without disturbing anybody."""

import os
import stat
import time
from collections.abc import Iterable
from pathlib import Path

from tenantry.node.config import Config
from tenantry.node.effects.files import is_directory, read_link
from tenantry.node.integrity import Watched
from tenantry.node.layout import Layout, is_slug, parse_vassal
from tenantry.node.planner import FLAGS, ObservedSite
from tenantry.node.sockets import Sockets, read_sockets
from tenantry.node.upstream import read_upstream
from tenantry.spec.names import Fqdn, Slug

_SITE_PREFIX = "../sites/"
DATA_DIRECTORIES = ("media", "home", "tmp")


class HostTable:
    """The links in run/hosts and the site each points at; the index spares a scan per site."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._watched = Watched(directory)
        self._site_of: dict[Fqdn, Slug] = {}
        self._names_of: dict[Slug, set[Fqdn]] = {}
        self.foreign: tuple[Path, ...] = ()

    def scan(self) -> bool:
        """Read every link again, if any moved; returns whether. Entries that route to no site are `foreign` then."""
        if not self._watched.moved():
            return False
        self._site_of.clear()
        self._names_of.clear()
        foreign = [name for name in entries(self._directory) if self.look(Fqdn(name)) is None]
        self.foreign = tuple(self._directory / name for name in foreign)
        return True

    def known(self, slug: Slug) -> frozenset[Fqdn] | set[Fqdn]:
        """Return the names that routed to `slug` when the links were last read."""
        return self._names_of.get(slug, frozenset())

    def look(self, fqdn: Fqdn) -> Slug | None:
        """Read one link; return the site it routes to."""
        if fqdn.startswith("."):
            return None
        target = read_link(self._directory / fqdn) or ""
        name = target.removeprefix(_SITE_PREFIX)
        slug = Slug(name) if target.startswith(_SITE_PREFIX) and is_slug(name) else None
        before = self._site_of.pop(fqdn, None)
        if before is not None:
            self._names_of[before].discard(fqdn)
        if slug is not None:
            self._site_of[fqdn] = slug
            self._names_of.setdefault(slug, set()).add(fqdn)
        return slug

    def of(self, slug: Slug, desired: Iterable[Fqdn] = ()) -> frozenset[Fqdn]:
        """Return the names that route to `slug`: those known, and those of `desired`, each read again."""
        for fqdn in {*self._names_of.get(slug, ()), *desired}:
            self.look(fqdn)
        return frozenset(self._names_of.get(slug, ()))

    def sites(self) -> frozenset[Slug]:
        return frozenset(slug for slug, names in self._names_of.items() if names)


class VassalTable:
    """The inis in run/vassals, by site and generation."""

    def __init__(self, layout: Layout) -> None:
        self._directory = layout.vassals
        self._watched = Watched(layout.vassals)
        self._generations: dict[Slug, set[int]] = {}
        self.foreign: tuple[Path, ...] = ()

    def scan(self) -> bool:
        """Read the directory again, if an entry moved; returns whether. What is no ini of ours is `foreign` then."""
        if not self._watched.moved():
            return False
        self._generations = {}
        foreign = []
        for name in entries(self._directory):
            parsed = parse_vassal(name)
            if parsed is None:
                foreign.append(self._directory / name)
            else:
                self.add(*parsed)
        self.foreign = tuple(foreign)
        return True

    def add(self, slug: Slug, generation: int) -> None:
        self._generations.setdefault(slug, set()).add(generation)

    def discard(self, slug: Slug, generation: int) -> None:
        self._generations.get(slug, set()).discard(generation)

    def of(self, slug: Slug) -> frozenset[int]:
        return frozenset(self._generations.get(slug, ()))

    def names(self) -> frozenset[str]:
        """Return the names of all inis."""
        return frozenset(f"{slug}.{n:d}.ini" for slug, found in self._generations.items() for n in found)

    def sites(self) -> frozenset[Slug]:
        return frozenset(slug for slug, found in self._generations.items() if found)


class WakeFailures:
    """Sites that standby could not wake, and why. Read again only when one came or went."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._watched = Watched(directory)
        self._messages: dict[Slug, str] = {}

    def scan(self) -> frozenset[Slug]:
        """Read again if anything moved; return the sites of which something else is said now."""
        if not self._watched.moved():
            return frozenset()
        before, self._messages = self._messages, {}
        for name in entries(self._directory):
            if is_slug(name):
                try:
                    self._messages[Slug(name)] = (self._directory / name).read_text(errors="replace")
                except OSError:
                    continue  # it was woken at this moment
        both = before.keys() | self._messages.keys()
        return frozenset(slug for slug in both if before.get(slug) != self._messages.get(slug))

    def of(self, slug: Slug) -> str | None:
        return self._messages.get(slug)


class Tables:
    """What is read once for all sites: hostname links, inis, sockets, failures to wake."""

    def __init__(self, layout: Layout) -> None:
        self._sites = layout.sites
        self.hosts = HostTable(layout.hosts)
        self.vassals = VassalTable(layout)
        self.wake_failures = WakeFailures(layout.wake_failures)
        self.sockets = Sockets()
        self._sockets_at = float("-inf")
        self._directories_after = float("-inf")

    def refresh_sockets(self, seconds: float) -> None:
        """Read the kernel's table again when the last reading is older than this."""
        now = time.monotonic()
        if now - self._sockets_at > seconds:
            self.sockets, self._sockets_at = read_sockets(self._sites), now

    def refresh_directories(self) -> None:
        """Read the links and the inis again if any moved.

        Where they move all the time and are many, reading them takes a tenth of the time at most.
        """
        began = time.monotonic()
        if began < self._directories_after:
            return
        read = [self.hosts.scan(), self.vassals.scan()]
        if any(read):
            now = time.monotonic()
            self._directories_after = now + 9 * (now - began)

    def forget_sockets(self) -> None:
        """Something changed who listens: the next reading is a new one."""
        self._sockets_at = float("-inf")


def observe_site(config: Config, slug: Slug, tables: Tables, candidates: Iterable[int]) -> ObservedSite:
    """Return what is on the node for `slug`. An ini is looked for only where something else hints at it.

    `candidates` are generations that may have one without a document or socket, such as the desired one.
    """
    layout = config.layout
    directory = layout.site(slug)
    names = entries(directory) if is_directory(directory) else None
    documents = _generations(directory, names or (), "site.", ".json")
    bound = _generations(directory, names or (), "", ".sock")
    asleep, serving, seconds = (False, None, 0.0) if names is None else _serving(directory)
    hinted = {*candidates, *documents, *bound, *([] if serving is None else [serving])}
    data = layout.data(slug)
    return ObservedSite(
        slug=slug,
        directory=names is not None,
        data=is_directory(data) and all(is_directory(data / name) for name in DATA_DIRECTORIES),
        documents=documents,
        vassals=frozenset(n for n in hinted if _filled(layout.vassal(slug, n))),
        sockets=bound,
        listening=frozenset(tables.sockets.listening.get(slug, ())),
        in_flight=tables.sockets.connections.get(slug, {}),
        serving=serving,
        serving_seconds=seconds,
        hostnames=frozenset(tables.hosts.known(slug)),
        static=None if names is None else read_link(directory / "static"),
        media=None if names is None else read_link(directory / "media"),
        flags=frozenset(flag for flag in FLAGS if f"mode.{flag}" in (names or ())),
        parked=_generations(directory, names or (), "vassal.", ".ini"),
        asleep=asleep,
        idle=None if names is None else read_link(directory / "idle"),
        wake_problem=tables.wake_failures.of(slug),
    )


def entries(directory: Path) -> list[str]:
    """Return the names in a directory; none of one that is not there."""
    try:
        return os.listdir(directory)  # noqa: PTH208  (names are wanted, of 10,000 entries)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _generations(directory: Path, names: Iterable[str], prefix: str, suffix: str) -> frozenset[int]:
    found = set()
    for name in names:
        number = name.removeprefix(prefix).removesuffix(suffix)
        if (
            name == f"{prefix}{number}{suffix}"
            and number.isdecimal()
            and (suffix == ".sock" or _filled(directory / name))
        ):
            found.add(int(number))
    return frozenset(found)


def _filled(path: Path) -> bool:
    """Whether a regular file with something in it is there: a power failure may leave an empty one."""
    try:
        state = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISREG(state.st_mode) and state.st_size > 0


def serving_generation(directory: Path) -> tuple[bool, int | None]:
    """Return whether a site sleeps, and the generation that visitors get: that which runs, or which they wake."""
    upstream = read_upstream(directory)
    return upstream.asleep, upstream.generation


def _serving(directory: Path) -> tuple[bool, int | None, float]:
    upstream = read_upstream(directory)
    seconds = upstream.age_seconds
    return (False, None, 0.0) if seconds == float("inf") else (upstream.asleep, upstream.generation, seconds)
