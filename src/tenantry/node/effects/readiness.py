"""Whether a generation answers: asked through its own socket, with an eye on a process that keeps ending."""

import asyncio
import os
from pathlib import Path
from typing import NoReturn

from tenantry.node.config import Config
from tenantry.node.effects.emperor import ask_emperor
from tenantry.node.effects.health import CONNECT_STEP_SECONDS, FIRST_BAD_STATUS, HealthRequest, check_health
from tenantry.node.effects.logs import read_tail
from tenantry.node.errors import EmperorUnavailable, NotReady
from tenantry.spec.names import Slug
from tenantry.spec.sites import SiteSpec

WATCH_STEP_SECONDS = 0.5
WORKER_DIED = "DAMN ! worker"  # uWSGI's words when a worker ends by itself and is started again
WORKER_DEATHS = 3
HUNG_UP_MAX = 3
EMPEROR_SILENT_STEPS = 6  # one that is being started again is back before
LOG_TAIL_BYTES = 4096


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

    async def wait(self, spec: SiteSpec, generation: int, *, served: bool) -> None:
        """Return when the generation answers; `NotReady` when it will not. `served`: it did before."""
        try:
            async with asyncio.timeout(self._ready_seconds):
                status = await self._first_answer(spec, generation, served)
        except TimeoutError:
            message = f"generation {generation} did not answer within {self._ready_seconds:.0f} s"
            raise NotReady(message, self._log_tail(spec.slug, generation)) from None
        except NotReady as error:
            raise NotReady(str(error), self._log_tail(spec.slug, generation)) from error
        if status >= FIRST_BAD_STATUS:
            message = f"generation {generation} answered {spec.health_path} with status {status}"
            raise NotReady(message, self._log_tail(spec.slug, generation))

    async def _first_answer(self, spec: SiteSpec, generation: int, served: bool) -> int:
        """Ask until an answer comes; `NotReady` as soon as it is clear that none will."""
        watch = asyncio.create_task(self._watch_start(spec.slug, generation))
        answer = asyncio.create_task(self._ask(spec, generation, served))
        try:
            await asyncio.wait({watch, answer}, return_when=asyncio.FIRST_COMPLETED)
            return answer.result() if answer.done() else watch.result()
        finally:
            watch.cancel()
            answer.cancel()
            await asyncio.gather(watch, answer, return_exceptions=True)

    async def _ask(self, spec: SiteSpec, generation: int, served: bool) -> int:
        hostname = spec.hostnames[0] if spec.hostnames else "localhost"
        socket = self._layout.socket(spec.slug, generation)
        request = HealthRequest(socket, hostname, self._http_port, spec.health_path)
        hung_up = 0
        while True:
            try:
                return await check_health(request)
            except (FileNotFoundError, ConnectionRefusedError):
                await asyncio.sleep(CONNECT_STEP_SECONDS)
            except NotReady:
                # Of a generation that served: a process the emperor was ending, with another to come.
                hung_up += 1
                if hung_up > HUNG_UP_MAX or not served:
                    raise
                await asyncio.sleep(WATCH_STEP_SECONDS)

    async def _watch_start(self, slug: Slug, generation: int) -> NoReturn:
        """Notice a process that keeps ending, which a request waiting in the socket's queue does not."""
        silent = 0
        while True:
            await asyncio.sleep(WATCH_STEP_SECONDS)
            if self._log_tail(slug, generation).count(WORKER_DIED) >= WORKER_DEATHS:
                raise NotReady(f"generation {generation}: its worker keeps ending before it answers")
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
                    raise NotReady(f"generation {generation}: its process keeps ending before it listens")

    def _log_tail(self, slug: Slug, generation: int) -> str:
        """Return the end of what the generation wrote, at most 4 kB."""
        return read_tail(self._layout.log(slug), self._log_start.get((slug, generation), 0), LOG_TAIL_BYTES)


def _size(path: Path) -> int:
    try:
        return os.lstat(path).st_size
    except OSError:
        return 0
