"""Reads the desired state and takes it over: at every hint what changed, every minute all of it. Follows orders."""

import asyncio
import logging
import random
from collections.abc import Callable

from tenantry.node.answer import Answer, Orders, parse_answer
from tenantry.node.desired import HOLDING, DesiredState
from tenantry.node.errors import Refused, StoreUnavailable
from tenantry.node.gate import retry_delay
from tenantry.node.numbering import Leftover
from tenantry.node.ports import DesiredSource, SiteHost
from tenantry.node.saver import Saver
from tenantry.node.status import NodeStatus
from tenantry.node.worker import Worker
from tenantry.node.workqueue import Signal
from tenantry.spec.errors import InvalidDocument
from tenantry.spec.names import Slug
from tenantry.spec.sites import SiteSpec

logger = logging.getLogger(__name__)

FULL_SECONDS = 60.0  # at most, between full answers
FULL_JITTER = 0.25  # of that earlier, so that nodes started together do not ask together
PROBLEM_CHARACTERS = 1000


class Reader:
    """Keeps `desired` up to date. `on_orders` gets what people ask of the node; `on_report` is called after answers."""

    def __init__(
        self,
        source: DesiredSource,
        host: SiteHost,
        desired: DesiredState,
        status: NodeStatus,
        *,
        worker: Worker,
        saver: Saver,
        clock: Callable[[], float],
    ) -> None:
        self._source = source
        self._host = host
        self._desired = desired
        self._status = status
        self._worker = worker
        self._saver = saver
        self._clock = clock
        self._hint = Signal()
        self.on_orders: Callable[[Orders], None] = lambda _: None
        self.on_report: Callable[[], None] = lambda: None

    def hear(self, epoch: str | None, revision: int | None) -> None:
        """Somebody said where the head is. None: something moved."""
        if self._desired.has_left(epoch):
            return  # what is read once, with the connection, says enough
        if epoch is None or epoch != self._desired.epoch or (revision or 0) > self._desired.revision:
            self._hint.set()

    async def run(self) -> None:
        full_at = self._clock()
        begun, failures = False, 0
        while True:
            full = self._clock() >= full_at
            answered = await self._read(full)
            if not begun:
                self._worker.work_on_all()
                begun = True
            if answered:
                failures = 0
                if full:
                    full_at = self._clock() + FULL_SECONDS * (1 - FULL_JITTER * random.random())  # noqa: S311
                await self._hint.wait(max(full_at - self._clock(), 0.0))
            else:
                await asyncio.sleep(retry_delay(failures, random.random()))  # noqa: S311
                failures += 1

    async def _read(self, full: bool) -> bool:
        """Ask for what changed (or everything), take it over; returns whether the database answered."""
        try:
            await self._ask(full)
        except StoreUnavailable as error:
            logger.warning("cannot read the desired state: %s", error)
            return False
        except InvalidDocument as error:
            self._status.set_condition("InvalidState", str(error))
            logger.error("%s", error)  # noqa: TRY400
            return False
        self._status.clear_condition("InvalidState")
        self.on_report()
        return True

    async def _ask(self, full: bool) -> None:
        answered_full = False
        if self._desired.epoch is not None:
            # Also before a full answer: named removals are taken, the unnamed are guarded.
            answer = parse_answer(await self._source.desired(self._desired.revision))
            if self._desired.has_left(answer.epoch):
                self._accept(answer)
                return
            if answer.epoch != self._desired.epoch or self._desired.is_confirmed(answer):
                full = True
            else:
                self._accept(answer)
                answered_full = answer.full
        if (full and not answered_full) or self._desired.epoch is None:
            self._accept(parse_answer(await self._source.desired(0)))

    def _accept(self, answer: Answer) -> None:
        """Take the answer over, with its orders, unless it must not be."""
        try:
            on_node = self._host.scan() if answer.full else frozenset()
            changed = self._desired.merge(answer, on_node, self._look)
        except Refused as error:
            logger.error("refused: %s", error)  # noqa: TRY400
            self._status.set_condition(error.condition, str(error))
            return
        self._status.clear_condition("StaleState")
        self._say_held()
        self._say_unusable(answer)
        self._worker.trust()
        self._status.head(answer.epoch, answer.revision)
        self._begin(changed)
        if answer.orders is not None:
            self.on_orders(answer.orders)

    def _begin(self, changed: frozenset[Slug]) -> None:
        for slug in changed:
            entry = self._desired.get(slug)
            if entry is not None:
                self._saver.note(entry)
                self._worker.change(entry)
        self._saver.wake()

    def _say_held(self) -> None:
        held = self._desired.held
        for condition in HOLDING:
            if held.slugs and condition == held.condition:
                logger.error("%s: %s", condition, held.message)
                self._status.set_condition(condition, held.message)
            else:
                self._status.clear_condition(condition)

    def _say_unusable(self, answer: Answer) -> None:
        if answer.unusable:
            text = "; ".join(answer.unusable)
            logger.error("unusable sites: %s", text)
            self._status.set_condition("UnusableSites", text[:PROBLEM_CHARACTERS])
        elif answer.full:
            self._status.clear_condition("UnusableSites")

    def _look(self, spec: SiteSpec) -> Leftover:
        """Return what is on the node under the site's name, however broken that is."""
        try:
            observed = self._host.observe(spec.slug, spec)
            same = spec.generation in observed.documents and self._host.resembles(spec)
            made = observed.serving or max(observed.documents, default=0)
            number = self._host.made_for(spec.slug, made) if made else None
        except Exception:
            logger.exception("%s: what is here cannot be looked at; it is taken for nothing", spec.slug)
            return Leftover()
        found = {*observed.documents, *observed.vassals, *observed.sockets, observed.serving or 0}
        return Leftover(max(found), same, number)
