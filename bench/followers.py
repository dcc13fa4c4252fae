"""Readers of the change log while others write: one reads the table, one is an agent's own reading.

Both are driven by notifications alone. What a notification missed, or a read left out, stays missed and is counted.
"""

import asyncio
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import psycopg

from tenantry.node.listener import Hint, Listener
from tenantry.node.store import Line, Store

BATCH = 1_000
QUIET_SECONDS = 10.0  # without a notification, after the writers ended: what is missing then was missed


@dataclass(slots=True)
class Log:
    """The change log as a follower saw it: (revision, writer, count, slug, kind, generation) in reading order."""

    revision: int  # of the last change read
    changes: list[tuple[int, int, int, str, str, int]] = field(default_factory=list)
    reads: int = 0
    gaps: int = 0  # a revision was visible before a lower one
    epochs: set[str] = field(default_factory=set)


def follow_log(dsn: str, goal: "Goal", log: Log) -> None:
    """LISTEN, then read whatever is later than the last one read, at every notification; ends at the goal."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("LISTEN tenantry")
        _read(connection, log)
        quiet_since = time.monotonic()
        while not goal.reached(log.revision):
            heard = sum(1 for _ in connection.notifies(timeout=0.5, stop_after=1))
            if heard:
                quiet_since = time.monotonic()
                _read(connection, log)
            elif goal.known and time.monotonic() - quiet_since > QUIET_SECONDS:
                break


def _read(connection: "psycopg.Connection[Any]", log: Log) -> None:
    while True:
        rows = connection.execute(
            "SELECT revision, split_part(actor, ' ', 2)::int, (metadata->>'count')::int, site_slug, type,"
            " (metadata->>'generation')::bigint, epoch::text FROM change"
            " WHERE revision > %s ORDER BY revision LIMIT %s",
            (log.revision, BATCH),
        ).fetchall()
        log.reads += 1
        for row in rows:
            log.gaps += row[0] != log.revision + 1
            log.revision = row[0]
            log.epochs.add(row[6])
            log.changes.append(row[:6])
        if len(rows) < BATCH:
            return


class Goal:
    """The revision readers are to reach; known only when the writers have ended."""

    def __init__(self) -> None:
        self._last: int | None = None

    @property
    def known(self) -> bool:
        return self._last is not None

    def set(self, last: int) -> None:
        self._last = last

    def give_up(self) -> None:
        """Where no goal is known, there will be none: readers end."""
        if self._last is None:
            self._last = 0

    def reached(self, revision: int) -> bool:
        return self._last is not None and revision >= self._last


@dataclass(slots=True)
class Answered:
    """One answer of agent_v1.desired: what was asked, up to where it reaches, its sites."""

    since: int
    revision: int
    full: bool
    tail: int
    sites: dict[str, tuple[int, bool, int]]  # slug: revision, present, generation


@dataclass(slots=True)
class Agent:
    """An agent's reading with the agent's own connection, listener and store."""

    dsn: str
    pause_seconds: float  # after each read: a slow agent falls behind the log's tail
    answers: list[Answered] = field(default_factory=list)
    revision: int = 0
    begun: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, goal: Goal) -> None:
        """Read at every hint; ends at the goal, or when no hint came for long after the goal was known."""
        listening, asking = Line(self.dsn), Line(self.dsn)
        heard = asyncio.Event()

        def hear(hint: Hint) -> None:
            if hint.revision is None or hint.revision > self.revision:
                heard.set()

        listener = asyncio.create_task(Listener(listening, hear).run())
        store = Store(asking)
        try:
            while not goal.reached(self.revision):
                try:
                    await asyncio.wait_for(heard.wait(), QUIET_SECONDS)
                except TimeoutError:
                    if goal.known:
                        break
                    continue
                heard.clear()
                self._take(await store.desired(self.revision))
                await asyncio.sleep(self.pause_seconds)
        finally:
            listener.cancel()
            listening.drop()
            asking.drop()

    def _take(self, document: dict[str, Any]) -> None:
        sites = {
            site["slug"]: (site["revision"], site["present"], site.get("generation", 0)) for site in document["sites"]
        }
        answer = Answered(self.revision, document["revision"], document["full"], document.get("tail", 0), sites)
        self.answers.append(answer)
        self.revision = answer.revision
        self.begun.set()


def run_agents(dsns: list[str], pauses: list[float], pipe: Connection) -> None:
    """In a process of its own: agents that read until the pipe says up to where; answers with what they were told."""
    asyncio.run(_run_agents([Agent(dsn, pause) for dsn, pause in zip(dsns, pauses, strict=True)], pipe))


async def _run_agents(agents: list[Agent], pipe: Connection) -> None:
    goal = Goal()
    asyncio.get_running_loop().add_reader(pipe.fileno(), lambda: goal.set(pipe.recv()))
    async with asyncio.TaskGroup() as group:
        for agent in agents:
            group.create_task(agent.run(goal))
        for agent in agents:
            await agent.begun.wait()
        pipe.send("reading")
    asyncio.get_running_loop().remove_reader(pipe.fileno())
    pipe.send([agent.answers for agent in agents])
