"""The loop: read desired → probe → plan → apply → probe again → report. Level-triggered: hints only say «look».

Declares its ports; `main` gives it a database, a machine and a memory. Invariant: what is reported as serving was
observed after the last step, not assumed from it. An interruption anywhere leaves what the planner's invariants say;
the next round observes and goes on from there.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from tenantry.node.desired import Answer, DesiredState, Entry, parse_answer
from tenantry.node.errors import NotConverged, NotReady, Refused, StoreUnavailable, Transient
from tenantry.node.planner import Action, AwaitReady, ObservedSite, Plan, WriteVassal, is_absent, is_serving, plan_site
from tenantry.node.status import NodeStatus
from tenantry.node.workqueue import Signal, WorkQueue, work_through
from tenantry.spec.errors import InvalidDocument
from tenantry.spec.names import Slug
from tenantry.spec.sites import SiteSpec, SiteState

logger = logging.getLogger(__name__)

FULL_SECONDS = 60.0  # between comparisons of everything desired with everything found
SITES_AT_ONCE = 64
ROUNDS = 6  # of plan and apply for one site before it is called not converging
CHECK_BATCH = 100  # sites compared before other tasks get a turn
READ_RETRY_SECONDS = 1.0
START_TURN_SECONDS = 3.0  # of a start's right to hold up others'


class DesiredSource(Protocol):
    """Where the desired state comes from and the report goes to."""

    async def desired(self, since: int) -> Any: ...

    async def report(self, report: Mapping[str, Any]) -> None: ...


class Host(Protocol):
    """The machine."""

    def scan(self) -> frozenset[Slug]: ...

    def observe(self, slug: Slug, spec: SiteSpec | None) -> ObservedSite: ...

    async def apply(self, action: Action, spec: SiteSpec | None) -> None: ...


class Memory(Protocol):
    """Where the last accepted state survives."""

    def save(self, epoch: str, revision: int, entries: Iterable[Entry]) -> None: ...


@dataclass(frozen=True, slots=True)
class Failure:
    """A generation that never became ready."""

    generation: int
    message: str
    log: str


class Reconciler:
    """Keeps this node's sites as desired. `run` never returns."""

    def __init__(
        self,
        source: DesiredSource,
        host: Host,
        memory: Memory,
        status: NodeStatus,
        *,
        starts_at_once: int,
        clock: Callable[[], float],
    ) -> None:
        self._source = source
        self._host = host
        self._memory = memory
        self._status = status
        self._clock = clock
        self._starts = asyncio.Semaphore(starts_at_once)
        self._desired = DesiredState()
        self._queue: WorkQueue[Slug] = WorkQueue()
        self._queue_signal = Signal()
        self._hint = Signal()
        self._unsaved: dict[Slug, Entry] = {}
        self._save_signal = Signal()
        self._report_signal = Signal()
        self._confirmed = False  # the database was heard since the start; before, the memory may be old
        self._failures: dict[Slug, Failure] = {}
        self._awaiting: dict[Slug, tuple[int, asyncio.Task[None]]] = {}

    def restore(self, epoch: str, revision: int, entries: tuple[Entry, ...]) -> None:
        """Begin with a remembered state: what is worked towards if the database cannot be asked at first."""
        self._desired.merge(Answer(epoch, revision, True, entries))
        self._status.head(epoch, revision)

    def hear(self, epoch: str | None, revision: int | None) -> None:
        """Somebody said where the head is. None: something moved."""
        if epoch is None or epoch != self._desired.epoch or (revision or 0) > self._desired.revision:
            self._hint.set()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._read_for_ever(), name="read")
            group.create_task(self._save_for_ever(), name="save")
            group.create_task(self._report_for_ever(), name="report")
            group.create_task(
                work_through(self._queue, self._queue_signal, self._work, parallel=SITES_AT_ONCE, clock=self._clock),
                name="work",
            )

    # Reading the desired state

    async def _read_for_ever(self) -> None:
        full_at = self._clock()
        begun = False
        while True:
            full = self._clock() >= full_at
            answered = await self._read(full)
            if not begun:
                self._queue_all()
                begun = True
            if answered:
                full_at = self._clock() + FULL_SECONDS if full else full_at
                await self._hint.wait(max(full_at - self._clock(), 0.0))
            else:
                full_at = min(full_at, self._clock())
                await asyncio.sleep(READ_RETRY_SECONDS)

    async def _read(self, full: bool) -> bool:
        """Ask for what changed (or everything), take it over; returns whether the database answered."""
        try:
            if self._desired.epoch is not None:
                # Also before a full answer: named removals are taken, the unnamed are guarded.
                answer = parse_answer(await self._source.desired(self._desired.revision))
                full = full or answer.epoch != self._desired.epoch
                if answer.epoch == self._desired.epoch:
                    self._accept(answer, self._host.scan() if answer.full else frozenset())
            if full or self._desired.epoch is None:
                answer = parse_answer(await self._source.desired(0))
                self._accept(answer, self._host.scan())
                await self._compare_all()
        except StoreUnavailable as error:
            logger.warning("cannot read the desired state: %s", error)
            return False
        except InvalidDocument as error:
            self._status.set_condition("InvalidState", str(error))
            logger.error("%s", error)  # noqa: TRY400
            return False
        self._status.clear_condition("InvalidState")
        self._report_signal.set()
        return True

    def _accept(self, answer: Answer, on_node: frozenset[Slug]) -> None:
        try:
            self._take(answer, on_node)
        except Refused as error:
            logger.error("refused: %s", error)  # noqa: TRY400
            self._status.set_condition(error.condition, str(error))
            return
        self._confirmed = True
        if answer.full:
            self._status.clear_condition("MassRemovalRefused")
        self._status.clear_condition("StaleState")

    def _take(self, answer: Answer, on_node: frozenset[Slug]) -> None:
        changed = self._desired.merge(answer, on_node)
        if answer.unusable:
            logger.error("unusable sites: %s", "; ".join(answer.unusable))
            self._status.set_condition("UnusableSites", "; ".join(answer.unusable)[:1000])
        elif answer.full:
            self._status.clear_condition("UnusableSites")
        self._status.head(answer.epoch, answer.revision)
        for slug in changed:
            entry = self._desired.get(slug)
            if entry is None:
                continue
            self._unsaved[slug] = entry
            self._status.begin(slug, entry.revision)
            self._supersede(entry)
            self._queue.add(slug)
        self._save_signal.set()
        self._queue_signal.set()

    def _supersede(self, entry: Entry) -> None:
        """Stop waiting for a generation that is no longer wanted."""
        generation, task = self._awaiting.get(entry.slug, (None, None))
        if task is not None and (entry.spec is None or entry.spec.generation != generation):
            task.cancel()

    async def _compare_all(self) -> None:
        """Compare every site with what is found; work on those that differ."""
        for number, slug in enumerate(sorted(self._desired.slugs())):
            entry = self._desired.get(slug)
            if entry is not None:
                observed = self._host.observe(slug, entry.spec)
                if not self._settled(entry, observed):
                    self._status.begin(slug, entry.revision)
                    self._queue.add(slug)
            if number % CHECK_BATCH == CHECK_BATCH - 1:
                await asyncio.sleep(0)
        self._queue_signal.set()

    def _queue_all(self) -> None:
        for slug in self._desired.slugs():
            self._queue.add(slug)
        self._queue_signal.set()

    def _settled(self, entry: Entry, observed: ObservedSite) -> bool:
        plan = plan_site(entry.spec, observed, self._failed_generation(entry.slug))
        return not plan.actions and self._status.knows(entry.slug)

    # Working on one site

    async def _work(self, slug: Slug) -> bool:
        """Bring one site to its desired state; returns whether it got there, or never will."""
        entry = self._desired.get(slug)
        if entry is None:
            return True
        try:
            await self._converge(slug)
        except NotReady as error:
            self._status.site(entry, SiteState.FAILED, str(error), error.log)
        except Transient as error:
            logger.warning("%s: %s", slug, error)
            self._status.site(entry, SiteState.STARTING, str(error), settled=False)
        except Exception:
            logger.exception("%s: a bug; only this site waits", slug)
            self._status.site(entry, SiteState.FAILED, "the agent met a bug; its log has the traceback", settled=False)
        else:
            self._report_signal.set()
            return True
        self._report_signal.set()
        return False

    async def _converge(self, slug: Slug) -> None:
        for _ in range(ROUNDS):
            entry = self._desired.get(slug)
            if entry is None:
                return
            observed = self._host.observe(slug, entry.spec)
            if entry.spec is None and entry.problem:
                self._status.site(entry, SiteState.FAILED, entry.problem)
                return
            if not self._confirmed and _is_ahead(observed, entry.spec):
                return  # the memory is older than what was applied: only the database knows better
            plan = plan_site(entry.spec, observed, self._failed_generation(slug))
            if not plan.actions:
                self._settle(entry, observed, plan)
                return
            logger.info("%s: %s", slug, "; ".join(str(action) for action in plan.actions))
            await self._apply(entry, observed, plan)
        raise NotConverged(f"{slug} still differs after {ROUNDS} rounds")

    async def _apply(self, entry: Entry, observed: ObservedSite, plan: Plan) -> None:
        turn = _Turn(self._starts)
        if any(isinstance(action, WriteVassal) for action in plan.actions):
            await turn.take()
        try:
            for action in plan.actions:
                if isinstance(action, AwaitReady):
                    await self._await_ready(action, entry.spec)
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

    async def _await_ready(self, action: AwaitReady, spec: SiteSpec | None) -> None:
        task = asyncio.create_task(self._host.apply(action, spec))
        self._awaiting[action.slug] = (action.generation, task)
        try:
            await asyncio.wait({task})
        finally:
            del self._awaiting[action.slug]
            task.cancel()  # nothing to a task that is done
        if task.cancelled():
            raise _SupersededError
        task.result()

    def _settle(self, entry: Entry, observed: ObservedSite, plan: Plan) -> None:
        """Nothing is left to do: say what was found."""
        slug = entry.slug
        if plan.again_seconds is not None:
            self._queue.add_at(slug, self._clock() + plan.again_seconds)
        if entry.spec is None:
            if is_absent(observed):
                self._status.site(entry, SiteState.ABSENT)
                self._failures.pop(slug, None)
                self._desired.forget(slug)
            return
        failure = self._failures.get(slug)
        if entry.problem:
            self._status.site(entry, SiteState.FAILED, entry.problem, generation=observed.serving)
        elif is_serving(entry.spec, observed):
            self._failures.pop(slug, None)
            self._status.site(entry, SiteState.SERVING)
        elif failure is not None and failure.generation == entry.spec.generation:
            self._status.site(
                entry, SiteState.FAILED, failure.message, failure.log, generation=observed.serving or failure.generation
            )
        else:
            raise NotConverged(f"{slug} does not read back as desired")

    def _failed_generation(self, slug: Slug) -> int | None:
        failure = self._failures.get(slug)
        return failure.generation if failure else None

    # Remembering and reporting

    async def _save_for_ever(self) -> None:
        while True:
            await self._save_signal.wait(None)
            await asyncio.sleep(0.2)  # visitors first: several changes share one save
            if self._desired.epoch is None:
                continue
            head = (self._desired.epoch, self._desired.revision)
            entries, self._unsaved = self._unsaved, {}
            try:
                await asyncio.to_thread(self._memory.save, *head, list(entries.values()))
                self._status.clear_condition("StateNotSaved")
            except OSError as error:
                logger.error("the state cannot be remembered: %s", error)  # noqa: TRY400
                self._status.set_condition("StateNotSaved", f"{error.strerror}: {error.filename}")
                self._unsaved = entries | self._unsaved
                await asyncio.sleep(READ_RETRY_SECONDS)
                self._save_signal.set()

    async def _report_for_ever(self) -> None:
        while True:
            await self._report_signal.wait(None)
            report = self._status.take_report()
            if report is None:
                continue
            try:
                await self._source.report(report)
            except StoreUnavailable as error:
                logger.warning("cannot report: %s", error)
                self._status.give_back(report)
                await asyncio.sleep(READ_RETRY_SECONDS)
                self._report_signal.set()


def _is_ahead(observed: ObservedSite, spec: SiteSpec | None) -> bool:
    """Whether a generation newer than the desired one is on the node."""
    found = observed.documents | observed.vassals | ({observed.serving} if observed.serving else set())
    return spec is not None and max(found, default=0) > spec.generation


class _Turn:
    """One of the starts that may go on at once. It ends by itself after START_TURN_SECONDS, once however often asked.

    Loading takes the processor for a few seconds; what takes longer waits for something, and others must not for it.
    """

    def __init__(self, starts: asyncio.Semaphore) -> None:
        self._starts = starts
        self._timer: asyncio.TimerHandle | None = None

    async def take(self) -> None:
        await self._starts.acquire()
        self._timer = asyncio.get_running_loop().call_later(START_TURN_SECONDS, self.end)

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._starts.release()


class _SupersededError(Exception):
    """The generation waited for is no longer desired."""
