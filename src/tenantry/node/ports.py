"""What the agent's core needs from outside: a database, a machine, a memory. `main` gives it real ones."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tenantry.node.actions import Action
from tenantry.node.answer import Entry
from tenantry.node.desired import Head
from tenantry.node.integrity import Drift
from tenantry.node.planner import ObservedSite
from tenantry.spec.names import Slug
from tenantry.spec.sites import SiteSpec


class DesiredSource(Protocol):
    """Where the desired state comes from and the report goes to."""

    async def desired(self, since: int) -> Any: ...

    async def report(self, report: Mapping[str, Any]) -> None: ...


class SiteHost(Protocol):
    """The machine, as far as one site is concerned. `resembles`: what is here was made of this spec.

    `made_for`: the number of the site that a generation's files were made for, None where they do not say.
    """

    def scan(self) -> frozenset[Slug]: ...

    def observe(self, slug: Slug, spec: SiteSpec | None) -> ObservedSite: ...

    def resembles(self, spec: SiteSpec) -> bool: ...

    def made_for(self, slug: Slug, generation: int) -> int | None: ...

    async def apply(self, action: Action, spec: SiteSpec | None) -> None: ...


class CheckedHost(Protocol):
    """The machine, compared with what it should be. `examine` is cheap where nothing was touched since last time."""

    def examine(self, slug: Slug, spec: SiteSpec) -> tuple[Drift, ...]: ...

    async def examine_node(self) -> tuple[Drift, ...]: ...

    async def repair_node(self, drifts: tuple[Drift, ...]) -> None: ...


class BalancedHost(Protocol):
    """The machine as a load balancer's target."""

    async def set_draining(self, draining: bool) -> None: ...

    async def visitors(self) -> int: ...


class WakingHost(Protocol):
    """The machine as the place where sites sleep and are woken."""

    def changed_wakings(self) -> frozenset[Slug]: ...


class TouchedHost(Protocol):
    """The machine, as far as touches of `restart` are concerned, by a person or, `own`, by the site itself.

    `with_file` returns those of the sites that have the file, at the cost of a call of the kernel for each; `touched`
    when it was touched, in ns, None if that does not count.
    """

    def with_file(self, slugs: Sequence[Slug], *, own: bool) -> list[Slug]: ...

    def touched(self, slug: Slug, *, own: bool) -> int | None: ...


class LoggedHost(Protocol):
    """The machine, as far as it has the sites' logs."""

    @property
    def logs(self) -> "GrownLogs": ...


class GrownLogs(Protocol):
    """The sites' logs: what was written since the last look, by site, of much the end; and the end of one."""

    def grown(self) -> Mapping[Slug, str]: ...

    def tail(self, slug: Slug) -> str: ...


class Host(SiteHost, CheckedHost, BalancedHost, TouchedHost, LoggedHost, WakingHost, Protocol):
    """The machine."""


@dataclass(frozen=True, slots=True)
class Remembered:
    """A state from before the start, complete up to `head.revision`. `head` None: there is none.

    `problems` says what of it could not be used.
    """

    head: Head | None
    entries: tuple[Entry, ...] = ()
    problems: tuple[str, ...] = ()
    drifts: tuple[Mapping[str, Any], ...] = ()


class Memory(Protocol):
    """Where the last accepted state survives, and the drifts that were reported and not repaired."""

    def save(self, head: Head, entries: Iterable[Entry]) -> None: ...

    def save_drifts(self, drifts: Iterable[Mapping[str, Any]]) -> None: ...
