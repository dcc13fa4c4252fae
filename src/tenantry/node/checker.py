"""The integrity check: everything on the node compared with what it should be, every 30 s and on demand.

What differs is noted and repaired at once: a site through the work queue, like any change; the node's own files here.
Sites are compared in slices, between which the loop is free for everything else.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from tenantry.node.answer import Orders
from tenantry.node.desired import DesiredState
from tenantry.node.drift import DriftLog
from tenantry.node.errors import NodeError
from tenantry.node.integrity import Drift
from tenantry.node.ports import CheckedHost
from tenantry.node.status import NodeStatus
from tenantry.node.worker import Worker
from tenantry.node.workqueue import Signal
from tenantry.spec.names import Slug

logger = logging.getLogger(__name__)

# 60 s is promised from the damage to its finding: a round that has just gone past it, the next one, and a site that
# was being worked on when its turn came.
CHECK_SECONDS = 30.0
CHECK_JITTER = 0.2  # of that earlier, so that nodes started together do not check together
FIRST_SECONDS = 5.0  # after the start, when sites have been looked at in any case
SLICE_SECONDS = 0.01
REPAIR_FAILED = "RepairFailed"
# Of one site: its directory, four for its data, log, document, ini, socket, app.sock, static, media; and each hostname.
SITE_PATHS = 12
PERIODIC = 0  # the number of a check that nobody asked for


@dataclass(slots=True)
class Round:
    """One check and what it cost. `cpu_seconds` is the thread's own time, what other tasks took left out."""

    number: int
    repair: bool
    sites: int = 0
    paths: int = 0
    drift: int = 0
    cpu_seconds: float = 0.0


class Checker:
    """Checks for ever. `on_report` is called when something is to be reported."""

    def __init__(
        self,
        host: CheckedHost,
        desired: DesiredState,
        status: NodeStatus,
        *,
        worker: Worker,
        drift: DriftLog,
        clock: Callable[[], float],
    ) -> None:
        self._host = host
        self._desired = desired
        self._status = status
        self._worker = worker
        self._drift = drift
        self._clock = clock
        self._orders = Orders()
        self._answered: int | None = None
        self._signal = Signal()
        self.on_report: Callable[[], None] = lambda: None

    def order(self, orders: Orders) -> None:
        """Check as ordered, unless it was done. After a restart the last order is followed once more."""
        self._orders = orders
        if orders.check and orders.check != self._answered:
            self._signal.set()

    def settled(self, slug: Slug) -> None:
        """The site was worked on and is as desired: what was found in it may be repaired."""
        entry = self._desired.get(slug)
        if entry is not None and entry.spec is not None and self._drift.differs(slug):
            self._drift.examined(slug, self._host.examine(slug, entry.spec))
            self.on_report()

    async def run(self) -> None:
        wait = FIRST_SECONDS
        while True:
            await self._signal.wait(wait)
            began = self._clock()
            if self._orders.check and self._orders.check != self._answered:
                number, repair = self._orders.check, self._orders.check_repair
                await self._check(Round(number, repair))
                self._answered = number
            else:
                await self._check(Round(PERIODIC, repair=True))
            interval = CHECK_SECONDS * (1 - CHECK_JITTER * random.random())  # noqa: S311
            wait = max(began + interval - self._clock(), 0.0)

    async def _check(self, this: Round) -> None:
        began = self._clock()
        await self._check_sites(this)
        await self._check_node(this)
        self._drift.keep_only(self._desired.slugs())
        self._status.fact(
            "checked",
            {
                "id": this.number,
                "sites": this.sites,
                "paths": this.paths,
                "seconds": round(self._clock() - began, 3),
                "cpu_seconds": round(this.cpu_seconds, 4),
                "drift": this.drift,
            },
        )
        self.on_report()

    async def _check_sites(self, this: Round) -> None:
        slice_began = time.thread_time()
        for slug in sorted(self._desired.slugs()):
            self._check_site(slug, this)
            used = time.thread_time() - slice_began
            if used >= SLICE_SECONDS:
                this.cpu_seconds += used
                await asyncio.sleep(0)
                slice_began = time.thread_time()
        this.cpu_seconds += time.thread_time() - slice_began

    def _check_site(self, slug: Slug, this: Round) -> None:
        entry = self._desired.get(slug)
        if entry is None or self._worker.is_busy(slug):
            return
        try:
            if entry.spec is None or not self._status.serves(slug):
                self._worker.compare(entry)  # it is not as it should be anyway: nothing of it is a drift
                return
            drifts = self._host.examine(slug, entry.spec)
        except Exception:
            logger.exception("%s: cannot be examined; the others are", slug)
            return
        this.sites += 1
        this.paths += SITE_PATHS + len(entry.spec.hostnames)
        self._note(slug, drifts, this)
        if drifts and this.repair:
            self._worker.work_on(entry)

    async def _check_node(self, this: Round) -> None:
        began = time.thread_time()
        try:
            drifts = await self._host.examine_node()
            self._note(None, drifts, this)
            if drifts and this.repair:
                await self._host.repair_node(drifts)
                self._drift.examined(None, await self._host.examine_node())
            self._status.clear_condition(REPAIR_FAILED)
        except (NodeError, OSError) as error:
            logger.warning("the node itself could not be checked or repaired: %s", error)
            self._status.set_condition(REPAIR_FAILED, str(error))
        except Exception:
            logger.exception("the check of the node itself met a bug")
            self._status.set_condition(REPAIR_FAILED, "the agent met a bug; its log has the traceback")
        this.cpu_seconds += time.thread_time() - began

    def _note(self, slug: Slug | None, drifts: tuple[Drift, ...], this: Round) -> None:
        self._drift.examined(slug, drifts)
        this.drift += len(drifts)
        for drift in drifts:
            logger.warning("drift: %s", drift)
