"""Simulated agents, hundreds in one process: the agent's own connections, listener, reading and reporting.

Only the machine is missing: what was read counts as applied at once.
"""

import asyncio
import logging
import random
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from tenantry.node.checker import CHECK_JITTER, CHECK_SECONDS
from tenantry.node.errors import StoreUnavailable
from tenantry.node.gate import ConnectGate, retry_delay
from tenantry.node.listener import Hint, Listener
from tenantry.node.reader import FULL_JITTER, FULL_SECONDS
from tenantry.node.store import Line, Store
from tenantry.node.twins import watch_for_twins


@dataclass(slots=True)
class Times:
    """When an agent got where, on the machine's monotonic clock, the same in every process."""

    applied: dict[int, float] = field(default_factory=dict)  # revision: applied
    reported: dict[int, float] = field(default_factory=dict)  # revision: the report has arrived
    listening: list[float] = field(default_factory=list)  # sessions begun


class SimulatedAgent:
    """One agent. `run` never returns."""

    def __init__(self, dsn: str) -> None:
        gate = ConnectGate()
        self._listening, self._asking = Line(dsn, gate), Line(dsn, gate)
        self._store = Store(self._asking)
        self._epoch: str | None = None
        self._revision = 0
        self._notifications: bool | None = None
        self._reported = -1
        self._revisions: dict[str, int] = {}
        self._heard = asyncio.Event()
        self.times = Times()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(Listener(self._listening, self._hear, self).run())
            group.create_task(self._read_for_ever())
            group.create_task(self._check_for_ever())
            group.create_task(watch_for_twins(self._store, "bench", "bench", lambda _: None))

    async def echo(self) -> None:
        """Called by the listener, as are the next two."""
        await self._store.echo()

    def notifications(self, arrive: bool) -> None:
        self._notifications = arrive

    def clock_ahead(self, seconds: float) -> None:
        pass

    def _hear(self, hint: Hint) -> None:
        if hint.epoch is None:
            self.times.listening.append(time.monotonic())
        if hint.epoch != self._epoch or (hint.revision or 0) > self._revision:
            self._heard.set()

    async def _read_for_ever(self) -> None:
        full_at, failures = 0.0, 0
        while True:
            full = time.monotonic() >= full_at
            try:
                await self._read(self._revision)
                if full and self._revision:
                    await self._read(0)
            except StoreUnavailable:
                await asyncio.sleep(retry_delay(failures, random.random()))
                failures += 1
                continue
            failures = 0
            if full:
                full_at = time.monotonic() + FULL_SECONDS * (1 - FULL_JITTER * random.random())
            try:
                async with asyncio.timeout(max(full_at - time.monotonic(), 0.0)):
                    await self._heard.wait()
            except TimeoutError:
                pass
            self._heard.clear()

    async def _check_for_ever(self) -> None:
        """The periodic check of the node's files costs the database a report."""
        while True:
            await asyncio.sleep(CHECK_SECONDS * (1 - CHECK_JITTER * random.random()))
            checked = {"id": 0, "sites": len(self._revisions), "paths": 0, "seconds": 0.1, "cpu_seconds": 0, "drift": 0}
            try:
                await self._store.report(self._head() | {"sites": [], "checked": checked})
            except StoreUnavailable:
                continue

    def _head(self) -> dict[str, Any]:
        head = {"epoch": self._epoch, "revision": self._revision, "digest": "sha256x:bench", "conditions": []}
        return head | {"notifications": self._notifications, "version": "bench"}

    async def _read(self, since: int) -> None:
        answer = await self._store.desired(since)
        sites = {site["slug"]: site for site in answer["sites"]}
        changed = [_line(site) for slug, site in sites.items() if self._revisions.get(slug) != site["revision"]]
        self._revisions |= {slug: site["revision"] for slug, site in sites.items()}
        self._epoch, self._revision = answer["epoch"], answer["revision"]
        self.times.applied.setdefault(self._revision, time.monotonic())
        if changed or self._revision != self._reported:
            head = self._head()
            await self._store.report(head | {"sites": changed})
            self._reported = head["revision"]
            self.times.reported.setdefault(head["revision"], time.monotonic())


def _line(site: dict[str, Any]) -> dict[str, Any]:
    """Return what an agent says of a site that it serves as desired, or no longer."""
    known = {name: site.get(name, 0) for name in ("slug", "revision", "generation")}
    return known | {"state": "serving" if site["present"] else "absent", "message": "", "log": ""}


def run_agents(dsns: list[str], start_seconds: float, pipe: Connection) -> None:
    """In a process of its own: start the agents spread over `start_seconds`; answer questions from the pipe.

    ("applied" | "reported", revision) → the moments, one for each agent that got there;
    ("listening", moment) → the first session of each agent begun after it.
    """
    logging.disable(logging.WARNING)  # a thousand agents that lose their connection are what is measured
    asyncio.run(_run_agents([SimulatedAgent(dsn) for dsn in dsns], start_seconds, pipe))


async def _run_agents(agents: list[SimulatedAgent], start_seconds: float, pipe: Connection) -> None:
    ended = asyncio.Event()

    def answer() -> None:
        question, value = pipe.recv()
        if question == "end":
            ended.set()
        elif question == "listening":
            pipe.send([min(after) for agent in agents if (after := [t for t in agent.times.listening if t > value])])
        else:
            pipe.send([moment for agent in agents if (moment := _reached(getattr(agent.times, question), value))])

    asyncio.get_running_loop().add_reader(pipe.fileno(), answer)
    tasks = []
    for agent in agents:
        tasks.append(asyncio.create_task(agent.run()))
        await asyncio.sleep(start_seconds / len(agents))
    waiting = asyncio.create_task(ended.wait())
    await asyncio.wait({waiting, *tasks}, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        if task.done():
            task.result()  # an agent that ended is a bug: let it be seen
        task.cancel()


def _reached(times: dict[int, float], revision: int) -> float | None:
    return min((moment for reached, moment in times.items() if reached >= revision), default=None)
