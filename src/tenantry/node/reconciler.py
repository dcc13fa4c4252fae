"""The loop: read desired → probe → plan → apply → probe again → report. Level-triggered: hints only say «look».

Puts its parts together: the reader takes over what is desired, the worker brings sites there, the checker finds what
somebody else changed, the wakings tell of sites that cannot be woken, the drainer follows the order to leave the
rotation, the saver remembers, the reporter tells. Each is a task that goes on whatever the others meet; one that ends
with an error ends the agent, which is started again.
"""

import asyncio
import time
from collections.abc import Callable

from tenantry.node.answer import Orders
from tenantry.node.checker import Checker
from tenantry.node.crashes import CrashWatch
from tenantry.node.desired import DesiredState
from tenantry.node.drainer import Drainer
from tenantry.node.drift import DriftLog
from tenantry.node.ports import DesiredSource, Host, Memory, Remembered
from tenantry.node.reader import Reader
from tenantry.node.reporter import Reporter
from tenantry.node.restarter import Restarter
from tenantry.node.saver import DAMAGED, Saver
from tenantry.node.status import NodeStatus
from tenantry.node.wakings import Wakings
from tenantry.node.worker import Worker
from tenantry.spec.sites import ReleaseName, SiteSpec

CLOCK_SKEW_SECONDS = 5.0
NOTIFICATIONS_MISSING = "NotificationsNotArriving"
CLOCK_SKEWED = "ClockSkewed"


class Reconciler:
    """Keeps this node's sites as desired. `run` never returns."""

    def __init__(
        self,
        source: DesiredSource,
        host: Host,
        memory: Memory,
        status: NodeStatus,
        *,
        starts_at_once: int,
        clock: Callable[[], float],
    ) -> None:
        self._status = status
        self._desired = DesiredState()
        self._drift = drift = DriftLog(clock)
        self._worker = Worker(host, self._desired, status, starts_at_once=starts_at_once, clock=clock)
        self._saver = Saver(memory, self._desired, status)
        self._reader = Reader(source, host, self._desired, status, worker=self._worker, saver=self._saver, clock=clock)
        self._checker = Checker(host, self._desired, status, worker=self._worker, drift=drift, clock=clock)
        self._drainer = Drainer(host, status, clock)
        self._wakings = Wakings(host, self._desired, self._worker)
        self._restarter = Restarter(host, self._desired, status, worker=self._worker, clock=clock)
        self._crashes = CrashWatch(host.logs, self._desired, status, worker=self._worker, clock=clock)
        self._reporter = Reporter(source, status, drift, memory)
        self._connect()

    def _connect(self) -> None:
        self._worker.on_settled = self._checker.settled
        self._worker.on_successor = self._saver.note_now
        self._restarter.on_restart = self._saver.note_now
        self._crashes.say = self._say
        self._reader.on_orders = self._follow
        for part in (self._worker, self._reader, self._checker, self._drainer):
            part.on_report = self._reporter.wake

    def restore(self, remembered: Remembered) -> None:
        """Begin with a remembered state: what is worked towards if the database cannot be asked at first."""
        self._drift.restore(remembered.drifts, time.time())
        if remembered.problems:
            self._status.set_condition(DAMAGED, "; ".join(remembered.problems)[:1000])
        if remembered.head is not None:
            self._desired.restore(remembered.head, remembered.entries)
            self._status.head(remembered.head.epoch, remembered.head.revision)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for part in (
                *(self._reader, self._saver, self._reporter, self._worker),
                *(self._checker, self._drainer, self._wakings, self._restarter, self._crashes),
            ):
                group.create_task(part.run(), name=type(part).__name__.lower())

    def finish(self) -> None:
        """`run` ended on purpose: remember what it did not come to remember."""
        self._saver.finish()

    def releases(self) -> frozenset[ReleaseName]:
        """Return the releases of the sites that this node is to serve."""
        entries = map(self._desired.get, self._desired.slugs())
        return frozenset(entry.spec.release.name for entry in entries if entry is not None and entry.spec is not None)

    def specs(self) -> list[SiteSpec]:
        """Return the sites that this node is to serve."""
        entries = map(self._desired.get, self._desired.slugs())
        return [entry.spec for entry in entries if entry is not None and entry.spec is not None]

    def limits(self, condition: str, message: str | None) -> None:
        """It was looked whether sites keep to their limits; None: they do."""
        self._say(condition, message)

    def hear(self, epoch: str | None, revision: int | None) -> None:
        """Somebody said where the head is. None: something moved."""
        self._reader.hear(epoch, revision)

    def notifications(self, arrive: bool) -> None:
        """It was tried whether notifications arrive."""
        self._status.fact("notifications", arrive)
        self._say(
            NOTIFICATIONS_MISSING,
            None
            if arrive
            else "no notification arrives: the connection goes through a pooler that swallows them, such as PgBouncer "
            "in transaction mode. Changes are found by asking every 3 s; PostgreSQL itself would tell of them at once",
        )

    def clock_ahead(self, seconds: float) -> None:
        """The local clock was compared with the database's."""
        direction = "ahead of" if seconds > 0 else "behind"
        self._say(
            CLOCK_SKEWED,
            None
            if abs(seconds) <= CLOCK_SKEW_SECONDS
            else f"this node's clock is {abs(seconds):.0f} s {direction} the database's",
        )

    def same_node_twice(self, others: int) -> None:
        """It was counted how many other agents work under this node's name."""
        self._say(
            "SameNodeTwice",
            None
            if others == 0
            else f"{others} more agents run with this node's agent.json (a copied machine?): stop them, and let the "
            "copy join under its own name",
        )

    def _say(self, condition: str, message: str | None) -> None:
        if message is None:
            self._status.clear_condition(condition)
        else:
            self._status.set_condition(condition, message)
        self._reporter.wake()

    def _follow(self, orders: Orders) -> None:
        self._drainer.order(orders.draining)
        self._checker.order(orders)
