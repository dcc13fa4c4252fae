"""Starts the process of a sleeping site, once however many visitors wait.

1 the generation that `serving` names · 2 a turn · 3 its ini, copied to where the emperor looks · 4 it answers · 5
app.sock leads to it. An interruption leaves app.sock at standby: the next visitor begins again, and finds what runs.
Invariant: app.sock never leads to a generation that has not answered, nor to another than `serving` names.
What a generation speaks is in its document: the agent may give the site another engine at any moment.
"""

import asyncio
import contextlib
import json
import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

from tenantry.node.config import Config
from tenantry.node.effects.emperor import ask_emperor, wake_emperor
from tenantry.node.effects.files import read_link, remove, write_file
from tenantry.node.effects.health import CONNECT_STEP_SECONDS, HealthRequest, ask
from tenantry.node.effects.logs import read_tail
from tenantry.node.errors import EmperorUnavailable, NotReady
from tenantry.node.integrity import Signature, sign
from tenantry.node.layout import parse_socket
from tenantry.node.probes import serving_generation
from tenantry.node.render.document import protocol_of
from tenantry.node.render.engine import Protocol
from tenantry.node.site_places import VASSAL_MODE
from tenantry.node.starts import Kind, Starts, Turn
from tenantry.node.upstream import lead_to, read_upstream
from tenantry.spec.names import Slug

logger = logging.getLogger(__name__)

START_SECONDS = 45.0  # for a process to answer; nginx waits a minute for the first byte
WATCH_SECONDS = 0.5
EMPEROR_STEP_SECONDS = 0.2  # between looks for one that is being started again
ENDED_SECONDS = 12.0  # uWSGI kills what does not end within ten; a process that is still there was kept by the emperor
BACKOFF_SECONDS = 2.0  # after a failure; doubled with each
BACKOFF_MAX_SECONDS = 30.0
AGAIN_MAX = 3  # generations that the agent may put in each other's place while one is started
LOG_MODE = 0o600
LOG_TAIL_BYTES = 4096


class Unwakeable(NotReady):
    """The site does not answer now. `retry_after_seconds`: when it may."""

    def __init__(self, message: str, retry_after_seconds: float, log: str = "") -> None:
        super().__init__(message, log)
        self.retry_after_seconds = retry_after_seconds


@dataclass(frozen=True, slots=True)
class Awake:
    """Where a site's process answers, and what it speaks."""

    socket: Path
    protocol: Protocol


@dataclass(slots=True)
class Site:
    """What standby knows of one site. The lock is held by what changes whether it sleeps."""

    slug: Slug
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    waking: "asyncio.Task[Awake] | None" = None
    waiting: int = 0  # visitors
    tried: int | None = None  # the generation that the failures are of
    failures: int = 0  # in a row
    not_before: float = 0.0  # the clock's time before which nothing is started


class Waker:
    """Wakes sites: few at the same time, in the order in which they were asked for."""

    def __init__(self, config: Config, *, starts_at_once: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._layout = config.layout
        self._http_port = config.http_port
        self._starts = Starts(starts_at_once)
        self._clock = clock
        self._sites: dict[Slug, Site] = {}

    def site(self, slug: Slug) -> Site:
        return self._sites.setdefault(slug, Site(slug))

    def protocol(self, slug: Slug) -> Protocol:
        """Return what nginx speaks with the site."""
        return read_upstream(self._layout.site(slug)).protocol

    async def wake(self, slug: Slug) -> Awake:
        """Return where the site's process answers; `Unwakeable` when none does.

        A visitor who leaves does not end the start: it goes on for those who come.
        """
        site = self.site(slug)
        if site.waking is None or site.waking.done():
            site.waking = asyncio.create_task(self._locked(site))
            site.waking.add_done_callback(_heard)
        site.waiting += 1
        try:
            return await asyncio.shield(site.waking)
        finally:
            site.waiting -= 1

    async def _locked(self, site: Site) -> Awake:
        async with site.lock:
            return await self._woken(site)

    async def _woken(self, site: Site) -> Awake:
        for _ in range(AGAIN_MAX):
            asleep, generation = serving_generation(self._layout.site(site.slug))
            if generation is None:
                raise Unwakeable("there is no such site here", BACKOFF_SECONDS)
            if asleep:
                if site.tried != generation:
                    site.tried, site.failures, site.not_before = generation, 0, 0.0
                await self._start(site, generation)
            if serving_generation(self._layout.site(site.slug)) == (False, generation):
                return Awake(self._layout.socket(site.slug, generation), self._speaks(site.slug, generation))
        raise Unwakeable("the site is given one generation after the other", BACKOFF_SECONDS)

    def _speaks(self, slug: Slug, generation: int) -> Protocol:
        """Return what the generation speaks; of one whose document is damaged, what nginx speaks with it now."""
        try:
            return protocol_of(json.loads(self._layout.document(slug, generation).read_bytes()))
        except (OSError, ValueError, AttributeError):
            return self.protocol(slug)

    async def _start(self, site: Site, generation: int) -> None:
        wait = site.not_before - self._clock()
        if wait > 0:
            raise Unwakeable("the site could not be started a moment ago", wait)
        began = self._clock()
        log = _size(self._layout.log(site.slug))
        try:
            async with self._turn(site), asyncio.timeout(START_SECONDS):
                await self._started(site.slug, generation)
        except (TimeoutError, NotReady, OSError) as error:
            if serving_generation(self._layout.site(site.slug)) != (True, generation):
                return  # the agent leads visitors elsewhere meanwhile, and took away what was being started
            why = f"did not answer within {START_SECONDS:.0f} s" if isinstance(error, TimeoutError) else str(error)
            tail = read_tail(self._layout.log(site.slug), log, LOG_TAIL_BYTES)
            raise await self._give_up(site, generation, f"generation {generation} {why}", tail) from error
        site.failures, site.not_before = 0, 0.0
        remove(self._layout.wake_failures / site.slug)
        self._lead(site.slug, generation)
        logger.info("%s: woken within %.0f ms", site.slug, (self._clock() - began) * 1000)

    async def _started(self, slug: Slug, generation: int) -> None:
        """Return when the generation answers; begun anew when it only ended because the emperor did."""
        while True:
            emperor = sign(str(self._layout.emperor_socket))
            former = self._former(slug, generation)
            self._begin(slug, generation)
            await wake_emperor(self._layout.emperor_socket)
            try:
                await self._answering(slug, generation, former)
                return
            except NotReady:
                await self._emperor_back()
                if sign(str(self._layout.emperor_socket)) == emperor:
                    raise

    async def _emperor_back(self) -> None:
        while True:
            if await wake_emperor(self._layout.emperor_socket):
                return
            await asyncio.sleep(EMPEROR_STEP_SECONDS)

    @contextlib.asynccontextmanager
    async def _turn(self, site: Site) -> AsyncIterator[None]:
        turn = Turn(self._starts, Kind(site.slug, doubtful=site.failures > 0))
        await turn.take()
        try:
            yield
        finally:
            turn.end()

    def _begin(self, slug: Slug, generation: int) -> None:
        """Give the emperor the ini. One that is there already is the agent's, which tries the generation."""
        vassal = self._layout.vassal(slug, generation)
        if not vassal.exists():
            write_file(vassal, self._layout.parked(slug, generation).read_bytes(), mode=VASSAL_MODE)

    def _former(self, slug: Slug, generation: int) -> Signature | None:
        """Return the signature of a socket whose process is on its way out: nobody has an ini for it any more."""
        vassal = self._layout.vassal(slug, generation)
        return None if vassal.exists() else sign(str(self._layout.socket(slug, generation)))

    async def _answering(self, slug: Slug, generation: int, former: Signature | None) -> None:
        """Return when the process answers, another than that of the `former` socket.

        `NotReady` when it ends before it does.
        """
        socket = self._layout.socket(slug, generation)
        request = HealthRequest(
            socket, "localhost", self._http_port, "/", probe=True, protocol=self._speaks(slug, generation)
        )
        watched = began = self._clock()
        while True:
            late = self._clock() - began > ENDED_SECONDS
            try:
                if former is None or late or sign(str(socket)) != former:
                    await ask(request)
                    return
            except (FileNotFoundError, ConnectionRefusedError):
                pass
            await asyncio.sleep(CONNECT_STEP_SECONDS)
            if self._clock() - watched > WATCH_SECONDS:
                watched = self._clock()
                await self._watch(slug, generation)

    async def _watch(self, slug: Slug, generation: int) -> None:
        """Have the emperor look again, and hear whether it gave the process up. One that begins takes inis away."""
        self._begin(slug, generation)
        try:
            state = await ask_emperor(self._layout.emperor_socket)
        except EmperorUnavailable:
            return  # it is being started again
        if self._layout.vassal(slug, generation).name in state.blacklisted:
            raise NotReady("keeps ending before it listens")

    def _lead(self, slug: Slug, generation: int) -> None:
        """Lead visitors to the process, unless the agent has put another generation in its place meanwhile."""
        directory = self._layout.site(slug)
        upstream = read_upstream(directory)
        if (upstream.asleep, upstream.generation) != (True, generation):
            return
        lead_to(directory, generation, self._speaks(slug, generation))
        # The agent, which sets `serving` first, may have switched between our look and our link.
        wanted = parse_socket(read_link(directory / "serving"))
        if wanted is not None and wanted != generation:
            lead_to(directory, wanted, self._speaks(slug, wanted))

    async def _give_up(self, site: Site, generation: int, message: str, log: str) -> Unwakeable:
        """Take the ini back, note why for the agent, and wait longer each time."""
        slug = site.slug
        logger.warning("%s: not woken: %s", slug, message)
        if serving_generation(self._layout.site(slug)) == (True, generation):
            remove(self._layout.vassal(slug, generation))
            await wake_emperor(self._layout.emperor_socket)
        seconds = min(BACKOFF_SECONDS * 2**site.failures, BACKOFF_MAX_SECONDS)
        site.failures += 1
        site.not_before = self._clock() + seconds
        with contextlib.suppress(OSError):  # a full disk; the log above has it
            write_file(self._layout.wake_failures / slug, f"{message}\n{log}".encode(), mode=LOG_MODE)
        return Unwakeable(message, seconds, log)


def _heard(waking: "asyncio.Task[Awake]") -> None:
    """Of a start that failed those who wait are told; where nobody waits any more, the log has it."""
    if not waking.cancelled():
        waking.exception()


def _size(path: Path) -> int:
    try:
        return os.lstat(path).st_size
    except OSError:
        return 0
