"""Which generations may load their application at the same time.

Loading takes the processor for a few seconds: a few at once, else all are slow. A turn ends by itself after 3 s: what
takes longer waits for something, and others must not for it. So that an application that never answers holds up nobody
but its like: one release never has all turns, and generations of sites whose last one failed share a single turn.
"""

import asyncio
from collections.abc import Hashable
from dataclasses import dataclass, field

TURN_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Kind:
    """What a start has in common with others. `doubtful`: the site's last generation failed."""

    release: Hashable
    doubtful: bool = False


@dataclass(eq=False, slots=True)
class _Waiting:
    kind: Kind
    granted: asyncio.Future[None] = field(repr=False)


class Starts:
    """Grants turns in the order in which they were asked for, passing over those whose kind has its share."""

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._going: list[Kind] = []
        self._waiting: list[_Waiting] = []

    async def acquire(self, kind: Kind) -> None:
        """Return when the start may begin; `release` must follow."""
        waiting = _Waiting(kind, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._grant()
        try:
            await waiting.granted
        except asyncio.CancelledError:
            if waiting.granted.done() and not waiting.granted.cancelled():
                self.release(kind)
            elif waiting in self._waiting:
                self._waiting.remove(waiting)
            raise

    def release(self, kind: Kind) -> None:
        self._going.remove(kind)
        self._grant()

    def _grant(self) -> None:
        while (waiting := next((each for each in self._waiting if self._may_begin(each.kind)), None)) is not None:
            self._waiting.remove(waiting)
            if waiting.granted.cancelled():
                continue  # who asked was told to stop, and has not come to say so
            self._going.append(waiting.kind)
            waiting.granted.set_result(None)

    def _may_begin(self, kind: Kind) -> bool:
        going = self._going
        if len(going) >= self._at_once:
            return False
        if kind.doubtful and any(other.doubtful for other in going):
            return False
        same = sum(other.release == kind.release for other in going)
        return same < max(self._at_once - 1, 1)


class Turn:
    """One start's turn: taken once however often asked, ended once however often, and by itself after 3 s."""

    def __init__(self, starts: Starts, kind: Kind) -> None:
        self._starts = starts
        self._kind = kind
        self._timer: asyncio.TimerHandle | None = None

    async def take(self) -> None:
        if self._timer is None:
            await self._starts.acquire(self._kind)
            self._timer = asyncio.get_running_loop().call_later(TURN_SECONDS, self.end)

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._starts.release(self._kind)
