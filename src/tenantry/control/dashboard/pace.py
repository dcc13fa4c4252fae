"""The pace of log-in attempts: wrong passwords are slowed down, nobody is locked out.

Each lane (who tries which name) has a few places. An attempt takes the place that is free first, waits for it, and
keeps it for a pause that grows with the lane's failures. Invariant: a lane checks at most PLACES passwords in a pause,
also when a program hangs up instead of waiting for the answer. A right password ends its lane: the next begins anew.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")

PLACES = 4  # a person has few pages open; a program has as many connections as it likes
FIRST_PAUSE_SECONDS = 0.25  # a person who mistypes once hardly notices
LONGEST_PAUSE_SECONDS = 4.0  # with PLACES: 60 wrong passwords a minute in a lane
LONGEST_WAIT_SECONDS = 10.0  # for a place; who would wait longer is asked to come again
FORGOTTEN_SECONDS = 300.0  # after the last attempt of a lane
LANES_MAX = 10_000  # lanes are looked through for old ones only beyond this; a lane is about 300 bytes


class TooManyAttempts(Exception):
    """No place gets free in time. Nothing was checked."""


@dataclass(slots=True)
class _Lane:
    failures: int = 0
    free_at: list[float] = field(default_factory=lambda: [0.0] * PLACES)


class Pace:
    """The lanes of one process; to be used in one event loop. `clock` counts seconds."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._lanes: dict[str, _Lane] = {}

    async def attempt(self, lane: str, check: Callable[[], Awaitable[T | None]]) -> T | None:
        """Return what `check` returns, at once when it is something; None only after the pause.

        Raises `TooManyAttempts` at once when every place of the lane is taken for longer than is worth waiting.
        """
        start, pause = self._take(lane)
        await self._sleep(max(start - self._clock(), 0))
        found = await check()
        if found is None:
            await self._sleep(pause)
        else:
            self._lanes.pop(lane, None)
        return found

    def _take(self, name: str) -> tuple[float, float]:
        """Take a place as if the attempt had failed already; return when it begins, and the pause in seconds."""
        now = self._clock()
        lane = self._lane(name, now)
        place = min(range(PLACES), key=lane.free_at.__getitem__)
        start = max(now, lane.free_at[place])
        if start - now > LONGEST_WAIT_SECONDS:
            raise TooManyAttempts
        pause = min(FIRST_PAUSE_SECONDS * 2 ** min(lane.failures, 10), LONGEST_PAUSE_SECONDS)
        lane.failures += 1
        lane.free_at[place] = start + pause
        return start, pause

    def _lane(self, name: str, now: float) -> _Lane:
        if len(self._lanes) >= LANES_MAX:
            self._lanes = {key: lane for key, lane in self._lanes.items() if not _is_old(lane, now)}
        found = self._lanes.get(name)
        if found is None or _is_old(found, now):
            found = self._lanes[name] = _Lane()
        return found


def _is_old(lane: _Lane, now: float) -> bool:
    return max(lane.free_at) + FORGOTTEN_SECONDS < now
