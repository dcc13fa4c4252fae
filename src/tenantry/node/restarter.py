"""Restarts a site for whoever touches its file `restart`: a person at `run/sites/<slug>/restart`, which root alone can
write, or the site itself at `data/<slug>/home/restart`.

A touch concerns this node alone. What it starts is the generation that the platform desires, under this node's next
number (see `numbering`), with all that a restart ordered from the platform has: the old processes serve until the new
ones are ready. The report says it. Nothing is consumed, so that nothing has to be written where a tenant can: a touch
counts if it came after visitors were led to the present generation, and each counts once.
"""

import asyncio
import logging
from collections.abc import Callable

from tenantry.node.answer import Entry
from tenantry.node.desired import DesiredState
from tenantry.node.ports import TouchedHost
from tenantry.node.status import NodeStatus
from tenantry.node.worker import Worker
from tenantry.spec.names import Slug

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.8  # noticed within a second
OWN_TURNS = 5  # the sites' own files are looked at in turns: each every 4 s
OWN_PAUSE_SECONDS = 10.0  # between restarts that a site asks for itself: loading takes the processor
SLICE_SITES = 500  # between which the loop is free for everything else: 1 ms


class Restarter:
    """Looks for ever. `on_restart` is called with each entry that is begun anew."""

    def __init__(
        self,
        host: TouchedHost,
        desired: DesiredState,
        status: NodeStatus,
        *,
        worker: Worker,
        clock: Callable[[], float],
    ) -> None:
        self._host = host
        self._desired = desired
        self._status = status
        self._worker = worker
        self._clock = clock
        self._done: dict[tuple[Slug, bool], int] = {}
        self._own_after: dict[Slug, float] = {}
        self._turn = 0
        self.on_restart: Callable[[Entry], None] = lambda _: None

    async def run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await self.round()

    async def round(self) -> None:
        """Look at every site once, at a part of them for what they ask themselves."""
        slugs = list(self._desired.slugs())
        self._turn = (self._turn + 1) % OWN_TURNS
        for start in range(0, len(slugs), SLICE_SITES):
            part = slugs[start : start + SLICE_SITES]
            for slug in self._host.with_file(part, own=False):
                self._look(slug, own=False)
            for slug in self._host.with_file(part[self._turn :: OWN_TURNS], own=True):
                if self._own_after.get(slug, 0.0) <= self._clock():
                    self._look(slug, own=True)
            await asyncio.sleep(0)
        for known in [key for key in self._done if self._desired.get(key[0]) is None]:
            del self._done[known]
            self._own_after.pop(known[0], None)

    def _look(self, slug: Slug, *, own: bool) -> None:
        touched = self._host.touched(slug, own=own)
        if touched is None or touched == self._done.get((slug, own)) or not self._may_begin(slug):
            return
        self._done[slug, own] = touched
        if own:
            self._own_after[slug] = self._clock() + OWN_PAUSE_SECONDS
        place = f"data/{slug}/home/restart" if own else f"run/sites/{slug}/restart"
        entry = self._desired.restart(slug, f"restarted on this node alone, since {place} was touched")
        if entry is not None:
            logger.info("%s: %s", slug, entry.note)
            self.on_restart(entry)
            self._worker.change(entry)

    def _may_begin(self, slug: Slug) -> bool:
        """Whether nothing else is under way: a touch that comes meanwhile counts afterwards."""
        return not self._worker.is_busy(slug) and self._status.knows(slug)
