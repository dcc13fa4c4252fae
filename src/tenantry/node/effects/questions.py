"""What is asked of a new generation: its health path, where that leads, and each of its workers' threads."""

import asyncio
import logging
import os
import stat
import time
from collections.abc import Iterable
from dataclasses import replace
from urllib.parse import urljoin, urlsplit

from tenantry.node.effects.health import (
    ASKED,
    CONNECT_STEP_SECONDS,
    FIRST_BAD_STATUS,
    Answer,
    HealthRequest,
    HeldRequest,
    ask,
)
from tenantry.node.effects.processes import child_pids, find, processor_seconds, set_priority
from tenantry.node.errors import NotReady
from tenantry.node.render.engine import Protocol
from tenantry.node.sockets import Backlog
from tenantry.node.vassal import LOADING_SHARE, SOCKET_MODE, members, step_forward

logger = logging.getLogger(__name__)

RETRY_SECONDS = 0.5
HUNG_UP_MAX = 3
REDIRECTS = (301, 302, 303, 307, 308)
REDIRECTS_MAX = 5
ENOUGH_SHARE = 0.1  # of one processor
TAKEN_SECONDS = 2.0  # for all threads to take a request: uWSGI holds each open for 4 s
ROUNDS_MAX = 5  # of that, while workers are still loading


class Questions:
    """What is asked of one generation; `name` as in «blog.3», `groups` where this machine's control groups are.

    `asked` is the path of the latest question, `pid` the process that began to listen. `deaths`: workers of it that
    ended, as far as `count_deaths` was called often enough to see them.
    """

    def __init__(self, health: HealthRequest, name: str, groups: dict[str, str]) -> None:
        self.health = health
        self._name = name
        self._groups = groups
        self._used = (time.monotonic(), 0.0)
        self._full = True  # whether all threads were seen to take a request at the same time
        self.asked = health.path
        self.socket = health.socket
        self.pid = 0
        self.deaths = 0
        self._workers: frozenset[int] = frozenset()

    async def first(self, *, patient: bool) -> Answer:
        """Return the first answer to the health path, however long that takes.

        `patient` with a generation that served: a process the emperor was ending, with another to come.
        """
        hung_up = 0
        while True:
            try:
                held = await HeldRequest.begin(self.health)
                self.pid = held.pid
                return await held.finish()
            except (FileNotFoundError, ConnectionRefusedError):
                await asyncio.sleep(CONNECT_STEP_SECONDS)
            except NotReady:
                hung_up += 1
                if hung_up > HUNG_UP_MAX or not patient:
                    raise
                await asyncio.sleep(RETRY_SECONDS)

    def has_got_on(self) -> bool:
        """Look whether its processes got a tenth of a processor since the last look: then they need no share.

        Where they wait for something else than the processor, they have nothing of a share either.
        """
        now = time.monotonic()
        used = sum(processor_seconds(pid) for pid in members(self._name, self._groups))
        (then, before), self._used = self._used, (now, used)
        return used - before >= ENOUGH_SHARE * (now - then)

    def insist(self) -> None:
        """Give the generation's processes some of the processor, also where others want all of it."""
        step_forward(self._name, self._groups, percent=LOADING_SHARE)

    def urge(self) -> None:
        """Give the generation's processes as much of the processor as everybody else here has."""
        if not step_forward(self._name, self._groups, percent=100):
            logger.warning("%s: processes are left that give way to everything", self._name)
        if self.pid:
            set_priority(self.pid, os.getpriority(os.PRIO_PROCESS, 0))

    async def follow(self, answer: Answer) -> None:
        """Follow where the health path leads, as far as that is the site's own; `NotReady` for a circle."""
        here = f"http://{self.health.hostname}:{self.health.port}{self.health.path}"
        home, cookies, passed = urlsplit(here).netloc, dict(answer.cookies), [self.health.path]
        while answer.status in REDIRECTS and "location" in answer.headers:
            if len(passed) > REDIRECTS_MAX:
                raise NotReady(f"it redirects in a circle: {' → '.join(passed)}")
            try:
                here = urljoin(here, answer.headers["location"])
                place = urlsplit(here)
                elsewhere = place.scheme != "http" or (place.port or 80) != self.health.port
            except ValueError:
                return
            path = place._replace(scheme="", netloc="", fragment="").geturl() or "/"
            if (
                elsewhere
                or place.hostname != urlsplit(f"//{home}").hostname
                or not (path.isascii() and path.isprintable())
            ):
                return
            self.asked = path
            passed.append(path)
            try:
                held = await HeldRequest.begin(replace(self.health, path=path, cookies=cookies))
                answer = await held.finish()
            except (OSError, NotReady):
                return  # what a page elsewhere does is no matter of the health path
            cookies |= answer.cookies

    def count_deaths(self) -> int:
        """Look who of the workers ended since the last look; return how many did in all.

        The site's log would tell, too, but it also has what an older generation's workers do.
        """
        # Those that have ended, and that their master does not know of yet, are seen too: one may live for moments.
        workers = frozenset(child_pids(self.pid))
        self.deaths += len(self._workers - workers)
        self._workers = workers
        return self.deaths

    def forget_process(self) -> None:
        """The process that listened has ended as it should, its workers with it: another one will answer."""
        self.pid, self.deaths, self._workers = 0, 0, frozenset()

    def check_steady(self, workers: Iterable[int]) -> None:
        """Compare with what was there at the first answer: the workers, and the socket; `NotReady` if they changed."""
        if any(find(pid) is None for pid in workers):
            raise NotReady("one of its workers ended after it had answered")
        try:
            mode = os.lstat(self.socket).st_mode
        except OSError as error:
            raise NotReady("its socket is gone since it answered") from error
        if not stat.S_ISSOCK(mode) or stat.S_IMODE(mode) != SOCKET_MODE:
            raise NotReady(f"its socket has mode {stat.S_IMODE(mode):04o} instead of {SOCKET_MODE:04o}")

    async def ask_all(self, path: str, threads: int) -> None:
        """Ask as often as there are threads, each of which gets one of the requests; `NotReady` for a bad answer.

        Where it cannot be had that all are busy at once, because fewer run than may, it is asked as often all the same.
        Over HTTP no worker can be kept from taking all requests: there the library has each thread answer.
        """
        self.asked = path
        request = replace(self.health, path=path)
        if request.protocol is Protocol.HTTP and await self._library_asked_all(request):
            return
        backlog = Backlog(self.health.socket)
        for _ in range(ROUNDS_MAX if self._full else 1):
            full = await self._round(request, threads, backlog)
            if full:
                return
        self._full = False

    async def _round(self, request: HealthRequest, threads: int, backlog: Backlog) -> bool:
        """Ask `threads` times at once; returns whether all were taken before any was answered."""
        held: list[HeldRequest] = []
        try:
            for _ in range(threads):
                one = await HeldRequest.begin(request, hold=True)
                held.append(one)
            taken = await _emptied(backlog)
            answers = await asyncio.gather(*(one.finish() for one in held))
        except OSError as error:
            raise _nobody(error) from error
        finally:
            for one in held:
                one.close()
        for answer in answers:
            _judge(request, answer)
        return taken

    async def _library_asked_all(self, request: HealthRequest) -> bool:
        """Have the site's library ask; returns whether it could."""
        try:
            answer = await ask(replace(request, everyone=True))
        except OSError as error:
            raise _nobody(error) from error
        if ASKED not in answer.headers:
            return False
        _judge(request, answer)
        return True


def _judge(request: HealthRequest, answer: Answer) -> None:
    if answer.status >= FIRST_BAD_STATUS:
        raise NotReady(f"it answered {request.path} with status {answer.status}")


def _nobody(error: OSError) -> NotReady:
    return NotReady(f"nobody listens on its socket any more: {error.strerror}")


async def _emptied(backlog: Backlog) -> bool:
    """Wait until no connection waits to be accepted; returns whether it came to that."""
    deadline = asyncio.get_running_loop().time() + TAKEN_SECONDS
    while (waiting := backlog.count()) != 0:
        if waiting is None or asyncio.get_running_loop().time() > deadline:
            return waiting is None
        await asyncio.sleep(CONNECT_STEP_SECONDS)
    return True
