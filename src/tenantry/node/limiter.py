"""Holds sites to their limits, again and again: what the kernel does not do by itself, and what it did.

A site over its disk space keeps everything but uploads. Nothing here ends a process or deletes a file.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Protocol

from tenantry.spec.limits import Limits
from tenantry.spec.names import Slug
from tenantry.spec.sites import SiteSpec

logger = logging.getLogger(__name__)

ROUND_SECONDS = 20.0
PAUSE_FACTOR = 20  # a site whose files take a second to count is counted again after 20 s at the earliest
SHOWN_SECONDS = 600.0  # how long it is said that a site's process was ended
NOT_ENFORCED = "LimitsNotEnforced"
DISK_FULL = "DiskLimitReached"
MEMORY_FULL = "MemoryLimitReached"
_SHOWN = 5  # sites named in a condition

Say = Callable[[str, str | None], None]


class Means(Protocol):
    """What a machine has to hold a site to its limits."""

    def controllers(self) -> frozenset[str]: ...

    def note_groups(self) -> None: ...

    def set_long(self, slug: Slug, limits: Limits | None) -> None: ...

    def set_full(self, slug: Slug, full: bool) -> None: ...

    def flagged(self) -> frozenset[Slug]: ...

    def is_here(self, slug: Slug) -> bool: ...

    def remove_old_groups(self) -> None: ...

    def bring_forward(self) -> None: ...

    def kills(self) -> dict[str, int]: ...

    async def disk_mb(self, slug: Slug) -> int | None: ...


class Limiter:
    """Looks after the sites of `specs`. `say` sets a condition of the node, or clears it. `run` never returns."""

    def __init__(
        self, means: Means, specs: Callable[[], Iterable[SiteSpec]], say: Say, *, clock: Callable[[], float]
    ) -> None:
        self._means = means
        self._specs = specs
        self._say = say
        self._clock = clock
        self._kills: dict[str, int] = {}
        self._killed_at: dict[str, float] = {}
        self._measure_at: dict[Slug, float] = {}
        self._full: dict[Slug, str] = {}

    async def run(self) -> None:
        while True:
            await self.round()
            await asyncio.sleep(ROUND_SECONDS)

    async def round(self) -> None:
        """Look at every site once. What fails is logged and tried again with the next round."""
        try:
            specs = list(self._specs())
            self._means.note_groups()
            self._means.remove_old_groups()
            self._means.bring_forward()
            self._set_long(specs)
            self._say_enforcement(specs)
            self._say_kills()
            await self._measure(specs)
        except OSError as error:
            logger.warning("limits: %s: %s", error.strerror, error.filename)

    def _set_long(self, specs: list[SiteSpec]) -> None:
        for spec in specs:
            if self._means.is_here(spec.slug):
                self._means.set_long(spec.slug, spec.limits)
        for slug in self._means.flagged():
            if not self._means.is_here(slug):
                self._means.set_long(slug, None)
                self._means.set_full(slug, False)

    def _say_enforcement(self, specs: list[SiteSpec]) -> None:
        limited = [spec.slug for spec in specs if spec.limits.memory_mb]
        missing = bool(limited) and "memory" not in self._means.controllers()
        self._say(
            NOT_ENFORCED,
            f"the memory of {_named(limited)} is not held to its limit by the kernel: this node has no control group "
            "for memory. Workers that grow are replaced all the same. «tenantry doctor» there says more"
            if missing
            else None,
        )

    def _say_kills(self) -> None:
        now, kills = self._clock(), self._means.kills()
        for name, count in kills.items():
            if count > self._kills.get(name, 0):
                logger.warning("%s reached its limit of memory; the kernel ended a process of it", name)
                self._killed_at[name.rpartition(".")[0]] = now
        self._kills = kills
        self._killed_at = {slug: at for slug, at in self._killed_at.items() if now - at < SHOWN_SECONDS}
        self._say(
            MEMORY_FULL,
            f"{_named(sorted(self._killed_at))}: the kernel ended a process at the site's limit of memory, in the last "
            f"{SHOWN_SECONDS / 60:.0f} minutes"
            if self._killed_at
            else None,
        )

    async def _measure(self, specs: list[SiteSpec]) -> None:
        limited = {spec.slug: spec.limits.disk_mb for spec in specs if spec.limits.disk_mb}
        for slug in [*self._full, *(self._means.flagged() - self._full.keys())]:
            if slug not in limited:
                self._full.pop(slug, None)
                self._means.set_full(slug, False)
        for slug, most in limited.items():
            began = self._clock()
            if began < self._measure_at.get(slug, 0.0) or not self._means.is_here(slug):
                continue
            used = await self._means.disk_mb(slug)
            self._measure_at[slug] = began + PAUSE_FACTOR * (self._clock() - began)
            if used is None or used > most:
                amount = "too many files to be counted" if used is None else f"{used:,} MB"
                self._full[slug] = f"{slug} has {amount} of {most:,} MB"
            else:
                self._full.pop(slug, None)
            self._means.set_full(slug, slug in self._full)
        said = ", ".join([self._full[slug] for slug in sorted(self._full)][:_SHOWN])
        self._say(DISK_FULL, f"{said}: uploads are refused until something is deleted" if self._full else None)


def _named(slugs: list[Slug] | list[str]) -> str:
    more = len(slugs) - _SHOWN
    return ", ".join(slugs[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
