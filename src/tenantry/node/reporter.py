"""Reports what changed in what this node says of itself; what does not arrive is reported later."""

import asyncio
import logging
import random
import time

from tenantry.node.drift import DriftLog
from tenantry.node.errors import StoreUnavailable
from tenantry.node.gate import retry_delay
from tenantry.node.ports import DesiredSource, Memory
from tenantry.node.status import NodeStatus
from tenantry.node.workqueue import Signal

logger = logging.getLogger(__name__)


class Reporter:
    """Reports for ever, whenever woken."""

    def __init__(self, source: DesiredSource, status: NodeStatus, drift: DriftLog, memory: Memory) -> None:
        self._source = source
        self._memory = memory
        self._status = status
        self._drift = drift
        self._signal = Signal()

    def wake(self) -> None:
        """Something may have changed."""
        self._signal.set()

    async def run(self) -> None:
        failures = 0
        while True:
            await self._signal.wait(None)
            if await self._report():
                failures = 0
            else:
                await asyncio.sleep(retry_delay(failures, random.random()))  # noqa: S311
                failures += 1
                self._signal.set()

    async def _report(self) -> bool:
        """Send one report if there is something to say; returns whether it arrived."""
        drifts = self._drift.take()
        report = self._status.take_report(anyway=bool(drifts))
        if report is None:
            self._drift.give_back()
            return True
        if drifts:
            await self._remember_drifts()
        try:
            await self._source.report(report | {"drift": drifts} if drifts else report)
        except StoreUnavailable as error:
            logger.warning("cannot report: %s", error)
            self._status.give_back(report)
            self._drift.give_back()
            return False
        if self._drift.arrived():
            self._signal.set()
        if drifts:
            await self._remember_drifts()
        return True

    async def _remember_drifts(self) -> None:
        """Before and after: what the database holds open must be known to whoever repairs it, also after a restart."""
        try:
            await asyncio.to_thread(self._memory.save_drifts, self._drift.to_remember(time.time()))
        except OSError as error:
            logger.warning("open drifts cannot be remembered: %s", error)
