"""The feed: one LISTEN connection per process, fanned out to everybody who waits for something.

A note is a hint that something moved; who gets one reads the tables. So a note may be dropped when a subscriber has
others waiting, and after a reconnection everybody gets one, because what was sent meanwhile is lost.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import psycopg
from django.db import connections

CHANGES = "tenantry"
REPORTS = "tenantry_report"

PENDING_MAX = 1_000  # notes that one slow subscriber may have waiting
READY_TIMEOUT_SECONDS = 2.0
RECONNECT_SECONDS = 0.5
PING_SECONDS = 10.0  # silence after which the connection is tried
PING_TIMEOUT_SECONDS = 3.0
LINGER_SECONDS = 60.0  # the connection outlives its last subscriber: the next long poll finds it open

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Note:
    """What moved: `channel` is CHANGES (payload: the change as JSON) or REPORTS (payload: the node's name).

    An empty payload says that anything may have moved.
    """

    channel: str
    payload: str


class Subscription:
    """One subscriber's waiting notes."""

    def __init__(self) -> None:
        self._notes: asyncio.Queue[Note] = asyncio.Queue(PENDING_MAX)

    async def next(self, timeout_seconds: float) -> Note | None:
        """Return the next note, or None when there is none for `timeout_seconds`."""
        if not self._notes.empty():
            return self._notes.get_nowait()
        try:
            async with asyncio.timeout(timeout_seconds):
                return await self._notes.get()
        except TimeoutError:
            return None

    def put(self, note: Note) -> None:
        """Hand over a note; dropped when so many wait that the subscriber will read everything anyway."""
        if not self._notes.full():
            self._notes.put_nowait(note)


class Feed:
    """The notifications of one event loop. Use `feed()`; do not make one."""

    def __init__(self) -> None:
        self._subscriptions: set[Subscription] = set()
        self._task: asyncio.Task[None] | None = None
        self._listening = asyncio.Event()
        self._subscribed = asyncio.Event()
        self._interrupted = False

    @asynccontextmanager
    async def subscribe(self) -> AsyncIterator[Subscription]:
        """Subscribe. Once inside, every later commit gives a note: read the state after entering, never before.

        When PostgreSQL cannot be listened to, it enters all the same after 2 s: callers poll at their time-outs.
        """
        subscription = Subscription()
        self._subscriptions.add(subscription)
        self._subscribed.set()
        if self._task is None or self._task.done():
            self._listening.clear()
            self._task = asyncio.create_task(self._run(), name="change feed")
        try:
            try:
                async with asyncio.timeout(READY_TIMEOUT_SECONDS):
                    await self._listening.wait()
            except TimeoutError:
                logger.warning("notifications are not coming in; polling")
            yield subscription
        finally:
            self._subscriptions.discard(subscription)
            if not self._subscriptions:
                self._subscribed.clear()

    async def _run(self) -> None:
        while await self._wanted():
            try:
                await self._listen()
            except (psycopg.Error, TimeoutError, OSError) as error:
                # Before the pause: who subscribes during it waits for the next connection.
                self._listening.clear()
                self._interrupted = True
                logger.warning("the feed lost its connection: %s", error)
                await asyncio.sleep(RECONNECT_SECONDS)
            finally:
                self._listening.clear()

    async def _wanted(self) -> bool:
        """Whether anybody subscribes, now or within LINGER_SECONDS."""
        if not self._subscriptions:
            try:
                async with asyncio.timeout(LINGER_SECONDS):
                    await self._subscribed.wait()
            except TimeoutError:
                return False
        return True

    async def _listen(self) -> None:
        connection = await psycopg.AsyncConnection.connect(autocommit=True, **_parameters())
        async with connection:
            await connection.execute(f"LISTEN {CHANGES}")
            await connection.execute(f"LISTEN {REPORTS}")
            self._listening.set()
            self._publish(Note(CHANGES, ""))
            if self._interrupted:
                self._interrupted = False
                self._publish(Note(REPORTS, ""))
            idle_seconds = 0.0
            while idle_seconds < LINGER_SECONDS:
                async for notify in connection.notifies(timeout=PING_SECONDS):
                    self._publish(Note(notify.channel, notify.payload))
                idle_seconds = 0.0 if self._subscriptions else idle_seconds + PING_SECONDS
                async with asyncio.timeout(PING_TIMEOUT_SECONDS):
                    await connection.execute("SELECT 1")

    def _publish(self, note: Note) -> None:
        for subscription in self._subscriptions:
            subscription.put(note)


_feeds: WeakKeyDictionary[asyncio.AbstractEventLoop, Feed] = WeakKeyDictionary()


def feed() -> Feed:
    """Return the feed of the running event loop."""
    return _feeds.setdefault(asyncio.get_running_loop(), Feed())


def _parameters() -> dict[str, Any]:
    configured = connections.settings["default"]
    return {
        "host": configured["HOST"],
        "port": configured["PORT"],
        "dbname": configured["NAME"],
        "user": configured["USER"],
        "password": configured["PASSWORD"],
        "application_name": "tenantry-feed",
        "connect_timeout": 5,
    }
