"""Whether a generation answers: asked through its own socket, with an eye on processes that end.

Steps: 1 it answers its health path, whole · 2 each thread of each of its workers answers the health path and the warm
paths, so that no visitor's request is a thread's first · 3 it gets its full share of the processor · 4 its workers are
those of step 1. Whatever of that fails is told with what its process wrote since it was started.
"""

import asyncio
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from tenantry.node.config import Config
from tenantry.node.effects.emperor import ask_emperor
from tenantry.node.effects.health import FIRST_BAD_STATUS, HealthRequest, ask
from tenantry.node.effects.logs import read_tail
from tenantry.node.effects.processes import child_pids, find
from tenantry.node.effects.questions import Questions
from tenantry.node.errors import EmperorUnavailable, NotReady
from tenantry.node.render.engines import driver_of
from tenantry.node.upstream import read_upstream
from tenantry.node.vassal import find_groups
from tenantry.spec.names import Slug
from tenantry.spec.sites import SiteSpec

FIRST_REFUSAL = 400
COMPARED_SECONDS = 5.0  # for the generation that serves, which may be busy
WATCH_STEP_SECONDS = 0.5
WORKER_DEATHS = 3
EMPEROR_SILENT_STEPS = 6  # one that is being started again is back before
KEEPS_ENDING = "its worker keeps ending before it answers"
LOG_READ_BYTES = 65_536
LOG_TAIL_CHARACTERS = 4096
CAUSE_CHARACTERS = 300
LATE_STEPS = 10  # of waiting for the application's error, which may be written after its answer
LATE_STEP_SECONDS = 0.1
IDLE_SECONDS = 3.0  # of getting what nobody else wants, where that is next to nothing
LOW_PRIORITY_SECONDS = 10.0  # a start that takes longer gets its full share: it must not fail for want of processor
NOTICED_SECONDS = 1.2  # uWSGI's master looks after its workers every second
STEADY_SECONDS = 0.1  # between the last answer and the last look at the workers, where visitors have another generation


class Readiness:
    """Waits for generations. What a process wrote since `begin` is told when it fails."""

    def __init__(self, config: Config, ready_seconds: float) -> None:
        self._layout = config.layout
        self._http_port = config.http_port
        self._ready_seconds = ready_seconds
        self._log_start: dict[tuple[Slug, int], int] = {}

    def begin(self, slug: Slug, generation: int) -> None:
        """A process of the generation is about to be started."""
        self._log_start[slug, generation] = _size(self._layout.log(slug))

    def forget(self, slug: Slug, generation: int) -> None:
        self._log_start.pop((slug, generation), None)

    async def wait(self, spec: SiteSpec, generation: int, *, served: int | None) -> None:
        """Return when the generation answers; `NotReady` when it will not. `served`: the one that visitors have."""
        hostname = spec.hostnames[0] if spec.hostnames else "localhost"
        socket = self._layout.socket(spec.slug, generation)
        protocol = driver_of(spec.release.engine).protocol
        health = HealthRequest(socket, hostname, self._http_port, spec.health_path, protocol=protocol)
        questions = Questions(health, f"{spec.slug}.{generation:d}", find_groups(str(self._layout.home)))
        try:
            async with asyncio.timeout(self._ready_seconds):
                await self._until_ready(spec, generation, questions, served)
        except TimeoutError:
            message = f"it did not answer {questions.asked} within {self._ready_seconds:.0f} s"
            if questions.deaths:
                message = KEEPS_ENDING
            raise await self._failure(spec.slug, generation, message) from None
        except NotReady as error:
            raise await self._failure(spec.slug, generation, str(error)) from error

    async def _failure(self, slug: Slug, generation: int, message: str) -> NotReady:
        """Return the error that a person reads: what was seen, the application's own last error, the log's end.

        The error may be written after the answer that it led to: granian does so.
        """
        for _ in range(LATE_STEPS):
            log = self._written_since(slug, generation)
            if cause := last_error(log):
                break
            await asyncio.sleep(LATE_STEP_SECONDS)
        return NotReady(
            f"generation {generation}: {message}{f' ({cause})' if cause else ''}", log[-LOG_TAIL_CHARACTERS:]
        )

    async def _until_ready(self, spec: SiteSpec, generation: int, questions: Questions, served: int | None) -> None:
        """Ask until it is ready; `NotReady` as soon as it is clear that it never will be."""
        watch = asyncio.create_task(self._watch_start(spec.slug, generation, questions, served))
        ready = asyncio.create_task(self._ask(spec, generation, questions, served))
        try:
            await asyncio.wait({watch, ready}, return_when=asyncio.FIRST_COMPLETED)
            (ready if ready.done() else watch).result()
        finally:
            watch.cancel()
            ready.cancel()
            await asyncio.gather(watch, ready, return_exceptions=True)

    async def _ask(self, spec: SiteSpec, generation: int, questions: Questions, served: int | None) -> None:
        answer = await questions.first(patient=served == generation)
        if answer.status >= FIRST_BAD_STATUS:
            raise NotReady(f"it answered {spec.health_path} with status {answer.status}")
        if served == generation:
            questions.urge()
            return  # it was asked all the rest when it was new
        if served is not None and answer.status >= FIRST_REFUSAL:
            await self._compare(questions.health, spec.slug, served, answer.status)
        workers = child_pids(questions.pid)
        await questions.follow(answer)
        for path in (spec.health_path, *spec.warm_paths):
            await questions.ask_all(path, spec.processes * spec.threads)
        questions.urge()
        if served is not None:
            await asyncio.sleep(STEADY_SECONDS)
        if len(child_pids(questions.pid)) > spec.processes:
            # More than workers: one may have ended and left a copy of itself, which its master is about to notice.
            await asyncio.sleep(NOTICED_SECONDS)
        questions.check_steady(workers)

    async def _compare(self, health: HealthRequest, slug: Slug, served: int, status: int) -> None:
        """`NotReady` when the generation that serves does not refuse what this one refused: a page was lost.

        One that sleeps is not woken for that.
        """
        upstream = read_upstream(self._layout.site(slug))
        if upstream.asleep or upstream.generation != served:
            return
        former = replace(health, socket=self._layout.socket(slug, served), protocol=upstream.protocol)
        try:
            async with asyncio.timeout(COMPARED_SECONDS):
                before = await ask(former)
        except (OSError, TimeoutError, NotReady):
            return  # it tells nothing
        if before.status < FIRST_REFUSAL:
            raise NotReady(
                f"it answered {health.path} with status {status}, generation {served}, which serves, with "
                f"{before.status}. If that is meant: «tenantry project update PROJECT --health-path PATH»"
            )

    async def _watch_start(self, slug: Slug, generation: int, questions: Questions, served: int | None) -> NoReturn:
        """Notice a process that keeps ending, which a request waiting in the socket's queue does not."""
        silent = 0
        insist_at = time.monotonic() + IDLE_SECONDS
        urge_at = time.monotonic() + min(LOW_PRIORITY_SECONDS, self._ready_seconds / 4)
        while True:
            await asyncio.sleep(WATCH_STEP_SECONDS)
            # Again and again: a process that is started anew stands aside anew.
            got_on = questions.has_got_on()
            if time.monotonic() > urge_at:
                questions.urge()
            elif time.monotonic() > insist_at and not got_on:
                questions.insist()
            gone = questions.pid and find(questions.pid) is None
            if served == generation:  # what ends is the process that the emperor is ending, with its workers
                if gone:
                    questions.forget_process()
            elif questions.count_deaths() >= WORKER_DEATHS:
                raise NotReady(KEEPS_ENDING)
            elif gone:
                # What waits in the queue of a socket that somebody of its still holds would wait in vain.
                raise NotReady("its process ended before it was ready")
            if not self._layout.socket(slug, generation).exists():
                try:
                    state = await ask_emperor(self._layout.emperor_socket)
                except EmperorUnavailable:
                    silent += 1
                    if silent >= EMPEROR_SILENT_STEPS:
                        raise  # that is not the generation's fault: it must not be given up
                    continue
                silent = 0
                if f"{slug}.{generation}.ini" in state.blacklisted:
                    raise NotReady("its process keeps ending before it listens")

    def _written_since(self, slug: Slug, generation: int) -> str:
        """Return what was written to the site's log since the generation was started, of much the end."""
        return read_tail(self._layout.log(slug), self._log_start.get((slug, generation), 0), LOG_READ_BYTES)


def last_error(log: str) -> str:
    """Return the last line of the last traceback in a log, which names the error; empty without one."""
    _, found, after = log.rpartition("Traceback (most recent call last):\n")
    lines = (line for line in after.splitlines() if line and not line.startswith(" "))
    return next(lines, "")[:CAUSE_CHARACTERS] if found else ""


def _size(path: Path) -> int:
    try:
        return os.lstat(path).st_size
    except OSError:
        return 0
