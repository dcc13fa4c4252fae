"""Remembers what was accepted: changed entries together, a moment after they came."""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Mapping

from tenantry.node.answer import Entry
from tenantry.node.desired import DesiredState, Head
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
        self._one_at_a_time = threading.Lock()  # a save goes on in its thread when `run` is cancelled

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
                await asyncio.to_thread(self._save, head, entries)
                self._status.clear_condition(NOT_SAVED)
                self._status.clear_condition(DAMAGED)  # it holds the database's own state again
            except OSError as error:
                self._status.set_condition(NOT_SAVED, f"{error.strerror}: {error.filename}")
                self._unsaved = entries | self._unsaved
                await asyncio.sleep(RETRY_SECONDS)
                self._signal.set()
            except asyncio.CancelledError:
                self._unsaved = entries | self._unsaved
                raise

    def finish(self) -> None:
        """`run` was cancelled: save what it did not come to. The next agent tells by it that a database is set back."""
        head = self._desired.head()
        if head is not None:
            with contextlib.suppress(OSError):  # logged; from an older head on, the next agent asks the database
                self._save(head, self._unsaved)

    def _save(self, head: Head, entries: Mapping[Slug, Entry]) -> None:
        with self._one_at_a_time:
            try:
                self._memory.save(head, list(entries.values()))
            except OSError as error:
                logger.error("the state cannot be remembered: %s", error)  # noqa: TRY400
                raise
