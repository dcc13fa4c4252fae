"""Sites that serve, and whose workers end again and again by themselves: noticed, and said.

Their server starts them again, more slowly each time, and visitors of other sites notice nothing. But nothing of the
site differs from what is desired, so no check finds it. What the servers write to the site's log does: of the logs
that grew, what is new is looked at every few seconds. The words are the site's to forge, and concern it alone.
"""

import asyncio
import logging
import re
from collections import deque
from collections.abc import Callable, Mapping

from tenantry.node.desired import DesiredState
from tenantry.node.ports import GrownLogs
from tenantry.node.status import NodeStatus
from tenantry.node.worker import Worker
from tenantry.spec.names import Slug

logger = logging.getLogger(__name__)

LOOK_SECONDS = 5.0
WINDOW_SECONDS = 60.0
DEATHS = 3  # within the window: one may be an accident
NAMES_SHOWN = 5
CONDITION = "SitesCrashing"
# uWSGI's words, and granian's, when a worker has ended that was not told to.
DIED = re.compile(r"^DAMN ! worker \d|Unexpected exit from worker", re.MULTILINE)
Say = Callable[[str, str | None], None]


class CrashWatch:
    """Looks for ever. `say` sets a condition of the node, or clears it."""

    def __init__(
        self,
        logs: GrownLogs,
        desired: DesiredState,
        status: NodeStatus,
        *,
        worker: Worker,
        clock: Callable[[], float],
    ) -> None:
        self._logs = logs
        self._desired = desired
        self._status = status
        self._worker = worker
        self._clock = clock
        self._deaths: dict[Slug, deque[float]] = {}
        self._crashing: set[Slug] = set()
        self.say: Say = lambda _, __: None

    async def run(self) -> None:
        await asyncio.to_thread(self._logs.grown)  # what was before the start is not news
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.note(await asyncio.to_thread(self._logs.grown))

    def note(self, grown: Mapping[Slug, str]) -> None:
        """Take over what was written since the last time, and report whose workers keep ending, or no longer do."""
        now = self._clock()
        for slug, text in grown.items():
            count = len(DIED.findall(text))
            if count:
                self._deaths.setdefault(slug, deque(maxlen=100)).extend([now] * count)
        for slug, times in list(self._deaths.items()):
            while times and now - times[0] > WINDOW_SECONDS:
                times.popleft()
            if not times:
                del self._deaths[slug]
        crashing = {slug for slug, times in self._deaths.items() if len(times) >= DEATHS}
        for slug in crashing:
            self._tell(slug)
        for slug in self._crashing - crashing:
            self._clear(slug)
        self._crashing = crashing
        self.say(CONDITION, _words(crashing) if crashing else None)

    def _tell(self, slug: Slug) -> None:
        entry = self._desired.get(slug)
        if entry is not None and self._status.serves(slug) and not self._worker.is_busy(slug):
            times = len(self._deaths[slug])
            message = f"serves, and its workers keep ending by themselves: {times} times in the last minute"
            if slug not in self._crashing:
                logger.warning("%s: %s", slug, message)
            self._status.explain(entry, message, self._logs.tail(slug))

    def _clear(self, slug: Slug) -> None:
        entry = self._desired.get(slug)
        if entry is not None:
            logger.info("%s: its workers do not end any more", slug)
            self._worker.work_on(entry)


def _words(crashing: set[Slug]) -> str:
    names = ", ".join(sorted(crashing)[:NAMES_SHOWN]) + (", …" if len(crashing) > NAMES_SHOWN else "")
    return f"workers keep ending by themselves: {names}. «tenantry site show» has the end of the log"
