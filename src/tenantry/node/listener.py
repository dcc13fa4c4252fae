"""Hears that something moved: NOTIFY where it gets through, and a look at the head every few seconds regardless.

LISTEN comes before the first read, so nothing falls between. A heartbeat on the same connection is the proof that
the connection lives, the record of this node's last contact, and the poll. What is heard is a hint, nothing more.
"""

import asyncio
import json
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import psycopg

from tenantry.node.errors import StoreUnavailable
from tenantry.node.store import Line

logger = logging.getLogger(__name__)

CHANNEL = "tenantry"
HEARTBEAT_SECONDS = 3.0
HEARTBEAT_JITTER = 0.3  # part of the interval, so that a thousand nodes do not beat together
HEARTBEAT_ANSWER_SECONDS = 2.0
RECONNECT_FIRST_SECONDS = 0.5
RECONNECT_LAST_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Hint:
    """The database's head as somebody said it; None where only «something happened» is known."""

    epoch: str | None
    revision: int | None


def parse_payload(payload: str) -> Hint:
    """Return the head in a notification; anything unexpected is still a hint."""
    try:
        document = json.loads(payload)
        return Hint(str(document["epoch"]), int(document["revision"]))
    except (ValueError, KeyError, TypeError):
        return Hint(None, None)


def parse_head(document: Any) -> Hint:
    """Return the head that `agent_v1.heartbeat` answered."""
    try:
        return Hint(str(document["epoch"]), int(document["revision"]))
    except (KeyError, TypeError, ValueError):
        return Hint(None, None)


def reconnect_delay(attempt: int, jitter: float) -> float:
    """Return the seconds before connection attempt `attempt` (0, 1, …); `jitter` is in 0..1."""
    longest = min(RECONNECT_FIRST_SECONDS * 2.0 ** min(attempt, 10), RECONNECT_LAST_SECONDS)
    return longest * (0.5 + jitter / 2) + RECONNECT_FIRST_SECONDS / 2


class Listener:
    """Calls `on_hint` for whatever is heard, for ever; connection trouble is ridden out."""

    def __init__(self, line: Line, on_hint: Callable[[Hint], None], *, jitter: Callable[[], float] = random.random):
        self._line = line
        self._on_hint = on_hint
        self._jitter = jitter
        self._attempt = 0

    async def run(self, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        while True:
            try:
                await self._session()
            except StoreUnavailable as error:
                logger.warning("%s", error)
            self._line.drop()
            await sleep(reconnect_delay(self._attempt, self._jitter()))
            self._attempt += 1

    async def _session(self) -> None:
        await self._line.execute(f"LISTEN {CHANNEL}", seconds=HEARTBEAT_ANSWER_SECONDS)
        await self._beat()
        self._attempt = 0
        self._on_hint(Hint(None, None))  # what was sent before LISTEN is lost: look now
        logger.info("listening")
        while True:
            await self._hear(HEARTBEAT_SECONDS * (1 + HEARTBEAT_JITTER * (self._jitter() - 0.5)))
            await self._beat()

    async def _beat(self) -> None:
        head = await self._line.execute("SELECT agent_v1.heartbeat()", seconds=HEARTBEAT_ANSWER_SECONDS)
        self._on_hint(parse_head(head))

    async def _hear(self, seconds: float) -> None:
        """Pass notifications on for `seconds`."""
        connection = await self._line.connection()
        try:
            async for notification in connection.notifies(timeout=seconds):
                self._on_hint(parse_payload(notification.payload))
        except psycopg.Error as error:
            raise StoreUnavailable(f"the listening connection broke: {error}") from error
