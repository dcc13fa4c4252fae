"""Which key to work on next: each once, serially; different keys in parallel; failing keys later and later.

`WorkQueue` is a data structure without clock or tasks: the caller says what time it is. `work_through` drives it.
"""

import asyncio
import heapq
import random
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

FIRST_RETRY_SECONDS = 0.5
LAST_RETRY_SECONDS = 60.0
JITTER = 0.25  # a retry comes up to this part earlier, so that keys that failed together spread out


class WorkQueue(Generic[Key]):
    """Keys to work on. A key added while it is worked on comes again afterwards; a key added twice comes once."""

    def __init__(self, jitter: Callable[[], float] = random.random) -> None:
        self._jitter = jitter
        self._ready: deque[Key] = deque()
        self._queued: set[Key] = set()
        self._later: list[tuple[float, int, Key]] = []
        self._due: dict[Key, float] = {}
        self._active: set[Key] = set()
        self._again: set[Key] = set()
        self._failures: dict[Key, int] = {}
        self._sequence = 0

    def add(self, key: Key) -> None:
        """Work on `key` as soon as possible: a change overrides a waiting retry."""
        self._due.pop(key, None)
        if key in self._active:
            self._again.add(key)
        elif key not in self._queued:
            self._queued.add(key)
            self._ready.append(key)

    def add_at(self, key: Key, when: float) -> None:
        """Work on `key` at `when`, or earlier if it is added meanwhile."""
        if key in self._queued or key in self._again or self._due.get(key, when + 1) <= when:
            return
        self._sequence += 1
        self._due[key] = when
        heapq.heappush(self._later, (when, self._sequence, key))

    def take(self, now: float) -> Key | None:
        """Return a key to work on, or None when nothing is due. `finish` or `fail` must follow."""
        self._ripen(now)
        if not self._ready:
            return None
        key = self._ready.popleft()
        self._queued.discard(key)
        self._active.add(key)
        return key

    def finish(self, key: Key) -> None:
        """`key` is done; its failures are forgotten."""
        self._failures.pop(key, None)
        self._release(key)

    def fail(self, key: Key, now: float) -> float:
        """`key` failed; return after how many seconds it comes again (0.5 s doubling up to 60 s, less jitter)."""
        count = self._failures.get(key, 0)
        self._failures[key] = count + 1
        delay = min(FIRST_RETRY_SECONDS * 2.0 ** min(count, 16), LAST_RETRY_SECONDS) * (1 - JITTER * self._jitter())
        self._release(key)
        self.add_at(key, now + delay)
        return delay

    def next_due(self) -> float | None:
        """Return when the next waiting key ripens, or None."""
        while self._later and self._due.get(self._later[0][2]) != self._later[0][0]:
            heapq.heappop(self._later)
        return self._later[0][0] if self._later else None

    def holds(self, key: Key) -> bool:
        """Whether `key` is ready, worked on, or waits for its time."""
        return key in self._queued or key in self._active or key in self._due

    def idle(self) -> bool:
        """Whether nothing is ready or worked on (keys may wait for a time)."""
        return not (self._ready or self._active)

    def _ripen(self, now: float) -> None:
        while (due := self.next_due()) is not None and due <= now:
            key = heapq.heappop(self._later)[2]
            self.add(key)

    def _release(self, key: Key) -> None:
        self._active.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.add(key)


class Signal:
    """Wakes the driver when a key was added."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def set(self) -> None:
        self._event.set()

    async def wait(self, seconds: float | None) -> None:
        """Return when set, or after `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            pass
        self._event.clear()


async def work_through(
    queue: WorkQueue[Key],
    signal: Signal,
    work: Callable[[Key], Awaitable[bool]],
    *,
    slots: asyncio.Semaphore,
    clock: Callable[[], float],
) -> None:
    """Call `work` for every key that is due, for ever, each with one of `slots`, which it may lend while it waits.

    `work` returns whether it succeeded; it handles its own errors, so one that escapes ends the agent.
    """

    async def one(key: Key) -> None:
        try:
            if await work(key):
                queue.finish(key)
            else:
                queue.fail(key, clock())
        finally:
            slots.release()
            signal.set()

    async with asyncio.TaskGroup() as group:
        while True:
            await slots.acquire()
            key = queue.take(clock())
            if key is None:
                slots.release()
                due = queue.next_due()
                await signal.wait(None if due is None else max(due - clock(), 0.0))
            else:
                group.create_task(one(key))
