"""Lets sites sleep that nobody visits: without one lost request.

1 app.sock leads to standby: whoever comes from now on waits there · 2 the process has answered all that reached it · 3
its ini goes, and the emperor ends it. A visitor who comes before 3 turns it round: app.sock leads to the process again.
An interruption at any point leaves a site that a visitor wakes, or that runs on.
"""

import asyncio
import contextlib
import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path

from tenantry.node.config import Config
from tenantry.node.effects.emperor import ask_emperor, wake_emperor
from tenantry.node.effects.files import read_link, set_link
from tenantry.node.errors import EmperorUnavailable
from tenantry.node.layout import parse_vassal, socket_name
from tenantry.node.planner import SETTLE_SECONDS
from tenantry.node.probes import entries, serving_generation
from tenantry.node.sockets import Sockets, read_sockets
from tenantry.node.standby.waking import Site, Waker
from tenantry.node.upstream import WAKE_TARGETS, read_upstream
from tenantry.node.vassal import ACTIVITY
from tenantry.spec.names import Slug

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
AT_ONCE = 16  # sites on their way to sleep
STEP_SECONDS = 0.1
DRAIN_SECONDS = 30.0  # a site that is still answering after this is left awake for now
ASK_SECONDS = 1.0  # between questions to the emperor, whose answer is long
END_SECONDS = 15.0  # for the process to end; uWSGI kills its workers after ten
LEFT_SECONDS = 300.0  # no start takes as long, the agent's neither
AHEAD_MAX_SECONDS = 3600.0  # how far ahead a site may say that it has work to do


@dataclass(frozen=True, slots=True)
class Candidate:
    """A site that runs and may sleep."""

    slug: Slug
    generation: int


class Sleeper:
    """Looks every second which sites nobody visits."""

    def __init__(self, config: Config, waker: Waker) -> None:
        self._layout = config.layout
        self._waker = waker
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._busy: set[Slug] = set()
        self._sockets_at, self._sockets = float("-inf"), Sockets()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                for candidate in self._idle():
                    self._busy.add(candidate.slug)
                    group.create_task(self._let_sleep(candidate))
                await asyncio.sleep(LOOK_SECONDS)

    def _idle(self) -> list[Candidate]:
        """Return the on-demand sites that run and were not asked for anything for their time."""
        found = []
        for name in entries(self._layout.vassals):
            parsed = parse_vassal(name)
            if parsed is not None and parsed[0] not in self._busy and self._is_idle(*parsed):
                found.append(Candidate(*parsed))
        return found

    def _is_idle(self, slug: Slug, generation: int) -> bool:
        directory = self._layout.site(slug)
        idle = read_link(directory / "idle")
        if idle is None or not idle.isdecimal() or not self._layout.parked(slug, generation).exists():
            return False
        asleep, current = serving_generation(directory)
        if current != generation or (asleep and not self._is_left(slug, generation)):
            return False
        if self._connections(slug, generation):
            return False
        now = time.time()
        return now - _last(directory, now) > int(idle)

    def _is_left(self, slug: Slug, generation: int) -> bool:
        """Whether a sleeping site's process was left running, when standby ended on the way. None is being started."""
        try:
            since = os.lstat(self._layout.vassal(slug, generation)).st_ctime
        except OSError:
            return False
        waking = self._waker.site(slug).waking
        return (waking is None or waking.done()) and time.time() - since > LEFT_SECONDS

    def _connections(self, slug: Slug, generation: int) -> int:
        now = time.monotonic()
        if now - self._sockets_at > STEP_SECONDS / 2:
            self._sockets, self._sockets_at = read_sockets(self._layout.sites), now
        return self._sockets.connections.get(slug, {}).get(generation, 0)

    async def _let_sleep(self, candidate: Candidate) -> None:
        site = self._waker.site(candidate.slug)
        try:
            async with self._slots, site.lock:
                await self._put_to_sleep(site, candidate.generation)
        except OSError as error:
            logger.warning("%s: cannot be put to sleep: %s", candidate.slug, error)
        finally:
            self._busy.discard(candidate.slug)

    async def _put_to_sleep(self, site: Site, generation: int) -> None:
        directory = self._layout.site(site.slug)
        if site.waiting or not self._is_idle(site.slug, generation):
            return
        upstream = read_upstream(directory)
        set_link(upstream.path, WAKE_TARGETS[upstream.protocol])
        if not await self._drained(site, generation):
            self._turn_round(directory, generation)
            return
        if not self._remove_vassal(site.slug, generation):
            return
        await wake_emperor(self._layout.emperor_socket)
        await self._ended(site.slug, generation)
        logger.info("%s: sleeps", site.slug)

    async def _drained(self, site: Site, generation: int) -> bool:
        """Wait until nothing is on its way to the process; False as soon as a visitor waits for it."""
        began, quiet = time.monotonic(), 0
        while time.monotonic() - began < DRAIN_SECONDS:
            await asyncio.sleep(STEP_SECONDS)
            if site.waiting:
                return False
            quiet = 0 if self._connections(site.slug, generation) else quiet + 1
            if quiet >= 2 and time.monotonic() - began >= SETTLE_SECONDS:
                return True
        return False

    def _turn_round(self, directory: Path, generation: int) -> None:
        upstream = read_upstream(directory)
        if (upstream.asleep, upstream.generation) == (True, generation):
            set_link(upstream.path, socket_name(generation))

    def _remove_vassal(self, slug: Slug, generation: int) -> bool:
        """Take the ini away, unless the agent leads visitors to the process meanwhile.

        The agent looks for the ini after it led them there: one of both sees what the other did.
        """
        if serving_generation(self._layout.site(slug)) == (False, generation):
            return False
        vassal = self._layout.vassal(slug, generation)
        aside = vassal.with_name(f".{vassal.name}.{os.getpid()}.new")  # a name that the emperor does not read
        vassal.rename(aside)
        if serving_generation(self._layout.site(slug)) == (False, generation):
            aside.rename(vassal)
            return False
        aside.unlink()
        return True

    async def _ended(self, slug: Slug, generation: int) -> None:
        """A visitor who comes now must not meet the process that ends.

        What it left behind may hold its socket open: then the emperor says that it has ended.
        """
        began = time.monotonic()
        asked = began + ASK_SECONDS
        while (now := time.monotonic()) - began < END_SECONDS:
            if generation not in read_sockets(self._layout.sites).listening.get(slug, ()):
                return
            if now > asked:
                asked = now + ASK_SECONDS
                with contextlib.suppress(EmperorUnavailable):
                    state = await ask_emperor(self._layout.emperor_socket)
                    if self._layout.vassal(slug, generation).name not in state.running:
                        return
            await asyncio.sleep(STEP_SECONDS / 2)
        logger.warning("%s: the process of generation %d does not end", slug, generation)


def _last(directory: Path, now: float) -> float:
    """Return when the site was last busy: asked for something, or woken. It may say that it will be, for an hour.

    A time beyond that hour, a clock that was set back for instance, is taken back: else it would hold as long as it is.
    """
    moments = []
    for path in (directory / ACTIVITY, read_upstream(directory).path):
        with contextlib.suppress(OSError):
            moment = os.lstat(path).st_mtime
            if moment > now + AHEAD_MAX_SECONDS:
                moment = now + AHEAD_MAX_SECONDS
                os.utime(path, (moment, moment), follow_symlinks=False)
            moments.append(moment)
    return max(moments, default=now)
