"""Takes the node out of rotation when it is asked to, and says when the last visitor has left."""

import asyncio
import logging
from collections.abc import Callable

from tenantry.node.errors import NodeError
from tenantry.node.ports import BalancedHost
from tenantry.node.status import NodeStatus
from tenantry.node.workqueue import Signal

logger = logging.getLogger(__name__)

QUIET_SECONDS = 5.0
LOOK_SECONDS = 1.0
RETRY_SECONDS = 2.0
DRAINED = "Drained"
NOT_DRAINING = "DrainFailed"


class Drainer:
    """Follows the order to drain. Sites go on serving whoever comes."""

    def __init__(self, host: BalancedHost, status: NodeStatus, clock: Callable[[], float]) -> None:
        self._host = host
        self._status = status
        self._clock = clock
        self._wanted: bool | None = None  # not known before the database was heard: the machine stays as it is
        self._signal = Signal()
        self.on_report: Callable[[], None] = lambda: None

    def order(self, draining: bool) -> None:
        if draining != self._wanted:
            self._wanted = draining
            self._signal.set()

    async def run(self) -> None:
        while True:
            await self._signal.wait(None)
            if self._wanted is None:
                continue
            wanted = self._wanted
            try:
                await self._host.set_draining(wanted)
                self._status.clear_condition(NOT_DRAINING)
                if wanted:
                    await self._watch()
            except (NodeError, OSError) as error:
                logger.warning("draining: %s", error)
                self._status.set_condition(NOT_DRAINING, str(error))
                self._status.clear_condition(DRAINED)
                self.on_report()
                await asyncio.sleep(RETRY_SECONDS)
                self._signal.set()
            else:
                self._status.clear_condition(DRAINED)
                self.on_report()

    async def _watch(self) -> None:
        """Say whether visitors are left, until the order is another."""
        quiet_since = self._clock()
        drained: bool | None = None
        while self._wanted:
            if await self._host.visitors() > 0:
                quiet_since = self._clock()
            now_drained = self._clock() - quiet_since >= QUIET_SECONDS
            if now_drained != drained:
                drained = now_drained
                if drained:
                    self._status.set_condition(DRAINED, "out of rotation, and no visitor for 5 s")
                else:
                    self._status.clear_condition(DRAINED)
                self.on_report()
            await self._signal.wait(LOOK_SECONDS)
        self._signal.set()
