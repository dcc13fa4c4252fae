"""The agent's core over a machine and a database that the test makes up: who waits for whom, and what is said."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from node_lab import answered_site as site

from tenantry.node.actions import (
    Action,
    AwaitReady,
    FetchRelease,
    LetSleep,
    LinkHost,
    ParkVassal,
    PrepareSite,
    RemoveGeneration,
    RemoveSite,
    SetFlag,
    SetLink,
    SetModeFile,
    Switch,
    UnlinkHost,
    WriteDocument,
    WriteVassal,
)
from tenantry.node.answer import Entry
from tenantry.node.desired import Head
from tenantry.node.drift import DriftLog
from tenantry.node.errors import NodeError, NotReady, StoreUnavailable, Transient
from tenantry.node.integrity import Drift
from tenantry.node.planner import ObservedSite
from tenantry.node.reconciler import Reconciler
from tenantry.node.status import NodeStatus
from tenantry.spec.names import Slug
from tenantry.spec.sites import SiteSpec


class FakeDatabase:
    """agent_v1, in memory."""

    def __init__(self) -> None:
        self.epoch, self.revision = "one", 0
        self.sites: dict[str, dict[str, Any]] = {}
        self.orders: dict[str, Any] = {"name": "n", "draining": False, "confirmed": None, "check": 0}
        self.reports: list[Mapping[str, Any]] = []
        self.away = False
        self.asked: list[int] = []

    def put(self, *documents: dict[str, Any]) -> int:
        for document in documents:
            self.revision += 1
            self.sites[document["slug"]] = document | {"revision": self.revision}
        return self.revision

    async def desired(self, since: int) -> Any:
        self._answer()
        self.asked.append(since)
        sites = [site for site in self.sites.values() if site["revision"] > since]
        return {"epoch": self.epoch, "revision": self.revision, "full": since == 0, "sites": sites, "node": self.orders}

    async def report(self, report: Mapping[str, Any]) -> None:
        self._answer()
        self.reports.append(report)

    def _answer(self) -> None:
        if self.away:
            raise StoreUnavailable("away")

    def line(self, slug: str) -> dict[str, Any]:
        found = [line for report in self.reports for line in report["sites"] if line["slug"] == slug]
        return found[-1] if found else {}

    def drifts(self) -> list[dict[str, Any]]:
        return [drift for report in self.reports for drift in report.get("drift", ())]

    def conditions(self) -> dict[str, str]:
        last = self.reports[-1]["conditions"] if self.reports else []
        return {condition["type"]: condition["message"] for condition in last}


class FakeHost:
    """A machine that does at once what it is told, unless a site is poisoned."""

    def __init__(self) -> None:
        self.sites: dict[Slug, ObservedSite] = {}
        self.crashes: set[str] = set()  # looking at these raises what nobody expects
        self.stuck: set[str] = set()  # their applications never answer
        self.refused: set[str] = set()  # their applications end at once
        self.releaseless: set[str] = set()  # their release is gone, and the store is away
        self.actions: list[Action] = []
        self.broken: dict[Slug | None, list[Drift]] = {}
        self.unrepairable = False
        self.draining: list[bool] = []
        self.visiting = 0

    def scan(self) -> frozenset[Slug]:
        return frozenset(self.sites)

    @property
    def logs(self) -> "FakeHost":
        return self

    def grown(self) -> dict[Slug, str]:
        return {}

    def tail(self, slug: Slug) -> str:
        return ""

    def with_file(self, slugs: Sequence[Slug], *, own: bool) -> list[Slug]:
        return []

    def touched(self, slug: Slug, *, own: bool) -> int | None:
        return None

    def changed_wakings(self) -> frozenset[Slug]:
        return frozenset()

    def observe(self, slug: Slug, spec: SiteSpec | None) -> ObservedSite:
        if slug in self.crashes:
            raise KeyError(slug)
        found = self.sites.get(slug, ObservedSite(slug))
        damaged = frozenset({"data"}) if self.broken.get(slug) and spec else frozenset()
        return replace(found, damaged=damaged, release=slug not in self.releaseless)

    async def apply(self, action: Action, spec: SiteSpec | None) -> None:
        self.actions.append(action)
        slug = action.slug
        now = self.sites.get(slug, ObservedSite(slug))
        match action:
            case PrepareSite():
                self.broken.pop(slug, None)
                now = replace(now, directory=True, data=True)
            case SetLink(name="idle"):
                now = replace(now, idle=action.target)
            case SetLink() | SetModeFile():
                pass
            case SetFlag():
                now = replace(now, flags=now.flags | {action.name} if action.up else now.flags - {action.name})
            case ParkVassal():
                now = replace(now, parked=now.parked | {action.generation})
            case LetSleep():
                now = replace(now, serving=action.generation, asleep=True)
            case FetchRelease():
                raise Transient("the store is away")
            case WriteDocument():
                now = replace(now, documents=now.documents | {action.generation})
            case WriteVassal():
                now = replace(now, vassals=now.vassals | {action.generation})
            case AwaitReady():
                await asyncio.sleep(3600 if slug in self.stuck else 0.001)
                if slug in self.refused:
                    raise NotReady("it ends at once", "Traceback")
                now = replace(now, listening=now.listening | {action.generation})
            case Switch():
                now = replace(now, serving=action.generation, serving_seconds=100.0, asleep=False)
            case LinkHost():
                now = replace(now, hostnames=now.hostnames | {action.hostname})
            case UnlinkHost():
                now = replace(now, hostnames=now.hostnames - {action.hostname})
            case RemoveGeneration():
                gone = {action.generation}
                now = replace(
                    now, documents=now.documents - gone, vassals=now.vassals - gone, listening=now.listening - gone
                )
            case RemoveSite():
                self.sites.pop(slug, None)
                return
            case _:
                raise NodeError(f"unknown: {action}")
        self.sites[slug] = now

    def resembles(self, spec: SiteSpec) -> bool:
        return True

    def made_for(self, slug: Slug, generation: int) -> int | None:
        return None

    def examine(self, slug: Slug, spec: SiteSpec) -> tuple[Drift, ...]:
        if slug in self.crashes:
            raise KeyError(slug)
        return tuple(self.broken.get(slug, ()))

    async def examine_node(self) -> tuple[Drift, ...]:
        return tuple(self.broken.get(None, ()))

    async def repair_node(self, drifts: tuple[Drift, ...]) -> None:
        if self.unrepairable:
            raise NodeError("cannot")
        self.broken.pop(None, None)

    async def set_draining(self, draining: bool) -> None:
        self.draining.append(draining)

    async def visitors(self) -> int:
        return self.visiting


class FakeMemory:
    def __init__(self) -> None:
        self.full = False
        self.head: Head | None = None
        self.entries: dict[Slug, Entry] = {}
        self.drifts: list[Mapping[str, Any]] = []

    def save(self, head: Head, entries: Iterable[Entry]) -> None:
        if self.full:
            raise OSError(28, "No space left on device", "head.json")
        self.head = head
        self.entries |= {entry.slug: entry for entry in entries}

    def save_drifts(self, drifts: Iterable[Mapping[str, Any]]) -> None:
        self.drifts = list(drifts)


class Agent:
    def __init__(self) -> None:
        self.database, self.host, self.memory = FakeDatabase(), FakeHost(), FakeMemory()
        self.status = NodeStatus("1.2.3")
        self.reconciler = Reconciler(
            self.database, self.host, self.memory, self.status, starts_at_once=4, clock=time.monotonic
        )

    def put(self, *documents: dict[str, Any]) -> int:
        revision = self.database.put(*documents)
        self.reconciler.hear(self.database.epoch, revision)
        return revision

    def order(self, **orders: Any) -> None:
        self.database.revision += 1
        self.database.orders = self.database.orders | orders
        self.reconciler.hear(self.database.epoch, self.database.revision)

    def serves(self, slug: str, revision: int) -> bool:
        line = self.database.line(slug)
        return bool(line) and line["revision"] >= revision and line["state"] == "serving"


@contextlib.asynccontextmanager
async def running(agent: Agent) -> AsyncIterator[None]:
    task = asyncio.create_task(agent.reconciler.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], Any], seconds: float = 10.0) -> float:
    """Return how long it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, "too late"
        await asyncio.sleep(0.002)
    return time.monotonic() - began


def test_a_site_whose_release_cannot_be_mended_serves_and_says_what_is_amiss() -> None:
    async def body() -> None:
        agent = Agent()
        async with running(agent):
            agent.put(site("blog"))
            await until(lambda: agent.serves("blog", 1))
            agent.host.releaseless = {"blog", "fresh"}
            revision = agent.put(site("blog", hostnames=["new.localhost"]), site("fresh"))
            await until(lambda: agent.serves("blog", revision - 1) and agent.database.line("fresh"))
            assert "the store is away" in agent.database.line("blog")["message"]
            assert agent.database.line("fresh")["state"] == "starting", "no process of it answers"
            assert agent.host.sites[Slug("blog")].hostnames == {"new.localhost"}
            agent.host.releaseless = set()
            await until(lambda: agent.serves("fresh", revision) and not agent.database.line("blog")["message"])

    asyncio.run(body())


def of(release: str) -> dict[str, Any]:
    return {"release": {**site("x")["release"], "name": release}}


async def change_all(agent: Agent, healthy: list[str], generation: int, *others: dict[str, Any]) -> float:
    """Return how long it took until the healthy sites serve the generation."""
    revision = agent.put(*others, *(site(name, generation=generation) for name in healthy))
    first = revision - len(healthy) + 1
    return await until(lambda: all(agent.serves(name, first + number) for number, name in enumerate(healthy)))


def test_five_poisoned_sites_do_not_delay_fifty_others() -> None:
    async def body() -> None:
        agent = Agent()
        healthy = [f"site{number}" for number in range(50)]
        agent.host.crashes, agent.host.stuck, agent.host.refused = {"p0", "p1"}, {"p2", "p3"}, {"p4"}
        poisoned = ["p0", "p1", "p2", "p3", "p4"]
        async with running(agent):
            agent.put(*(site(name) for name in poisoned))
            await until(lambda: agent.database.line("p4").get("state") == "failed")
            took = [await change_all(agent, healthy, generation) for generation in (1, 2, 3)]
            everything = [site(name, generation=4) for name in poisoned]
            took.append(await change_all(agent, healthy, 4, *everything))
            print(f"50 sites changed beside 5 poisoned ones: {', '.join(f'{t * 1000:.0f} ms' for t in took)}")
            assert max(took) < 1.5
            assert agent.database.line("p0")["state"] == "failed"
            assert "bug" in agent.database.line("p0")["message"]
            assert agent.database.line("p4")["log"] == "Traceback"
            assert agent.status.revision < agent.database.revision, "the node is not as far as its poisoned sites"

    asyncio.run(body())


def test_a_release_that_never_answers_holds_up_no_other_release() -> None:
    async def body() -> None:
        agent = Agent()
        agent.host.stuck = {f"stuck{number}" for number in range(200)}
        async with running(agent):
            agent.put(*(site(name, **of("broken-1")) for name in sorted(agent.host.stuck)))
            await asyncio.sleep(0.2)
            took = await change_all(agent, [f"site{number}" for number in range(20)], 1)
            print(f"20 sites started beside 200 of a release that never answers: {took * 1000:.0f} ms")
            assert took < 1.5

    asyncio.run(body())


async def serve_among_stuck(agent: Agent, slug: str) -> None:
    """The site serves; 200 others of its release have all turns and wait for theirs."""
    agent.put(site(slug))
    await until(lambda: agent.serves(slug, 1))
    agent.host.stuck = {f"stuck{n}" for n in range(200)}
    agent.put(*(site(name) for name in sorted(agent.host.stuck)))
    await asyncio.sleep(0.2)


def test_hostnames_change_at_once_whatever_else_starts() -> None:
    async def body() -> None:
        agent = Agent()
        async with running(agent):
            await serve_among_stuck(agent, "blog")
            revision = agent.put(site("blog", hostnames=["blog.localhost", "www.localhost"]))
            assert await until(lambda: agent.serves("blog", revision)) < 0.5

    asyncio.run(body())


def test_a_mode_and_hostnames_hold_at_once_while_the_same_site_starts() -> None:
    async def body() -> None:
        agent = Agent()
        blog = Slug("blog")
        async with running(agent):
            agent.put(site("blog"))
            await until(lambda: agent.serves("blog", 1))
            agent.host.stuck = {"blog"}
            agent.put(site("blog", generation=2))
            await until(lambda: any(isinstance(action, AwaitReady) for action in agent.host.actions[-1:]))
            agent.put(site("blog", generation=2, mode="maintenance"))
            assert await until(lambda: agent.host.sites[blog].flags == {"maintenance"}) < 0.5
            agent.put(site("blog", generation=2, hostnames=["www.localhost"]))
            assert await until(lambda: agent.host.sites[blog].hostnames == {"www.localhost"}) < 0.5
            assert agent.host.sites[blog].flags == frozenset()
            assert sum(isinstance(action, AwaitReady) for action in agent.host.actions) == 2, "nothing was begun anew"
            assert agent.host.sites[blog].serving == 1
            agent.host.stuck = set()
            revision = agent.put(site("blog", generation=3))
            await until(lambda: agent.serves("blog", revision))

    asyncio.run(body())


def test_who_waits_for_a_turn_is_closed_and_removed_at_once() -> None:
    async def body() -> None:
        agent = Agent()
        blog = Slug("blog")
        async with running(agent):
            await serve_among_stuck(agent, "blog")
            agent.put(site("blog", generation=2))  # of the same release as the stuck ones
            await until(lambda: 2 in agent.host.sites[blog].documents)
            agent.put(site("blog", generation=2, mode="paused"))
            assert await until(lambda: agent.host.sites[blog].flags == {"maintenance"}) < 0.5
            agent.put(site("blog", present=False))
            assert await until(lambda: blog not in agent.host.sites) < 3.0

    asyncio.run(body())


def drift(slug: Slug | None, path: str = "run/x") -> Drift:
    return Drift(slug, "file", path, "was edited")


def test_a_check_on_demand_finds_and_repairs_and_says_so() -> None:
    async def body() -> None:
        agent = Agent()
        async with running(agent):
            agent.put(*(site(f"s{n}") for n in range(10)))
            await until(lambda: all(agent.serves(f"s{n}", n + 1) for n in range(10)))
            agent.host.broken = {Slug("s3"): [drift(Slug("s3"), "run/sites/s3")], None: [drift(None, "etc/nginx.conf")]}
            agent.order(check=1, check_repair=True)
            await until(lambda: len([d for d in agent.database.drifts() if d["repaired_seconds"] is not None]) == 2)
            assert not agent.host.broken
            checked = agent.database.reports[-1]["checked"]
            assert {key: checked[key] for key in ("id", "sites", "drift")} == {"id": 1, "sites": 10, "drift": 2}
            assert checked["paths"] == 130
            assert {d["site"] for d in agent.database.drifts()} == {"s3", None}
            repaired = [d for d in agent.database.drifts() if d["repaired_seconds"] is not None]
            assert all(0 <= d["took_seconds"] < 1 for d in repaired)

    asyncio.run(body())


def test_a_check_without_repair_only_looks() -> None:
    async def body() -> None:
        agent = Agent()
        async with running(agent):
            agent.put(site("blog"))
            await until(lambda: agent.serves("blog", 1))
            agent.host.broken = {Slug("blog"): [drift(Slug("blog"))], None: [drift(None, "run/y")]}
            agent.order(check=7, check_repair=False)
            await until(lambda: agent.database.reports[-1].get("checked", {}).get("id") == 7)
            assert len(agent.host.broken) == 2
            assert [d["repaired_seconds"] for d in agent.database.drifts()] == [None, None]
            agent.order(check=8, check_repair=True)
            await until(lambda: len([d for d in agent.database.drifts() if d["repaired_seconds"] is not None]) == 2)

    asyncio.run(body())


def test_what_cannot_be_repaired_or_examined_is_said_and_holds_up_nothing() -> None:
    async def body() -> None:
        agent = Agent()
        async with running(agent):
            agent.put(site("blog"), site("shop"))
            await until(lambda: agent.serves("shop", 2))
            agent.host.crashes, agent.host.unrepairable = {"blog"}, True
            agent.host.broken = {Slug("shop"): [drift(Slug("shop"))], None: [drift(None, "run/y")]}
            agent.order(check=1, check_repair=True)
            await until(lambda: "RepairFailed" in agent.database.conditions())
            await until(lambda: Slug("shop") not in agent.host.broken)

    asyncio.run(body())


def test_drained_is_said_when_the_last_visitor_left_and_unsaid_on_return(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenantry.node.drainer.QUIET_SECONDS", 0.2)
    monkeypatch.setattr("tenantry.node.drainer.LOOK_SECONDS", 0.02)

    async def body() -> None:
        agent = Agent()
        agent.host.visiting = 3
        async with running(agent):
            agent.put(site("blog"))
            await until(lambda: agent.serves("blog", 1))
            agent.order(draining=True)
            await until(lambda: agent.host.draining == [False, True])
            await asyncio.sleep(0.4)
            assert "Drained" not in agent.database.conditions()
            agent.host.visiting = 0
            assert await until(lambda: "Drained" in agent.database.conditions()) >= 0.15
            agent.order(draining=False)
            await until(lambda: agent.host.draining == [False, True, False])
            await until(lambda: "Drained" not in agent.database.conditions())

    asyncio.run(body())


def test_a_held_removal_is_followed_once_it_is_confirmed() -> None:
    async def body() -> None:
        agent = Agent()
        async with running(agent):
            agent.put(site("blog"), site("shop"))
            await until(lambda: agent.serves("shop", 2))
            del agent.database.sites["shop"]
            agent.database.epoch, agent.database.revision = "two", 1
            agent.put(site("blog", hostnames=["b.localhost"]))
            await until(lambda: "RemovalHeld" in agent.database.conditions())
            await until(lambda: agent.host.sites[Slug("blog")].hostnames == {"b.localhost"})
            assert agent.host.sites[Slug("shop")].serving == 1
            message = agent.database.conditions()["RemovalHeld"]
            await until(lambda: agent.memory.head is not None and agent.memory.head.held.slugs == {"shop"})
            agent.order(confirmed=message.split()[-1])
            await until(lambda: Slug("shop") not in agent.host.sites)
            await until(lambda: not agent.database.conditions())
            await until(lambda: agent.database.line("shop")["state"] == "absent")

    asyncio.run(body())


def test_a_database_that_is_set_back_gives_no_orders() -> None:
    async def body() -> None:
        agent = Agent()
        async with running(agent):
            agent.put(site("blog"), site("shop"))
            await until(lambda: agent.serves("shop", 2))
            agent.database.revision, agent.database.sites = 1, {}
            agent.database.orders = agent.database.orders | {"draining": True}
            agent.reconciler.hear(None, None)
            await until(lambda: "StaleState" in agent.database.conditions())
            assert "new-epoch" in agent.database.conditions()["StaleState"]
            assert agent.host.draining == [False]
            assert agent.host.sites[Slug("blog")].serving == 1

    asyncio.run(body())


def test_a_namesake_is_served_only_after_the_former_site_is_gone() -> None:
    async def body() -> None:
        agent = Agent()
        async with running(agent):
            agent.put(site("blog"))
            await until(lambda: agent.serves("blog", 1))
            agent.host.actions.clear()
            revision = agent.put(site("blog", number=2, database="site_2", hostnames=["other.localhost"]))
            await until(lambda: agent.serves("blog", revision))
            words = [type(action).__name__ for action in agent.host.actions]
            assert words.index("RemoveSite") < words.index("PrepareSite") < words.index("LinkHost")
            await until(lambda: getattr(agent.memory.entries.get(Slug("blog")), "number", None) == 2)

    asyncio.run(body())


def test_a_full_disk_is_said_until_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenantry.node.saver.RETRY_SECONDS", 0.05)

    async def body() -> None:
        agent = Agent()
        agent.memory.full = True
        async with running(agent):
            agent.put(site("blog"))
            await until(lambda: agent.serves("blog", 1))
            agent.put(site("blog", processes=2))
            await until(lambda: "StateNotSaved" in agent.status._conditions)
            agent.memory.full = False
            await until(lambda: Slug("blog") in agent.memory.entries)
            await until(lambda: "StateNotSaved" not in agent.status._conditions)

    asyncio.run(body())


def test_what_was_accepted_just_before_the_end_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenantry.node.saver.COALESCE_SECONDS", 60.0)

    async def body() -> None:
        agent = Agent()
        async with running(agent):
            agent.put(site("blog"))
            await until(lambda: agent.serves("blog", 1))
        assert agent.memory.head is None
        agent.reconciler.finish()
        assert agent.memory.head is not None
        assert (agent.memory.head.revision, set(agent.memory.entries)) == (1, {Slug("blog")})

    asyncio.run(body())


def test_a_lost_database_is_asked_for_less_and_less_and_for_no_more_than_changed() -> None:
    async def body() -> None:
        agent = Agent()
        async with running(agent):
            agent.put(site("blog"))
            await until(lambda: agent.serves("blog", 1))
            agent.database.asked.clear()
            agent.database.away = True
            revision = agent.put(site("blog", generation=2))
            await asyncio.sleep(0.3)
            agent.database.away = False
            await until(lambda: agent.serves("blog", revision))
            assert 0 not in agent.database.asked, "an outage is no reason to have every node read everything"

    asyncio.run(body())


def test_what_the_listener_learns_is_said() -> None:
    agent = Agent()
    agent.reconciler.notifications(False)
    agent.reconciler.clock_ahead(-3600.4)
    agent.reconciler.same_node_twice(1)
    agent.status.head("e", 1)
    report = agent.status.take_report()
    assert report is not None
    found = {condition["type"]: condition["message"] for condition in report["conditions"]}
    assert set(found) == {"NotificationsNotArriving", "ClockSkewed", "SameNodeTwice"}
    assert "PgBouncer" in found["NotificationsNotArriving"]
    assert "3600 s behind" in found["ClockSkewed"]
    assert (report["notifications"], report["version"]) == (False, "1.2.3")
    agent.reconciler.notifications(True)
    agent.reconciler.clock_ahead(4.9)
    agent.reconciler.same_node_twice(0)
    report = agent.status.take_report()
    assert report is not None
    assert report["conditions"] == []


# The log of drifts, under a clock that only the test moves


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_drift_is_dated_from_the_last_good_check_to_its_repair() -> None:
    clock = Clock()
    log = DriftLog(clock)
    blog = Slug("blog")
    log.examined(blog, ())
    clock.now = 130.0
    log.examined(blog, [drift(blog)])
    log.examined(blog, [drift(blog)])
    clock.now = 132.0
    (line,) = log.take()
    assert (line["since_seconds"], line["found_seconds"], line["repaired_seconds"]) == (30.0, 2.0, None)
    assert not log.arrived()
    assert log.take() == []
    log.arrived()
    log.examined(blog, ())
    clock.now = 133.0
    (line,) = log.take()
    assert (line["found_seconds"], line["repaired_seconds"], line["took_seconds"]) == (3.0, 1.0, 2.0)
    log.give_back()
    clock.now = 140.0
    (line,) = log.take()
    assert (line["found_seconds"], line["repaired_seconds"], line["took_seconds"]) == (10.0, 8.0, 2.0)
    assert not log.arrived()
    assert log.take() == []


def test_a_repair_while_the_finding_is_on_its_way_is_reported_afterwards() -> None:
    log = DriftLog(Clock())
    log.examined(None, [drift(None)])
    log.take()
    log.examined(None, ())
    assert log.arrived(), "more waits"
    assert [line["repaired_seconds"] for line in log.take()] == [0.0]


def test_a_drift_repaired_after_a_restart_is_closed_in_the_database() -> None:
    clock = Clock()
    log = DriftLog(clock)
    log.examined(Slug("blog"), [drift(Slug("blog"))])
    clock.now = 110.0
    lines = log.to_remember(wall=1_000_000.0)
    restarted = DriftLog(clock)
    clock.now = 5.0
    restarted.restore(lines, wall=1_000_020.0)
    assert restarted.take() == [], "it was reported before"
    restarted.examined(Slug("blog"), ())
    (line,) = restarted.take()
    assert (line["path"], line["found_seconds"], line["repaired_seconds"]) == ("run/x", 30.0, 0.0)


def test_one_report_holds_so_many_and_the_next_the_rest() -> None:
    log = DriftLog(Clock())
    log.examined(None, [drift(None, f"run/{number}") for number in range(700)])
    assert len(log.take()) == 500
    assert log.arrived()
    assert len(log.take()) == 200


def test_a_site_that_is_gone_differs_no_more() -> None:
    log = DriftLog(Clock())
    log.examined(Slug("blog"), [drift(Slug("blog"))])
    log.keep_only([])
    assert not log.differs(Slug("blog"))
    assert log.take()[0]["repaired_seconds"] == 0.0
