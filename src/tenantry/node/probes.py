"""Probes: what is on disk and which sockets are alive, read without disturbing anybody."""

import os
import stat
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tenantry.node.config import Config
from tenantry.node.effects.files import read_link
from tenantry.node.layout import Layout, parse_vassal
from tenantry.node.planner import ObservedSite
from tenantry.spec.names import Fqdn, Slug

_LISTENING_FLAG = 0x10000  # __SO_ACCEPTCON in /proc/net/unix
_SITE_PREFIX = "../sites/"
DATA_DIRECTORIES = ("media", "home", "tmp")


@dataclass(slots=True)
class Sockets:
    """The sockets `<site>/<generation>.sock`: which have a listener, how many connections each has."""

    listening: dict[Slug, set[int]] = field(default_factory=dict)
    connections: dict[Slug, dict[int, int]] = field(default_factory=dict)


def read_sockets(sites: Path, table: Path = Path("/proc/net/unix")) -> Sockets:
    """Return the sockets bound below `sites`, from the kernel's table.

    A connection made to a listening socket carries its path, also before the process accepted it: the count is the
    number of requests on their way. Paths as they were bound.
    """
    prefix = f"{sites}/".encode()
    found = Sockets()
    for line in table.read_bytes().splitlines():
        if prefix not in line:
            continue
        columns = line.split(None, 7)
        if len(columns) < 8 or not columns[7].startswith(prefix):
            continue
        site, _, name = os.fsdecode(columns[7][len(prefix) :]).partition("/")
        number = name.removesuffix(".sock")
        if not number.isdigit():
            continue
        slug, generation = Slug(site), int(number)
        if int(columns[3], 16) & _LISTENING_FLAG:
            found.listening.setdefault(slug, set()).add(generation)
        else:
            counts = found.connections.setdefault(slug, {})
            counts[generation] = counts.get(generation, 0) + 1
    return found


class HostTable:
    """The links in run/hosts and the site each points at; the index spares a scan per site."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._site_of: dict[Fqdn, Slug] = {}
        self._names_of: dict[Slug, set[Fqdn]] = {}

    def scan(self) -> None:
        """Read every link again."""
        self._site_of.clear()
        self._names_of.clear()
        for entry in os.scandir(self._directory):
            self.look(Fqdn(entry.name))

    def look(self, fqdn: Fqdn) -> Slug | None:
        """Read one link; return the site it routes to."""
        if fqdn.startswith("."):
            return None
        target = read_link(self._directory / fqdn) or ""
        slug = Slug(target.removeprefix(_SITE_PREFIX)) if target.startswith(_SITE_PREFIX) else None
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


def scan_vassals(layout: Layout) -> dict[Slug, set[int]]:
    """Return the generations that have an ini, by site."""
    found: dict[Slug, set[int]] = {}
    for entry in os.scandir(layout.vassals):
        parsed = parse_vassal(entry.name)
        if parsed is not None:
            found.setdefault(parsed[0], set()).add(parsed[1])
    return found


def observe_site(
    config: Config, slug: Slug, hostnames: frozenset[Fqdn], sockets: Sockets, candidates: Iterable[int]
) -> ObservedSite:
    """Return what is on the node for `slug`. An ini is looked for only where something else hints at it.

    `candidates` are generations that may have one without a document or socket: the desired one, those of a scan.
    """
    layout = config.layout
    directory = layout.site(slug)
    names = _names(directory)
    documents = _generations(directory, names or (), "site.", ".json")
    bound = _generations(directory, names or (), "", ".sock")
    serving, seconds = _serving(directory / "app.sock")
    hinted = {*candidates, *documents, *bound, *([] if serving is None else [serving])}
    return ObservedSite(
        slug=slug,
        directory=names is not None,
        data=all((layout.data(slug) / name).is_dir() for name in DATA_DIRECTORIES),
        documents=documents,
        vassals=frozenset(n for n in hinted if _filled(layout.vassal(slug, n))),
        sockets=bound,
        listening=frozenset(sockets.listening.get(slug, ())),
        in_flight=sockets.connections.get(slug, {}),
        serving=serving,
        serving_seconds=seconds,
        hostnames=hostnames,
        static=read_link(directory / "static"),
        media=read_link(directory / "media"),
    )


def _names(directory: Path) -> list[str] | None:
    try:
        return [path.name for path in directory.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return None


def _generations(directory: Path, names: Iterable[str], prefix: str, suffix: str) -> frozenset[int]:
    found = set()
    for name in names:
        number = name.removeprefix(prefix).removesuffix(suffix)
        if (
            name == f"{prefix}{number}{suffix}"
            and number.isdigit()
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


def _serving(link: Path) -> tuple[int | None, float]:
    """Return the generation app.sock points at and the seconds since that was written."""
    target = read_link(link) or ""
    number = target.removesuffix(".sock")
    if not number.isdigit():
        return None, 0.0
    try:
        return int(number), time.time() - os.lstat(link).st_mtime
    except FileNotFoundError:
        return None, 0.0
