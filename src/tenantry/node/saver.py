"""Remembers what was accepted: changed entries together, a moment after they came."""

import asyncio
import logging

from tenantry.node.answer import Entry
from tenantry.node.desired import DesiredState
from tenantry.node.ports import Memory
from tenantry.node.status import NodeStatus
from tenantry.node.workqueue import Signal
from tenantry.spec.names import Slug

logger = logging.getLogger(__name__)

COALESCE_SECONDS = 0.2  # visitors first: several changes share one save
RETRY_SECONDS = 2.0
NOT_SAVED = "StateNotSaved"
DAMAGED = "MemoryDamaged"


class Saver:
    """Saves for ever; what cannot be saved is kept for the next time and said."""

    def __init__(self, memory: Memory, desired: DesiredState, status: NodeStatus) -> None:
        self._memory = memory
        self._desired = desired
        self._status = status
        self._unsaved: dict[Slug, Entry] = {}
        self._signal = Signal()

    def note(self, entry: Entry) -> None:
        """Save the entry with the next save."""
        self._unsaved[entry.slug] = entry

    def note_now(self, entry: Entry) -> None:
        """Save the entry soon."""
        self.note(entry)
        self.wake()

    def wake(self) -> None:
        """The head moved, or entries were noted."""
        self._signal.set()

    async def run(self) -> None:
        while True:
            await self._signal.wait(None)
            await asyncio.sleep(COALESCE_SECONDS)
            head = self._desired.head()
            if head is None:
                continue
            entries, self._unsaved = self._unsaved, {}
            try:
                await asyncio.to_thread(self._memory.save, head, list(entries.values()))
                self._status.clear_condition(NOT_SAVED)
                self._status.clear_condition(DAMAGED)  # it holds the database's own state again
            except OSError as error:
                logger.error("the state cannot be remembered: %s", error)  # noqa: TRY400
                self._status.set_condition(NOT_SAVED, f"{error.strerror}: {error.filename}")
                self._unsaved = entries | self._unsaved
                await asyncio.sleep(RETRY_SECONDS)
                self._signal.set()
