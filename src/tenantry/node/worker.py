"""Brings one site after the other to its desired state: probe → plan → apply → probe again.

Invariant: what is reported as serving was observed after the last step, not assumed from it. An interruption anywhere
leaves what the planner's invariants say; the next round observes and goes on from there. Whatever one site does, it
holds up no other: a slot is held only while something is done for the site, not while it is waited for.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field

from tenantry.node.actions import AwaitEnd, AwaitReady, FetchRelease, WriteVassal
from tenantry.node.answer import Entry
from tenantry.node.desired import DesiredState
from tenantry.node.errors import NotConverged, NotReady, Transient
from tenantry.node.planner import ObservedSite, Plan, is_absent, is_serving, plan_routing, plan_site, rests
from tenantry.node.ports import SiteHost
from tenantry.node.starts import Kind, Starts, Turn
from tenantry.node.status import NodeStatus
from tenantry.node.workqueue import Signal, WorkQueue, work_through
from tenantry.spec.names import Slug
from tenantry.spec.sites import SiteSpec, SiteState

logger = logging.getLogger(__name__)

SITES_AT_ONCE = 64
ROUNDS = 6  # of plan and apply for one site before it is called not converging
_LONG = (AwaitEnd, AwaitReady, FetchRelease)  # others get the slot meanwhile, and a newer desired state ends it


@dataclass(frozen=True, slots=True)
class _Wait:
    """What is waited for, for the sake of a generation. `changed`: the site's desired state is another meanwhile."""

    generation: int
    task: asyncio.Task[None]
    changed: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True, slots=True)
class Failure:
    """A generation that never became ready."""

    generation: int
    message: str
    log: str


class Worker:
    """Works on sites. `on_settled` is called with each site that was found as desired, `on_successor` with one that
    takes the name of a site that is gone."""

    def __init__(
        self,
        host: SiteHost,
        desired: DesiredState,
        status: NodeStatus,
        *,
        starts_at_once: int,
        clock: Callable[[], float],
    ) -> None:
        self._host = host
        self._desired = desired
        self._status = status
        self._clock = clock
        self._starts = Starts(starts_at_once)
        self._slots = asyncio.Semaphore(SITES_AT_ONCE)
        self._queue: WorkQueue[Slug] = WorkQueue()
        self._signal = Signal()
        self._failures: dict[Slug, Failure] = {}
        self._waits: dict[Slug, _Wait] = {}
        self._untried: set[Slug] = set()  # that came with the first answer, together: their visitors try them
        self._heard = False  # the database was heard since the start; before, the memory may be old
        self.on_settled: Callable[[Slug], None] = lambda _: None
        self.on_successor: Callable[[Entry], None] = lambda _: None
        self.on_report: Callable[[], None] = lambda: None

    async def run(self) -> None:
        await work_through(self._queue, self._signal, self._work, slots=self._slots, clock=self._clock)

    def trust(self) -> None:
        """From now on the desired state is the database's own."""
        self._heard = True

    def change(self, entry: Entry) -> None:
        """The site's desired state is another. What is waited for is given up, if it is for another generation."""
        wait = self._waits.get(entry.slug)
        if wait is not None:
            if entry.spec is None or entry.spec.generation != wait.generation:
                wait.task.cancel()
            wait.changed.set()
        self.work_on(entry)

    def work_on(self, entry: Entry) -> None:
        """The site differs from its desired state, or may."""
        self._status.begin(entry.slug, entry.revision)
        self._queue.add(entry.slug)
        self._signal.set()

    def work_on_all(self) -> None:
        """The beginning: every site, none of them new."""
        for slug in self._desired.slugs():
            self._untried.add(slug)
            self._queue.add(slug)
        self._signal.set()

    def is_busy(self, slug: Slug) -> bool:
        """Whether the site is being worked on, or waits for it."""
        return self._queue.holds(slug)

    def compare(self, entry: Entry) -> None:
        """Work on the site if it is not as desired, or not reported yet."""
        observed = self._host.observe(entry.slug, entry.spec)
        plan = self._plan(entry, observed)
        if plan.actions or not self._status.knows(entry.slug):
            self.work_on(entry)

    async def _work(self, slug: Slug) -> bool:
        """Bring one site to its desired state; returns whether it got there, or never will."""
        entry = self._desired.get(slug)
        if entry is None:
            return True
        done = False
        try:
            done = await self._try(slug)
        except NotReady as error:
            self._status.site(entry, SiteState.FAILED, str(error), error.log)
        except Exception:
            logger.exception("%s: a bug; only this site waits", slug)
            self._status.site(entry, SiteState.FAILED, "the agent met a bug; its log has the traceback", settled=False)
        self.on_report()
        return done

    async def _try(self, slug: Slug) -> bool:
        """Return whether the site got there; False is to be tried again."""
        try:
            await self._converge(slug)
        except Transient as error:
            logger.warning("%s: %s", slug, error)
            self._say_unfinished(slug, str(error))
            return False
        return True

    async def _converge(self, slug: Slug) -> None:
        for _ in range(ROUNDS):
            entry = self._desired.get(slug)
            if entry is None:
                return
            observed = self._host.observe(slug, entry.spec)
            if entry.is_unknown:
                self._status.site(entry, SiteState.FAILED, entry.problem or "")
                return
            if not self._heard and _is_ahead(observed, entry.spec):
                return  # the memory is older than what was applied: only the database knows better
            plan = self._plan(entry, observed)
            if not plan.actions:
                self._settle(entry, observed, plan)
                return
            logger.info("%s: %s", slug, "; ".join(str(action) for action in plan.actions))
            await self._apply(entry, observed, plan)
        raise NotConverged(f"{slug} still differs after {ROUNDS} rounds")

    def _plan(self, entry: Entry, observed: ObservedSite) -> Plan:
        slug = entry.slug
        return plan_site(entry.spec, observed, self._failed_generation(slug), tries=slug not in self._untried)

    async def _apply(self, entry: Entry, observed: ObservedSite, plan: Plan) -> None:
        turn = Turn(self._starts, self._kind(entry))
        try:
            for action in plan.actions:
                if isinstance(action, WriteVassal):
                    await self._wait_for(entry, turn.take())
                if isinstance(action, _LONG):
                    await self._wait_for(entry, self._host.apply(action, entry.spec))
                else:
                    await self._host.apply(action, entry.spec)
        except NotReady as error:
            generation = entry.spec.generation if entry.spec else 0
            if observed.serving == generation:
                raise  # it was good once: its files stay, the emperor goes on starting it
            logger.warning("%s: generation %d is given up: %s", entry.slug, generation, error)
            self._failures[entry.slug] = Failure(generation, str(error), error.log)
        except _SupersededError:
            logger.info("%s: a newer state came while waiting", entry.slug)
        finally:
            turn.end()

    def _kind(self, entry: Entry) -> Kind:
        return Kind(entry.spec.release.name if entry.spec else None, doubtful=entry.slug in self._failures)

    async def _wait_for(self, entry: Entry, work: Coroutine[None, None, None]) -> None:
        """Do the work; meanwhile the site's mode and hostnames follow what is desired: they wait for no process."""
        wait = _Wait(entry.spec.generation if entry.spec else 0, asyncio.create_task(work))
        self._waits[entry.slug] = wait
        try:
            while not wait.task.done():
                async with self._waiting():
                    await _first(wait.task, wait.changed)
                if not wait.task.done():
                    wait.changed.clear()
                    await self._route(entry.slug)
        finally:
            del self._waits[entry.slug]
            wait.task.cancel()  # nothing to a task that is done
        if wait.task.cancelled():
            raise _SupersededError
        wait.task.result()

    async def _route(self, slug: Slug) -> None:
        entry = self._desired.get(slug)
        if entry is None or entry.spec is None or entry.is_unknown:
            return
        plan = plan_routing(entry.spec, self._host.observe(slug, entry.spec))
        if plan.actions:
            logger.info("%s, while it starts: %s", slug, "; ".join(str(action) for action in plan.actions))
        try:
            for action in plan.actions:
                await self._host.apply(action, entry.spec)
        except (Transient, NotReady) as error:
            logger.warning("%s: %s; again when it has started", slug, error)

    @contextlib.asynccontextmanager
    async def _waiting(self) -> AsyncIterator[None]:
        """Nothing is done for the site: another may have its slot."""
        self._slots.release()
        try:
            yield
        finally:
            await self._slots.acquire()

    def _settle(self, entry: Entry, observed: ObservedSite, plan: Plan) -> None:
        """Nothing is left to do: say what was found."""
        slug = entry.slug
        if plan.again_seconds is not None:
            self._queue.add_at(slug, self._clock() + plan.again_seconds)
        if entry.spec is None:
            if is_absent(observed):
                self._forget(entry)
            return
        failure = self._failures.get(slug)
        if entry.problem:
            self._status.site(entry, SiteState.FAILED, entry.problem, generation=observed.serving)
        elif is_serving(entry.spec, observed):
            self._failures.pop(slug, None)
            if rests(entry.spec, observed) and observed.wake_problem is not None:
                self._status.site(entry, SiteState.FAILED, *_wake_failure(observed.wake_problem))
            else:
                self._status.site(entry, SiteState.SERVING, entry.note)
        elif failure is not None and failure.generation == entry.spec.generation:
            message = f"{entry.note}: {failure.message}" if entry.note else failure.message
            self._status.site(
                entry, SiteState.FAILED, message, failure.log, generation=observed.serving or failure.generation
            )
        else:
            raise NotConverged(f"{slug} does not read back as desired")
        self._untried.discard(slug)
        self.on_settled(slug)

    def _say_unfinished(self, slug: Slug, message: str) -> None:
        """Something could not be done yet. Visitors may have all that is desired nonetheless: look, and say so."""
        entry = self._desired.get(slug)
        if entry is None:
            return
        if (
            entry.spec is not None
            and not entry.problem
            and is_serving(entry.spec, self._host.observe(slug, entry.spec))
        ):
            self._status.site(
                entry, SiteState.SERVING, f"serves as desired, and something is still to be done: {message}"
            )
        else:
            self._status.site(entry, SiteState.STARTING, message, settled=False)

    def _forget(self, entry: Entry) -> None:
        self._status.site(entry, SiteState.ABSENT)
        self._failures.pop(entry.slug, None)
        successor = self._desired.forget(entry.slug)
        if successor is not None:
            self.on_successor(successor)
            self.work_on(successor)

    def _failed_generation(self, slug: Slug) -> int | None:
        failure = self._failures.get(slug)
        return failure.generation if failure else None


async def _first(task: asyncio.Task[None], changed: asyncio.Event) -> None:
    """Return when the task is done or the event set."""
    waiting = asyncio.create_task(changed.wait())
    try:
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()


def _wake_failure(text: str) -> tuple[str, str]:
    """Return message and log of what standby wrote: the first line, and the rest."""
    message, _, log = text.partition("\n")
    return message, log


def _is_ahead(observed: ObservedSite, spec: SiteSpec | None) -> bool:
    """Whether a generation newer than the desired one is on the node."""
    found = observed.documents | observed.vassals | ({observed.serving} if observed.serving else set())
    return spec is not None and max(found, default=0) > spec.generation


class _SupersededError(Exception):
    """What was waited for is no longer desired."""
