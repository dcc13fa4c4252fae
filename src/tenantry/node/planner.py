"""PURE: what to do so that a site is served as desired, from what was observed.

What is damaged is told by names: "directory", "data" and "log" (the site's places), "document:2", "parked:2",
"vassal:2" and "socket:2" (a generation's), "app.sock", "serving", "idle", "static", "media", "host:<fqdn>",
"flag:<name>", "mode:standby" and "mode:process" (the documents of its mode), "foreign:<entry>".

A generation's life: written → ready → serving → draining → gone. Invariants, at every point where a plan may be cut:
- visitors are never led to a generation that has not answered, nor to none once they were led to one;
- a hostname is linked only to a site with a serving generation;
- a file of a serving generation is removed only when the site itself is gone.
Planning again after an interruption resumes; planning after everything was applied yields nothing.

An on-demand site has no process while nobody visits it: app.sock leads to standby then. For a visitor, that makes the
vassal of the generation that `serving` names and points app.sock at its socket; after `idle` seconds without visitors
it undoes both. The plan leaves such a site alone, asleep or awake.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

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
from tenantry.node.layout import socket_name
from tenantry.spec.names import Fqdn, Slug
from tenantry.spec.sites import Mode, SiteSpec

SETTLE_SECONDS = 0.7  # nginx may still connect to the old socket for a request that resolved the link before
DRAIN_LIMIT_SECONDS = 30.0  # what still runs after this, or after the site's limit of a request, is cut off
DRAIN_GRACE_SECONDS = 5.0  # beyond that limit: until then its engine has ended the request itself
DRAIN_STEP_SECONDS = 0.1  # at first; later a twentieth of the time since the switch
DRAIN_STEP_MAX_SECONDS = 2.0
DRAINING_MAX = 5  # generations of one site that finish their requests; a person may restart faster than these end
GONE_STEP_SECONDS = 0.2

FORMER = "static.former"  # the link to the static files that a site had before those it has
STANDBY, PROCESS = "standby", "process"  # the readers of a mode's documents
FLAGS = ("maintenance", "readonly")  # the files mode.<flag> in a site's directory, read by nginx at each request


@dataclass(frozen=True, slots=True)
class ObservedSite:
    """What a probe found of one site. Sets of integers are generations; `listening` has a process on its socket.

    `serving` is the generation that visitors get, led there or, `asleep`, by waking it; since `serving_seconds`.
    `in_flight` counts connections per generation; `parked` are the generations that standby can start; `idle` is the
    target of that link; `wake_problem` says why the site could not be woken when that was tried last.
    `static` and `media` are the targets of the links, None without one. `served` is where they were led when it was
    last seen whole, `damaged` what is not as it was made, `release` whether the desired release is here and whole.
    """

    slug: Slug
    directory: bool = False
    data: bool = False
    documents: frozenset[int] = frozenset()
    vassals: frozenset[int] = frozenset()
    sockets: frozenset[int] = frozenset()
    listening: frozenset[int] = frozenset()
    in_flight: Mapping[int, int] = field(default_factory=dict)
    serving: int | None = None
    serving_seconds: float = 0.0
    hostnames: frozenset[Fqdn] = frozenset()
    static: str | None = None
    media: str | None = None
    flags: frozenset[str] = frozenset()
    served: int | None = None
    damaged: frozenset[str] = frozenset()
    release: bool = True
    parked: frozenset[int] = frozenset()
    asleep: bool = False
    idle: str | None = None
    wake_problem: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps, in order. `again_seconds`: look again after this long, something is on its way out."""

    actions: tuple[Action, ...] = ()
    again_seconds: float | None = None

    def __str__(self) -> str:
        lines = [str(action) for action in self.actions]
        if self.again_seconds is not None:
            lines.append(f"look again in {self.again_seconds:.2f} s")
        return "\n".join(lines) or "nothing to do"


def static_target(spec: SiteSpec) -> str | None:
    """Return the target of the site's link `static`."""
    return None if spec.release.static is None else f"../../../releases/{spec.release.name}/{spec.release.static}"


def is_former(spec: SiteSpec, target: str | None) -> bool:
    """Whether the site's link `static.former` may lead to `target`: static files of a release of its project."""
    name, _, path = (target or "").removeprefix("../../../releases/").partition("/")
    return target == f"../../../releases/{name}/{path}" and (
        re.fullmatch(rf"{spec.release.name.project}-[1-9][0-9]*", name) is not None
        and all(part not in ("", ".", "..") for part in path.split("/"))
    )


def idle_target(spec: SiteSpec) -> str:
    """Return the target of an on-demand site's link `idle`: the seconds without visitors after which it sleeps."""
    return f"{spec.limits.idle_seconds:d}"


def media_target(spec: SiteSpec) -> str | None:
    """Return the target of the site's link `media`, None when the application serves uploads itself."""
    return f"../../../data/{spec.slug}/media" if spec.release.serve_media else None


def mode_flags(mode: Mode) -> frozenset[str]:
    """Return the flags that nginx must find for a site in `mode`."""
    match mode:
        case Mode.MAINTENANCE | Mode.PAUSED:
            return frozenset({"maintenance"})
        case Mode.READ_ONLY:
            return frozenset({"readonly"})
        case Mode.LIVE:
            return frozenset()


def is_serving(spec: SiteSpec, observed: ObservedSite) -> bool:
    """Whether visitors get the desired generation under exactly the desired hostnames, in the desired mode."""
    return (
        observed.flags == mode_flags(spec.mode)
        and not observed.damaged & {f"mode:{STANDBY}", f"mode:{PROCESS}"}
        and observed.serving == spec.generation
        and (spec.generation in observed.listening or rests(spec, observed))
        and observed.hostnames == frozenset(spec.hostnames)
    )


def rests(spec: SiteSpec, observed: ObservedSite) -> bool:
    """Whether the desired generation is one that standby starts when a visitor comes."""
    return (
        spec.sleeps and observed.asleep and observed.serving == spec.generation and spec.generation in observed.parked
    )


def is_absent(observed: ObservedSite) -> bool:
    """Whether nothing of the site is left on the node but its data."""
    return not (observed.directory or observed.vassals or observed.hostnames or observed.listening)


def plan_site(spec: SiteSpec | None, observed: ObservedSite, failed: int | None = None, *, tries: bool = True) -> Plan:
    """Return the plan for one site; `spec` None removes it. `failed` is a generation known never to become ready.

    `tries`: an on-demand site that is new here is started once, to see that it can be. A node that gets many at once
    leaves that to their first visitors.
    """
    if spec is None:
        return _plan_removal(observed)
    restored, observed = _restore_link(spec, observed)
    actions = [*restored, *_prepare(spec, observed), *_route_if_served(spec, observed)]
    if failed == spec.generation and observed.serving != failed:
        actions += _restore_serving(observed)
    else:
        actions += _bring_up(spec, observed, tries)
    retired, again = _retire(spec, observed, failed)
    return Plan((*actions, *retired), again)


def plan_routing(spec: SiteSpec, observed: ObservedSite) -> Plan:
    """Return what of the plan starts nothing and waits for nothing: the site's mode and its hostnames.

    It can be applied while a generation of the site is being started.
    """
    return Plan((*_set_mode(spec, observed), *_route_if_served(spec, observed)))


def _restore_link(spec: SiteSpec, observed: ObservedSite) -> tuple[list[Action], ObservedSite]:
    """A damaged app.sock goes back to where it pointed, at once: that generation answered, and may be all there is."""
    served = observed.served
    if "app.sock" not in observed.damaged or served is None:
        return [], observed
    whole = replace(observed, serving=served, serving_seconds=0.0, damaged=observed.damaged - {"app.sock"})
    may_sleep = spec.sleeps and served in observed.parked & observed.documents
    if served in observed.listening and (served in observed.vassals or not may_sleep):
        return [Switch(observed.slug, served)], replace(whole, asleep=False)
    if may_sleep:
        return [LetSleep(observed.slug, served)], replace(whole, asleep=True)
    return [], observed


def _prepare(spec: SiteSpec, observed: ObservedSite) -> Iterator[Action]:
    damaged = observed.damaged
    if not (observed.directory and observed.data) or damaged & {"directory", "data", "log"}:
        yield PrepareSite(spec.slug)
    yield from _set_mode(spec, observed)
    for name in sorted(damaged):
        if name.startswith("foreign:"):
            yield RemoveForeign(spec.slug, name.removeprefix("foreign:"))
    if observed.media != media_target(spec) or "media" in damaged:
        yield SetLink(spec.slug, "media", media_target(spec))


def _set_mode(spec: SiteSpec, observed: ObservedSite) -> Iterator[Action]:
    """At no moment is a site open that may not be, nor refused to those who may: from within when it opens.

    What standby reads is there before nginx asks it, and until nginx does not any more. Flags rise before others fall.
    """
    wanted, live = mode_flags(spec.mode), spec.mode is Mode.LIVE
    files = [SetModeFile(spec.slug, reader, not live) for reader in (STANDBY, PROCESS)]
    standby, process = ([file] if f"mode:{file.reader}" in observed.damaged else [] for file in files)
    yield from process if live else standby
    for flag in sorted(FLAGS, key=lambda flag: flag not in wanted):
        if (flag in wanted) != (flag in observed.flags) or f"flag:{flag}" in observed.damaged:
            yield SetFlag(spec.slug, flag, flag in wanted)
    yield from standby if live else process


def _route_if_served(spec: SiteSpec, observed: ObservedSite) -> Iterator[Action]:
    """Hostnames move at once where a generation serves already; an unserved site only loses them."""
    wanted = frozenset(spec.hostnames)
    for hostname in sorted(observed.hostnames - wanted):
        yield UnlinkHost(spec.slug, hostname)
    if observed.serving is not None:
        for hostname in sorted(wanted - observed.hostnames):
            yield LinkHost(spec.slug, hostname)


def _bring_up(spec: SiteSpec, observed: ObservedSite, tries: bool) -> Iterator[Action]:
    slug, generation = spec.slug, spec.generation
    if not observed.release:
        yield FetchRelease(slug)
    if generation not in observed.documents or f"document:{generation}" in observed.damaged:
        yield WriteDocument(slug, generation)
    if spec.sleeps:
        if generation not in observed.parked or f"parked:{generation}" in observed.damaged:
            yield ParkVassal(slug, generation)
        if "serving" in observed.damaged and observed.serving is not None:
            yield SetLink(slug, "serving", socket_name(observed.serving))
        if observed.idle != idle_target(spec) or "idle" in observed.damaged:
            yield SetLink(slug, "idle", idle_target(spec))  # the last: from now on standby may let it sleep
    asleep = observed.asleep and observed.serving == generation
    if spec.sleeps and (asleep or (observed.serving is None and not tries)):
        yield from _let_sleep(spec, observed)
    else:
        yield from _start(spec, observed)
    if observed.serving is None:
        for hostname in sorted(frozenset(spec.hostnames) - observed.hostnames):
            yield LinkHost(slug, hostname)
    if not spec.sleeps:
        if observed.idle is not None:
            yield SetLink(slug, "idle", None)
        for parked in sorted(observed.parked & {generation}):
            yield RemoveParked(slug, parked)


def _let_sleep(spec: SiteSpec, observed: ObservedSite) -> Iterator[Action]:
    """Nothing runs, or what runs is standby's: only what a visitor meets on the way must be whole."""
    yield from _set_static(spec, observed)
    if not observed.asleep or "app.sock" in observed.damaged:
        yield LetSleep(spec.slug, spec.generation)


def _start(spec: SiteSpec, observed: ObservedSite) -> Iterator[Action]:
    slug, generation = spec.slug, spec.generation
    damaged = observed.damaged & {f"{part}:{generation}" for part in ("document", "vassal", "socket")}
    ends = observed.asleep and generation in observed.listening and generation not in observed.vassals
    if ends:  # standby just let it fall asleep; it answers until it is gone
        yield AwaitEnd(slug, generation)
    if generation not in observed.vassals or f"vassal:{generation}" in damaged:
        yield WriteVassal(slug, generation)
    if f"socket:{generation}" in damaged:
        yield RestoreSocket(slug, generation)
    if observed.serving != generation or generation not in observed.listening or ends or damaged:
        yield AwaitReady(slug, generation)
    yield from _set_static(spec, observed)
    if observed.serving != generation or observed.asleep or "app.sock" in observed.damaged:
        yield Switch(slug, generation)


def _set_static(spec: SiteSpec, observed: ObservedSite) -> Iterator[Action]:
    """Pages that are open refer to files of the release before, which stay within reach until the next one."""
    target, damaged = static_target(spec), "static" in observed.damaged
    if observed.static != target and not damaged and is_former(spec, observed.static):
        yield SetLink(spec.slug, FORMER, observed.static)
    if observed.static != target or damaged:
        yield SetLink(spec.slug, "static", target)


def _restore_serving(observed: ObservedSite) -> Iterator[Action]:
    """The desired generation failed, an older one serves: of that, the document and the ini are all there is."""
    serving = observed.serving
    if serving is not None and f"socket:{serving}" in observed.damaged and serving in observed.vassals:
        yield RestoreSocket(observed.slug, serving)


def _retire(spec: SiteSpec, observed: ObservedSite, failed: int | None) -> tuple[list[Action], float | None]:
    """Remove generations that are neither desired nor serving, once nobody waits for an answer of theirs."""
    kept = {observed.serving} | ({spec.generation} if failed != spec.generation else set())
    left = (observed.documents | observed.vassals | observed.sockets | observed.parked) - kept
    draining = sorted(generation for generation in left & observed.listening if generation != failed)
    if draining and observed.serving in observed.listening and observed.serving_seconds < 0 and not observed.asleep:
        # The clock was set back: how long they have been draining is counted anew.
        return [Switch(observed.slug, observed.serving)], SETTLE_SECONDS
    limit = max(DRAIN_LIMIT_SECONDS, spec.limits.request_seconds + DRAIN_GRACE_SECONDS)
    actions: list[Action] = []
    waits: list[float] = []
    for generation in sorted(left):
        may_stay = generation in draining[-DRAINING_MAX:]
        wait = _drain_wait(generation, observed, limit) if may_stay else 0.0
        if wait > 0:
            waits.append(wait)
        else:
            actions.append(RemoveGeneration(observed.slug, generation))
    if observed.listening - left - kept:
        waits.append(GONE_STEP_SECONDS)
    return actions, min(waits, default=None)


def _drain_wait(generation: int, observed: ObservedSite, limit_seconds: float = DRAIN_LIMIT_SECONDS) -> float:
    """Return how long to wait before looking again whether `generation` may go; 0 when it may."""
    seconds = observed.serving_seconds
    if generation not in observed.listening or not 0 <= seconds < limit_seconds:
        return 0.0
    if seconds < SETTLE_SECONDS:
        return SETTLE_SECONDS - seconds
    step = min(max(DRAIN_STEP_SECONDS, seconds / 20), DRAIN_STEP_MAX_SECONDS)
    return step if observed.in_flight.get(generation) else 0.0


def _plan_removal(observed: ObservedSite) -> Plan:
    """Unroute, drain, end the processes, remove the directory; what the tenant stored is not the node's to delete."""
    slug = observed.slug
    if observed.hostnames:
        unlink = [UnlinkHost(slug, hostname) for hostname in sorted(observed.hostnames)]
        drain = [] if observed.serving is None or observed.asleep else [Switch(slug, observed.serving)]
        return Plan((*unlink, *drain), SETTLE_SECONDS)
    actions: list[Action] = []
    waits: list[float] = []
    left = observed.documents | observed.vassals | observed.sockets | observed.parked
    for generation in sorted(left):
        # Where none serves, no visitor was sent to any, and no switch was made whose age would grow.
        wait = 0.0 if observed.serving is None else _drain_wait(generation, observed)
        if wait > 0:
            waits.append(wait)
        else:
            actions.append(RemoveGeneration(slug, generation))
    if observed.directory and not waits:
        actions.append(RemoveSite(slug))
    if observed.listening - left:
        waits.append(GONE_STEP_SECONDS)
    return Plan(tuple(actions), min(waits, default=None))
