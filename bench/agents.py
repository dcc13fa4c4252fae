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

from tenantry.node.errors import StoreUnavailable
from tenantry.node.listener import Hint, Listener
from tenantry.node.store import Line, Store

FULL_SECONDS = 60.0  # between full readings
READ_RETRY_SECONDS = 1.0


@dataclass(slots=True)
class Times:
    """When an agent got where, on the machine's monotonic clock, the same in every process."""

    applied: dict[int, float] = field(default_factory=dict)  # revision: applied
    reported: dict[int, float] = field(default_factory=dict)  # revision: the report has arrived
    listening: list[float] = field(default_factory=list)  # sessions begun


class SimulatedAgent:
    """One agent. `run` never returns."""

    def __init__(self, dsn: str) -> None:
        self._listening, self._asking = Line(dsn), Line(dsn)
        self._store = Store(self._asking)
        self._epoch: str | None = None
        self._revision = 0
        self._reported = -1
        self._revisions: dict[str, int] = {}
        self._heard = asyncio.Event()
        self.times = Times()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(Listener(self._listening, self._hear).run())
            group.create_task(self._read_for_ever())

    def _hear(self, hint: Hint) -> None:
        if hint.epoch is None:
            self.times.listening.append(time.monotonic())
        if hint.epoch != self._epoch or (hint.revision or 0) > self._revision:
            self._heard.set()

    async def _read_for_ever(self) -> None:
        full_at = 0.0
        while True:
            full = time.monotonic() >= full_at
            try:
                await self._read(0 if full else self._revision)
            except StoreUnavailable:
                await asyncio.sleep(READ_RETRY_SECONDS)
                continue
            if full:
                full_at = time.monotonic() + FULL_SECONDS * (0.5 + random.random())
            try:
                async with asyncio.timeout(max(full_at - time.monotonic(), 0.0)):
                    await self._heard.wait()
            except TimeoutError:
                pass
            self._heard.clear()

    async def _read(self, since: int) -> None:
        answer = await self._store.desired(since)
        sites = {site["slug"]: site for site in answer["sites"]}
        changed = [_line(site) for slug, site in sites.items() if self._revisions.get(slug) != site["revision"]]
        self._revisions |= {slug: site["revision"] for slug, site in sites.items()}
        self._epoch, self._revision = answer["epoch"], answer["revision"]
        self.times.applied.setdefault(self._revision, time.monotonic())
        if changed or self._revision != self._reported:
            head = {"epoch": self._epoch, "revision": self._revision, "digest": "sha256x:bench", "conditions": []}
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
