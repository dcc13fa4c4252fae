"""The planner: from any observation, plans lead to the desired state and then to rest; no invariant breaks."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from node_lab import make_spec

from tenantry.node.actions import (
    Action,
    AwaitEnd,
    AwaitReady,
    FetchRelease,
    LetSleep,
    LinkHost,
    ParkVassal,
    PrepareSite,
    RemoveForeign,
    RemoveGeneration,
    RemoveParked,
    RemoveSite,
    RestoreSocket,
    SetFlag,
    SetLink,
    SetModeFile,
    Switch,
    UnlinkHost,
    WriteDocument,
    WriteVassal,
)
from tenantry.node.planner import (
    DRAIN_LIMIT_SECONDS,
    FLAGS,
    ObservedSite,
    Plan,
    idle_target,
    is_absent,
    is_former,
    is_serving,
    media_target,
    mode_flags,
    plan_site,
    static_target,
)
from tenantry.spec.limits import Limits
from tenantry.spec.names import Fqdn, Slug
from tenantry.spec.sites import Mode, Runtime, SiteSpec

SLUG = Slug("blog")
NAMES = [Fqdn(f"{letter}.localhost") for letter in "abc"]
GENERATIONS = st.integers(1, 4)


class World:
    """The machine in memory: what each action does, and checks on what must hold after each."""

    def __init__(self, observed: ObservedSite, broken: frozenset[int] = frozenset()) -> None:
        self.seen = observed
        self.broken = broken
        self.planned_at = observed.serving_seconds

    def apply(self, action: Action) -> bool:
        """Do the action; False when the generation waited for never becomes ready."""
        seen = self.seen
        match action:
            case PrepareSite():
                self.seen = replace(seen, directory=True, data=True)
                self.mend("directory", "data", "log")
            case SetLink(name="serving"):
                self.mend("serving")
            case SetLink(name="static.former", target=target):
                assert seen.static == target, "set before the link itself changes"
                assert is_former(make_spec(), target)
            case SetLink(name=name, target=target):
                self.seen = replace(seen, **{name: target})
                self.mend(name)
            case SetFlag(name=name, up=up):
                self.seen = replace(seen, flags=seen.flags | {name} if up else seen.flags - {name})
                self.mend(f"flag:{name}")
            case SetModeFile(reader=reader):
                self.mend(f"mode:{reader}")
            case RemoveForeign(name=name):
                self.mend(f"foreign:{name}")
            case FetchRelease():
                self.seen = replace(seen, release=True)
            case RestoreSocket(generation=n):
                assert n in seen.vassals, "nobody starts a process anew"
                self.seen = replace(seen, listening=seen.listening | {n}, sockets=seen.sockets | {n})
                self.mend(f"socket:{n}")
            case WriteDocument(generation=n):
                self.seen = replace(seen, documents=seen.documents | {n})
                self.mend(f"document:{n}")
            case ParkVassal(generation=n):
                self.seen = replace(seen, parked=seen.parked | {n})
                self.mend(f"parked:{n}")
            case RemoveParked(generation=n):
                assert not seen.asleep, "nobody would wake it"
                self.seen = replace(seen, parked=seen.parked - {n})
            case LetSleep(generation=n):
                assert n in seen.parked
                assert n in seen.documents
                assert seen.serving in (None, n) or "app.sock" in seen.damaged, "another generation served"
                self.seen = replace(seen, serving=n, serving_seconds=0.0, served=n, asleep=True)
                self.mend("app.sock", "serving", f"vassal:{n}", f"socket:{n}")
            case WriteVassal(generation=n):
                assert n in seen.documents, "an ini without its document"
                assert seen.release or n in seen.listening, "a process started from a release that is not here"
                self.seen = replace(seen, vassals=seen.vassals | {n})
                self.mend(f"vassal:{n}")
            case AwaitEnd(generation=n):
                assert seen.asleep, "visitors would meet nobody"
                self.seen = replace(seen, listening=seen.listening - {n}, sockets=seen.sockets - {n})
            case AwaitReady(generation=n):
                if n in self.broken:
                    return False
                assert n in seen.vassals
                assert n in seen.documents
                assert not seen.damaged & {f"document:{n}", f"socket:{n}"}, "asked before it was put right"
                self.seen = replace(seen, listening=seen.listening | {n}, sockets=seen.sockets | {n})
            case Switch(generation=n):
                ends = seen.asleep and n not in seen.vassals & seen.listening
                assert not ends or "app.sock" in seen.damaged, "the process is on its way out"
                self.seen = replace(seen, serving=n, serving_seconds=0.0, served=n, asleep=False)
                self.mend("app.sock", "serving")
            case LinkHost(hostname=name):
                assert seen.serving is not None, "a hostname routed to nothing"
                self.seen = replace(seen, hostnames=seen.hostnames | {name})
            case UnlinkHost(hostname=name):
                self.seen = replace(seen, hostnames=seen.hostnames - {name})
            case RemoveGeneration(generation=n):
                assert n != seen.serving or not seen.hostnames, "the serving generation was removed under its visitors"
                assert "app.sock" not in seen.damaged or n != seen.served or n not in seen.listening
                waiting = seen.in_flight.get(n) and n in seen.listening and n not in self.broken
                # Without a serving generation what is in flight is no visitor's: the agent's own question of a start.
                assert not waiting or self.drained_long() or seen.serving is None, "a request was cut"
                self.seen = replace(
                    seen,
                    documents=seen.documents - {n},
                    vassals=seen.vassals - {n},
                    sockets=seen.sockets - {n},
                    parked=seen.parked - {n},
                    listening=seen.listening - {n},
                    in_flight={k: v for k, v in seen.in_flight.items() if k != n},
                )
                self.mend(f"document:{n}", f"parked:{n}", f"vassal:{n}", f"socket:{n}")
            case RemoveSite():
                assert not seen.vassals
                assert not seen.hostnames
                self.seen = replace(
                    seen, directory=False, static=None, media=None, serving=None, asleep=False, idle=None,
                    flags=frozenset(), damaged=frozenset(),
                )  # fmt: skip
            case _:
                raise AssertionError(action)
        return True

    def mend(self, *names: str) -> None:
        self.seen = replace(self.seen, damaged=self.seen.damaged - set(names))

    def drained_long(self) -> bool:
        return not 0 <= self.planned_at < DRAIN_LIMIT_SECONDS

    def wait(self, seconds: float) -> None:
        """Time passes: requests end within 5 s, processes without an ini are gone."""
        later = self.seen.serving_seconds + seconds
        known = self.seen.vassals | self.seen.documents | self.seen.sockets
        self.seen = replace(
            self.seen,
            serving_seconds=later,
            in_flight=self.seen.in_flight if 0 <= later < 5 else {},
            listening=self.seen.listening & (known | ({self.seen.serving} if self.seen.serving else set())),
        )


def settle(world: World, spec: SiteSpec | None, failed: int | None = None, stop_after: int | None = None) -> int | None:
    """Plan and apply until nothing is left to do; returns the generation that failed. `stop_after` cuts it short."""
    steps = 0
    for _ in range(400):
        world.planned_at = world.seen.serving_seconds
        plan = plan_site(spec, world.seen, failed)
        if not plan.actions and plan.again_seconds is None:
            return failed
        for action in plan.actions:
            if stop_after is not None and steps >= stop_after:
                return failed
            steps += 1
            if not world.apply(action):
                assert isinstance(action, AwaitReady)
                if world.seen.serving == action.generation:
                    return failed
                failed = action.generation
                break
        if plan.again_seconds is not None:
            world.wait(plan.again_seconds)
    raise AssertionError(f"never at rest: {plan}\n{world.seen}")


@st.composite
def observations(draw: st.DrawFn) -> ObservedSite:
    """What an agent may find: also what a person, a crash or another release of the agent left."""
    sets = st.frozensets(GENERATIONS)
    serving = draw(st.none() | GENERATIONS)
    return ObservedSite(
        slug=SLUG,
        directory=True if serving else draw(st.booleans()),
        data=draw(st.booleans()),
        documents=draw(sets),
        vassals=draw(sets),
        sockets=draw(sets),
        listening=draw(sets),
        in_flight=draw(st.dictionaries(GENERATIONS, st.integers(0, 3))),
        serving=serving,
        serving_seconds=draw(st.sampled_from([-5000.0, 0.0, 0.3, 1.0, 20.0, 90.0])),
        hostnames=draw(st.frozensets(st.sampled_from(NAMES))) if serving else frozenset(),
        static=draw(st.sampled_from([None, "elsewhere", "../../../releases/demo-7/static"])),
        media=draw(st.sampled_from([None, "elsewhere"])),
        flags=draw(st.frozensets(st.sampled_from(FLAGS))),
        release=draw(st.booleans()),
        parked=draw(sets),
        asleep=draw(st.booleans()) if serving else False,
        idle=draw(st.sampled_from([None, "7", "300"])),
    )


@st.composite
def damaged_sites(draw: st.DrawFn) -> tuple[SiteSpec, ObservedSite]:
    """A site that served as desired, and any of its parts damaged, gone or swapped."""
    spec = draw(specs())
    n = spec.generation
    one = frozenset({n})
    parts = ["directory", "data", "log", "static", "media", "app.sock", "foreign:evil"]
    parts += [f"{part}:{n}" for part in ("document", "vassal", "socket")] + [f"flag:{flag}" for flag in FLAGS]
    on_demand = spec.sleeps
    if on_demand:
        parts += ["idle", "serving", f"parked:{n}"]
    asleep = on_demand and draw(st.booleans())
    if asleep:  # its process and the ini are standby's
        parts = [part for part in parts if part not in (f"vassal:{n}", f"socket:{n}")]
    parts += ["mode:standby", "mode:process"]
    damaged = draw(st.frozensets(st.sampled_from(parts)))
    gone = draw(st.frozensets(st.sampled_from(["documents", "vassals", "sockets", "listening"])))
    observed = ObservedSite(
        SLUG,
        directory=True,
        data=draw(st.booleans()),
        serving=draw(st.sampled_from([n, None, n + 7])) if "app.sock" in damaged else n,
        serving_seconds=100.0,
        hostnames=draw(st.frozensets(st.sampled_from(NAMES))),
        static=static_target(spec),
        media=draw(st.sampled_from([media_target(spec), "elsewhere"])),
        flags=draw(st.frozensets(st.sampled_from(FLAGS))),
        served=draw(st.sampled_from([n, None])),
        damaged=damaged,
        release=draw(st.booleans()),
        parked=one if on_demand and draw(st.booleans()) else frozenset(),
        asleep=asleep,
        idle=idle_target(spec) if on_demand else None,
        **{name: frozenset() if name in gone else one for name in ("documents", "vassals", "sockets", "listening")},  # type: ignore[arg-type]
    )
    return spec, observed


def specs() -> st.SearchStrategy[SiteSpec]:
    names = st.lists(st.sampled_from(NAMES), unique=True).map(lambda found: tuple(sorted(found)))
    made = st.builds(make_spec, GENERATIONS, names, static=st.sampled_from([None, "static"]), serve_media=st.booleans())
    runtimes = st.sampled_from([Runtime.ALWAYS_ON, Runtime.ON_DEMAND])
    return st.builds(
        lambda spec, mode, runtime: replace(spec, mode=mode, runtime=runtime), made, st.sampled_from(Mode), runtimes
    )


def has_only(world: World, spec: SiteSpec) -> bool:
    """Whether nothing but the desired generation is left; of one on demand, its ini may be there or not."""
    seen, one = world.seen, {spec.generation}
    if spec.sleeps:
        return seen.documents == seen.parked == one and seen.vassals <= one and seen.idle == idle_target(spec)
    return seen.documents == seen.vassals == one and not seen.parked and not seen.asleep and seen.idle is None


@settings(max_examples=300, deadline=None)
@given(observations(), specs())
def test_planning_after_applying_yields_nothing(observed: ObservedSite, spec: SiteSpec) -> None:
    world = World(observed)
    settle(world, spec)
    assert is_serving(spec, world.seen)
    assert world.seen.static == static_target(spec)
    assert world.seen.media == media_target(spec)
    assert has_only(world, spec)
    assert world.seen.flags == mode_flags(spec.mode)
    assert str(plan_site(spec, world.seen)) == "nothing to do"


@settings(max_examples=400, deadline=None)
@given(damaged_sites(), st.integers(0, 12))
def test_any_damage_is_repaired_also_when_the_repair_is_cut_short(
    site: tuple[SiteSpec, ObservedSite], cut: int
) -> None:
    spec, observed = site
    world = World(observed)
    settle(world, spec, stop_after=cut)
    settle(world, spec)
    assert is_serving(spec, world.seen)
    assert world.seen.damaged == frozenset()
    assert world.seen.release
    assert str(plan_site(spec, world.seen)) == "nothing to do"


@settings(max_examples=300, deadline=None)
@given(damaged_sites())
def test_damage_never_ends_a_serving_generation(site: tuple[SiteSpec, ObservedSite]) -> None:
    """Not even when the desired one fails: what serves is all there is."""
    spec, observed = site
    newer = replace(spec, generation=spec.generation + 1)
    world = World(observed, broken=frozenset({newer.generation}))
    before = world.seen.served if "app.sock" in world.seen.damaged else world.seen.serving
    settle(world, newer)
    if before is not None and before in observed.listening:
        assert world.seen.serving == before
        assert before in world.seen.listening or world.seen.asleep


@settings(max_examples=300, deadline=None)
@given(observations(), specs() | st.none(), st.integers(0, 12), specs() | st.none())
def test_an_interrupted_plan_is_resumed(
    observed: ObservedSite, first: SiteSpec | None, cut: int, then: SiteSpec | None
) -> None:
    world = World(observed)
    settle(world, first, stop_after=cut)
    settle(world, then)
    if then is None:
        assert is_absent(world.seen)
    else:
        assert is_serving(then, world.seen)
        assert has_only(world, then)


@settings(max_examples=300, deadline=None)
@given(observations(), specs())
def test_a_generation_that_never_becomes_ready_leaves_the_serving_one_alone(
    observed: ObservedSite, spec: SiteSpec
) -> None:
    before = observed.serving
    world = World(observed, broken=frozenset({spec.generation}))
    failed = settle(world, spec)
    if before == spec.generation:
        assert world.seen.serving == before  # it was good once: its files stay
        assert failed is None
    else:
        assert failed == spec.generation
        assert world.seen.serving == before
        assert spec.generation not in world.seen.vassals | world.seen.documents
        assert before is None or world.seen.hostnames == frozenset(spec.hostnames)
    assert plan_site(spec, world.seen, failed).actions == () or before == spec.generation


@settings(max_examples=200, deadline=None)
@given(observations())
def test_a_removed_site_leaves_nothing(observed: ObservedSite) -> None:
    world = World(observed)
    settle(world, None)
    assert is_absent(world.seen)
    assert world.seen.documents == frozenset()
    assert str(plan_site(None, world.seen)) == "nothing to do"


def serving_site(generation: int = 1) -> ObservedSite:
    one = frozenset({generation})
    return ObservedSite(
        SLUG, True, True, one, one, one, one, {}, generation, 100.0, frozenset({NAMES[0]}),
        "../../../releases/demo-1/static", "../../../data/blog/media",
    )  # fmt: skip


def names_of(actions: tuple[Action, ...]) -> Iterator[str]:
    return (type(action).__name__ for action in actions)


def test_a_hostname_moves_links_and_nothing_else() -> None:
    plan = plan_site(make_spec(1, (NAMES[1], NAMES[2])), serving_site())
    assert [str(action) for action in plan.actions] == [
        "UnlinkHost blog a.localhost",
        "LinkHost blog b.localhost",
        "LinkHost blog c.localhost",
    ]


def test_a_first_generation_is_routed_only_after_it_answered() -> None:
    plan = plan_site(make_spec(1), ObservedSite(SLUG))
    assert list(names_of(plan.actions)) == [
        "PrepareSite", "SetLink", "WriteDocument", "WriteVassal", "AwaitReady", "SetLink", "Switch", "LinkHost",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("seconds", "requests", "wait"),
    [(0.0, 0, 0.7), (0.5, 3, 0.2), (1.0, 1, 0.1), (1.0, 0, None), (31.0, 2, 1.55), (66.0, 2, None)],
)
def test_the_old_generation_goes_when_nobody_waits_for_it(seconds: float, requests: int, wait: float | None) -> None:
    both = frozenset({1, 2})
    observed = replace(
        serving_site(2), documents=both, vassals=both, sockets=both, listening=both,
        in_flight={1: requests}, serving_seconds=seconds,
    )  # fmt: skip
    plan = plan_site(make_spec(2), observed)
    if wait is None:
        assert plan.actions == (RemoveGeneration(SLUG, 1),)
    else:
        assert plan.actions == ()
        assert plan.again_seconds == pytest.approx(wait)


def draining(count: int, seconds: float) -> ObservedSite:
    """A site whose last generation serves since `seconds`; each older one still answers somebody."""
    every = frozenset(range(1, count + 2))
    return replace(
        serving_site(count + 1), documents=every, vassals=every, sockets=every, listening=every,
        in_flight=dict.fromkeys(range(1, count + 1), 1), serving_seconds=seconds,
    )  # fmt: skip


def test_an_old_generation_may_take_as_long_as_the_site_allows_a_request() -> None:
    spec = replace(make_spec(2), limits=Limits(request_seconds=600))
    assert plan_site(spec, draining(1, 604.0)) == Plan(again_seconds=2.0)
    assert plan_site(spec, draining(1, 606.0)).actions == (RemoveGeneration(SLUG, 1),)


def test_a_clock_that_was_set_back_cuts_nobody_off() -> None:
    world = World(draining(1, -3600.0))
    plan = plan_site(make_spec(2), world.seen)
    assert plan.actions == (Switch(SLUG, 2),)
    assert world.apply(plan.actions[0])
    assert not plan_site(make_spec(2), world.seen).actions


def test_of_generations_that_will_not_end_the_oldest_go() -> None:
    assert plan_site(make_spec(8), draining(7, 1.0)).actions == (RemoveGeneration(SLUG, 1), RemoveGeneration(SLUG, 2))


@pytest.mark.parametrize(
    ("static", "damaged", "former"),
    [
        ("../../../releases/demo-7/static", frozenset(), True),
        ("../../../releases/demo-7/build/static", frozenset(), True),
        ("../../../releases/demo-7/static", frozenset({"static"}), False),
        ("../../../releases/demo-7/../demo-8", frozenset(), False),
        ("../../../releases/demo-7", frozenset(), False),
        ("../../../releases/demo-shop-7/static", frozenset(), False),
        ("../../../releases/other-7/static", frozenset(), False),
        ("/etc", frozenset(), False),
        (static_target(make_spec()), frozenset(), False),
        (None, frozenset(), False),
    ],
)
def test_static_files_of_the_release_before_stay_within_reach(
    static: str | None, damaged: frozenset[str], former: bool
) -> None:
    observed = ObservedSite(SLUG, serving=1, listening=frozenset({1}), static=static, damaged=damaged)
    links = [action for action in plan_site(make_spec(2), observed).actions if isinstance(action, SetLink)]
    assert (SetLink(SLUG, "static.former", static) in links) is former


def test_a_site_that_never_served_is_removed_at_once() -> None:
    """Deleted while its first generation starts: there is no switch whose age could be waited for."""
    one = frozenset({1})
    observed = ObservedSite(SLUG, directory=True, data=True, documents=one, vassals=one, sockets=one, listening=one)
    assert RemoveGeneration(SLUG, 1) in plan_site(None, observed).actions


@pytest.mark.parametrize(
    ("before", "after", "steps"),
    [
        (Mode.LIVE, Mode.MAINTENANCE, ["standby True", "maintenance True", "process True"]),
        (Mode.MAINTENANCE, Mode.LIVE, ["process False", "maintenance False", "standby False"]),
        (Mode.MAINTENANCE, Mode.PAUSED, ["standby True", "process True"]),
        (
            Mode.MAINTENANCE,
            Mode.READ_ONLY,
            ["standby True", "readonly True", "maintenance False", "process True"],
        ),
    ],
)
def test_a_mode_is_explained_before_it_holds_and_until_it_ends(before: Mode, after: Mode, steps: list[str]) -> None:
    spec = replace(make_spec(), mode=after)
    world = World(ObservedSite(SLUG))
    settle(world, replace(spec, mode=before))
    changed = replace(world.seen, damaged=frozenset({"mode:standby", "mode:process"}))
    assert not is_serving(spec, changed)
    actions = plan_site(spec, changed).actions
    of_modes = [action for action in actions if isinstance(action, SetFlag | SetModeFile)]
    assert [str(action).split(" ", 2)[2] for action in of_modes] == steps
    assert actions[: len(steps)] == tuple(of_modes), "the mode comes first; that a paused site may sleep, after it"
