"""PURE but for waiting: how often this process may knock at PostgreSQL, and how long it waits after a failure.

A database that comes back finds all its nodes waiting. Each knocks at most twice a second whatever its tasks want,
and each waits for a random part of its delay, so that a thousand nodes are spread over seconds.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable

ATTEMPTS_AT_ONCE = 2
WINDOW_SECONDS = 1.0
WINDOW_JITTER_SECONDS = 0.2  # so that nodes refused together do not stay in step
SHORTEST_DELAY_SECONDS = 0.2
FIRST_DELAY_SECONDS = 2.0
LAST_DELAY_SECONDS = 5.0  # a database that is back is seen within this, and a connection's time


class ConnectGate:
    """Lets connection attempts through: in no second more than two."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._jitter = jitter
        self._attempts: deque[float] = deque(maxlen=ATTEMPTS_AT_ONCE)

    async def turn(self) -> None:
        """Return when the next attempt may be made. Those who wait come in their order."""
        now = self._clock()
        at = now
        if len(self._attempts) == ATTEMPTS_AT_ONCE:
            at = max(now, self._attempts[0] + WINDOW_SECONDS + WINDOW_JITTER_SECONDS * self._jitter())
        if self._attempts:
            at = max(at, self._attempts[-1])
        self._attempts.append(at)
        if at > now:
            await self._sleep(at - now)


def retry_delay(attempt: int, jitter: float) -> float:
    """Return the seconds before attempt `attempt` (0, 1, …) after a failure; `jitter` is in 0..1.

    Anything between 0.2 s and a limit that doubles from 2 s to 5 s: all of it random, not a random rest.
    """
    longest = min(FIRST_DELAY_SECONDS * 2.0 ** min(attempt, 10), LAST_DELAY_SECONDS)
    return SHORTEST_DELAY_SECONDS + (longest - SHORTEST_DELAY_SECONDS) * jitter
