"""Hears that something moved: NOTIFY where it gets through, and a look at the head every few seconds regardless.

LISTEN comes before the first read, so nothing falls between. A heartbeat on the same connection is the proof that
the connection lives, the record of this node's last contact, and the poll. What is heard is a hint, nothing more.
"""

import asyncio
import json
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

import psycopg

from tenantry.node.errors import StoreUnavailable
from tenantry.node.gate import retry_delay
from tenantry.node.hearing import Hearing
from tenantry.node.store import ECHO_CHANNEL, Line

logger = logging.getLogger(__name__)

CHANNEL = "tenantry"
# A hung connection is noticed after at most interval · (1 + jitter / 2) + answer = 4.86 s.
HEARTBEAT_SECONDS = 2.6
HEARTBEAT_JITTER = 0.2  # part of the interval, so that a thousand nodes do not beat together
HEARTBEAT_ANSWER_SECONDS = 2.0
ANSWER_DOUBLINGS = 2  # a server that is slow, not hung, gets up to 8 s when it is tried again …
STEADY_SECONDS = 30.0  # … and while others may still be coming back to it


@dataclass(frozen=True, slots=True)
class Hint:
    """The database's head as somebody said it; None where only «something happened» is known."""

    epoch: str | None
    revision: int | None


class Observer(Protocol):
    """Who is told what the listener learns besides hints, and sends its echo."""

    async def echo(self) -> None: ...

    def notifications(self, arrive: bool) -> None: ...

    def clock_ahead(self, seconds: float) -> None: ...


def parse_payload(payload: str) -> Hint:
    """Return the head in a notification; anything unexpected is still a hint: every node's role may notify."""
    try:
        return parse_head(json.loads(payload))
    except (ValueError, RecursionError):
        return Hint(None, None)


def parse_head(document: Any) -> Hint:
    """Return the head that `agent_v1.heartbeat` answered."""
    try:
        return Hint(str(document["epoch"]), int(document["revision"]))
    except (KeyError, TypeError, ValueError, OverflowError):
        return Hint(None, None)


def parse_now(document: Any) -> float | None:
    """Return the database's clock in seconds since 1970; None where the heartbeat does not say it."""
    try:
        moment = datetime.fromisoformat(document["now"])
    except (KeyError, TypeError, ValueError):
        return None
    return None if moment.tzinfo is None else moment.timestamp()


class Listener:
    """Calls `on_hint` for whatever is heard, for ever; connection trouble is ridden out."""

    def __init__(
        self,
        line: Line,
        on_hint: Callable[[Hint], None],
        observer: Observer | None = None,
        *,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._line = line
        self._on_hint = on_hint
        self._observer = observer
        self._jitter = jitter
        self._attempt = 0
        self._hearing = Hearing(0.0, 0.0)
        self._echo: asyncio.Task[None] | None = None

    async def run(self, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        while True:
            try:
                await self._session()
            except StoreUnavailable as error:
                logger.warning("%s", error)
            self._line.drop()
            await sleep(retry_delay(self._attempt, self._jitter()))
            self._attempt += 1

    async def _session(self) -> None:
        seconds = HEARTBEAT_ANSWER_SECONDS * 2.0 ** min(self._attempt, ANSWER_DOUBLINGS)
        await self._line.execute(f"LISTEN {CHANNEL}", seconds=seconds)
        await self._line.execute(f"LISTEN {ECHO_CHANNEL}", seconds=seconds)
        self._hearing = Hearing(_now(), self._jitter())
        await self._beat(seconds)
        steady_at = _now() + STEADY_SECONDS * bool(self._attempt)
        self._on_hint(Hint(None, None))  # what was sent before LISTEN is lost: look now
        logger.info("listening")
        while True:
            await self._hear_until(_now() + HEARTBEAT_SECONDS * (1 + HEARTBEAT_JITTER * (self._jitter() - 0.5)))
            if _now() >= steady_at:
                self._attempt, seconds = 0, HEARTBEAT_ANSWER_SECONDS
            await self._beat(seconds)

    async def _beat(self, seconds: float) -> None:
        before = time.time()
        document = await self._line.execute("SELECT agent_v1.heartbeat()", seconds=seconds)
        head = parse_head(document)
        self._hearing.beaten(_now(), head.epoch, head.revision)
        self._on_hint(head)
        now = parse_now(document)
        if self._observer is not None and now is not None:
            # Any moment of the exchange may be the one the database read its clock at: none is held against the node.
            self._observer.clock_ahead(_beyond(now, before, time.time()))

    async def _hear_until(self, end: float) -> None:
        """Pass notifications on, and find out whether any arrive, until `end`."""
        while (now := _now()) < end:
            await self._hear(min(end, max(self._due(), now)) - now)
            if self._due() <= _now():
                self._test()

    def _due(self) -> float:
        return self._hearing.due if self._observer is not None else float("inf")

    def _test(self) -> None:
        if self._hearing.step(_now()):
            self._echo = asyncio.create_task(self._send_echo(self._hearing))
        self._tell()

    async def _send_echo(self, hearing: Hearing) -> None:
        """On the other connection: what is sent on this one comes back with the answer, also through a pooler."""
        try:
            if self._observer is not None:
                await self._observer.echo()
        except StoreUnavailable as error:
            logger.warning("no echo could be sent: %s", error)
            hearing.unsent(_now())

    def _tell(self) -> None:
        if self._observer is not None and self._hearing.arrives is not None:
            self._observer.notifications(self._hearing.arrives)

    async def _hear(self, seconds: float) -> None:
        """Pass notifications on for `seconds`."""
        connection = await self._line.connection()
        try:
            async for notification in connection.notifies(timeout=seconds):
                hint = parse_payload(notification.payload)
                self._hearing.heard(_now(), hint.revision)
                self._tell()
                if notification.channel == CHANNEL:
                    self._on_hint(hint)
        except psycopg.Error as error:
            raise StoreUnavailable(f"the listening connection broke: {error}") from error


def _beyond(moment: float, earliest: float, latest: float) -> float:
    """Return how far the local clock was ahead of `moment`, which it showed between `earliest` and `latest`."""
    return earliest - moment if moment < earliest else min(latest - moment, 0.0)


def _now() -> float:
    return asyncio.get_running_loop().time()
