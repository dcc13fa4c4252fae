"""Follows what standby finds out about sleeping sites: one that cannot be woken is reported, and one that can again."""

import asyncio

from tenantry.node.desired import DesiredState
from tenantry.node.ports import WakingHost
from tenantry.node.worker import Worker

LOOK_SECONDS = 1.0  # one lstat


class Wakings:
    """Looks for ever."""

    def __init__(self, host: WakingHost, desired: DesiredState, worker: Worker) -> None:
        self._host = host
        self._desired = desired
        self._worker = worker

    async def run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            for slug in self._host.changed_wakings():
                entry = self._desired.get(slug)
                if entry is not None:
                    self._worker.work_on(entry)
