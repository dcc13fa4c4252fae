"""Has sites that take far more of the processors than others give way to them (decision 0026).

Control groups share the processors equally, but by slices: a page that takes 5 ms of the processor waits for one or two
slices, of 4 ms each, of whoever wants all of it. A share of a hundredth does not change that, giving way does.
"""

import asyncio
import itertools
import logging
import math
from collections.abc import Callable, Mapping
from typing import Protocol

logger = logging.getLogger(__name__)

ROUND_SECONDS = 0.5  # as long as others feel that a site has become greedy; a look costs some 20 µs for each group
HALF_LIFE_SECONDS = 5.0  # of what is known of a site's wants, while it gets less: it may be put behind
MUCH = 0.25  # of a node's processors: who takes less never gives way
REST = 0.25  # of a node's processors: what all who do not give way may take together, else nobody does
HELD_SECONDS = 10.0  # how long nobody does after they took more; doubled where it comes again soon
HELD_SECONDS_MAX = 60.0
AGAIN_SECONDS = 30.0
GAP = 2.0  # times what the next one wants: those who compete for the same get about the same
LITTLE = 0.002  # of one processor: who wants less has no visitors


class Means(Protocol):
    """What a machine knows of its processors' time. Names are those of generations («blog.3»), times seconds."""

    def used_by_all(self) -> float | None: ...

    def used(self) -> dict[str, float]: ...

    def give_way(self, names: frozenset[str]) -> frozenset[str]: ...


class FairShare:
    """Looks twice a second. `run` never returns; when it is cancelled, nobody gives way any more."""

    def __init__(self, means: Means, processors: int, *, clock: Callable[[], float]) -> None:
        self._means = means
        self._processors = processors
        self._clock = clock
        self._looked_at = 0.0
        self._all: float | None = None
        self._each: dict[str, float] = {}
        self._wants: dict[str, float] = {}
        self._giving: frozenset[str] = frozenset()
        self._held_seconds = HELD_SECONDS
        self._held_until = -math.inf

    async def run(self) -> None:
        try:
            while True:
                try:
                    self.round()
                except OSError as error:
                    logger.warning("processors: %s: %s", error.strerror, error.filename)
                await asyncio.sleep(ROUND_SECONDS)
        finally:
            self._means.give_way(frozenset())

    def round(self) -> None:
        """Look once. While all sites together take little, that is one file to read."""
        now, all_before, all_used = self._clock(), self._all, self._means.used_by_all()
        seconds, self._looked_at, self._all = now - self._looked_at, now, all_used
        if all_used is None or all_before is None or seconds <= 0:
            return
        kept = 0.5 ** (seconds / HALF_LIFE_SECONDS)
        wants = {name: want * kept for name, want in self._wants.items() if want * kept > LITTLE}
        if not self._giving and all_used - all_before <= MUCH * self._processors * seconds:
            self._each, self._wants = {}, wants
            return
        before, self._each = self._each, self._means.used()
        # A group that is new began at nothing. Of the first look at all nothing can be told.
        rates = {n: (used - before.get(n, 0.0 if before else used)) / seconds for n, used in self._each.items()}
        self._wants = wants | {name: max(rate, wants.get(name, 0.0)) for name, rate in rates.items()}
        if rates:
            self._hold((all_used - all_before) / seconds - sum(rates.get(name, 0.0) for name in self._giving), now)
        held = now < self._held_until or not rates
        greedy = frozenset[str]() if held else take_much(self._wants, rates, self._processors)
        if not greedy and not self._giving:
            return
        giving, self._giving = self._giving, self._means.give_way(greedy)  # once more, too: a restart takes it back
        for name in self._giving - giving:
            logger.info("%s takes %.0f %% of a processor: it gives way to the other sites", name, rates[name] * 100)

    def _hold(self, others: float, now: float) -> None:
        """Let nobody give way for a while, when those took much who did not: they may be ever new ones, and each of
        them would be known too late.
        """
        if not self._giving or others <= REST * self._processors:
            return
        again = now - self._held_until < AGAIN_SECONDS
        self._held_seconds = min(self._held_seconds * 2, HELD_SECONDS_MAX) if again else HELD_SECONDS
        self._held_until = now + self._held_seconds


def take_much(wants: Mapping[str, float], rates: Mapping[str, float], processors: int) -> frozenset[str]:
    """PURE: return who wants more than a quarter of the processors, and at least twice as much as any who wants less.

    `rates`: how many processors each takes; `wants`: the most of it lately, for one that is put behind takes less than
    it wants. Those who compete for all that there is are not told apart, so none of them is starved, and nobody gives
    way while the rest takes more than a quarter. One that alone is visited has nobody to give way to.
    """
    ordered = sorted((name for name in wants if wants[name] > LITTLE), key=wants.__getitem__, reverse=True)
    for count, (one, following) in reversed(list(enumerate(itertools.pairwise(ordered), 1))):
        rest = sum(rates.get(name, 0.0) for name in ordered[count:])
        apart = wants[one] > MUCH * processors and wants[one] >= GAP * wants[following]
        if apart and rest <= REST * processors:
            return frozenset(ordered[:count])
    return frozenset()
