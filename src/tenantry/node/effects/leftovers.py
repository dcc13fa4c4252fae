"""Processes that a site's ended processes left behind, found and ended.

The emperor and each vassal adopt what loses its parent below them (see `emperor`, `vassal`). So what a site's code
started and left is among the children of its vassal, and once that has ended among the emperor's, where only vassals
belong. It is ended after a grace in which workers whose master was killed may finish their requests. The grace is the
user's, not the process's: else who forks and ends all the time would have a new one each time.
"""

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable

from tenantry.node.effects.emperor import ask_emperor
from tenantry.node.effects.processes import Process, children, descendants, find, owner
from tenantry.node.errors import EmperorUnavailable
from tenantry.node.layout import Layout
from tenantry.node.render.engine import STOP_SECONDS

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 2.0


class Leftovers:
    """Looks for ever. Children of the emperor that it does not know as vassals are ended, when there were any of their
    user for the grace's length. Where all have the agent's own user, each process has its own grace.
    """

    def __init__(
        self, layout: Layout, *, grace_seconds: float = STOP_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._socket = layout.emperor_socket
        self._grace_seconds = grace_seconds
        self._clock = clock
        self._emperor = 0
        self._vassals: frozenset[Process] = frozenset()
        self._seen: dict[Process | int, float] = {}  # users by their numbers

    async def run(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL_SECONDS)
            try:
                await self.round()
            except EmperorUnavailable:
                continue  # another is started soon

    async def round(self) -> None:
        """Look once. The emperor is asked only where a child of its is not known yet and has been there for a while."""
        if find(self._emperor) is None:
            await self._learn()
        found = children(self._emperor)
        self._vassals &= found
        now = self._clock()
        graced = {process: _graced(process) for process in found - self._vassals}
        self._seen = {who: self._seen.get(who, now) for who in graced.values()}
        old = {process for process, who in graced.items() if now - self._seen[who] >= self._grace_seconds}
        if old:
            await self._learn()
            for process in old - self._vassals:
                end(process)

    async def _learn(self) -> None:
        state = await ask_emperor(self._socket)
        self._emperor = state.pid
        self._vassals = frozenset(process for process in children(state.pid) if process.pid in state.pids)


def _graced(process: Process) -> Process | int:
    """Return who has the grace: the process's user, or the process itself."""
    user = owner(process.pid)
    return process if user in (None, os.geteuid()) else user


def end(process: Process) -> None:
    """Kill a process and all below it."""
    for each in reversed(list(descendants(process))):
        logger.warning("process %d was left behind by a site's process that ended: it is killed", each.pid)
        try:
            os.kill(each.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
