"""The limiter's rounds, with a machine whose answers are chosen."""

import asyncio
from dataclasses import replace

from node_lab import make_spec

from tenantry.node.limiter import DISK_FULL, MEMORY_FULL, NOT_ENFORCED, SHOWN_SECONDS, Limiter
from tenantry.spec.limits import Limits
from tenantry.spec.names import Slug
from tenantry.spec.sites import SiteSpec


class Machine:
    """Means whose state is plain attributes."""

    def __init__(self) -> None:
        self.offers = frozenset({"memory", "pids", "cpu"})
        self.used: dict[str, int | None] = {}
        self.ended: dict[str, int] = {}
        self.long: set[str] = set()
        self.full: set[str] = set()
        self.gone: set[str] = set()
        self.measured = 0

    def controllers(self) -> frozenset[str]:
        return self.offers

    def note_groups(self) -> None:
        return

    def bring_forward(self) -> None:
        pass

    def remove_old_groups(self) -> None:
        return

    def set_long(self, slug: Slug, limits: Limits | None) -> None:
        wanted = limits is not None and limits.request_seconds > 60
        self.long = self.long | {slug} if wanted else self.long - {slug}

    def set_full(self, slug: Slug, full: bool) -> None:
        self.full = self.full | {slug} if full else self.full - {slug}

    def flagged(self) -> frozenset[Slug]:
        return frozenset(Slug(slug) for slug in self.long | self.full)

    def is_here(self, slug: Slug) -> bool:
        return slug not in self.gone

    def kills(self) -> dict[str, int]:
        return dict(self.ended)

    async def disk_mb(self, slug: Slug) -> int | None:
        self.measured += 1
        return self.used[slug]


class Trial:
    """A limiter, what it says, and a clock that is set."""

    def __init__(self) -> None:
        self.machine = Machine()
        self.specs: list[SiteSpec] = []
        self.said: dict[str, str] = {}
        self.now = 1000.0
        self._limiter = Limiter(self.machine, lambda: self.specs, self._say, clock=lambda: self.now)

    def _say(self, condition: str, message: str | None) -> None:
        self.said.pop(condition, None)
        if message is not None:
            self.said[condition] = message

    def limit(self, **limits: int) -> None:
        self.specs = [replace(make_spec(), limits=Limits(**limits))]

    def round(self) -> dict[str, str]:
        asyncio.run(self._limiter.round())
        self.now += 20
        return self.said


def test_uploads_are_refused_above_the_limit_and_taken_again_below() -> None:
    trial = Trial()
    trial.limit(disk_mb=100)
    trial.machine.used = {"blog": 100}
    assert trial.round() == {}
    trial.machine.used = {"blog": 2101}
    assert trial.round() == {DISK_FULL: "blog has 2,101 MB of 100 MB: uploads are refused until something is deleted"}
    assert trial.machine.full == {"blog"}
    trial.machine.used = {"blog": 99}
    assert trial.round() == {}
    assert trial.machine.full == set()


def test_files_that_cannot_be_counted_in_time_are_too_many() -> None:
    trial = Trial()
    trial.limit(disk_mb=100)
    trial.machine.used = {"blog": None}
    assert "too many files to be counted" in trial.round()[DISK_FULL]
    assert trial.machine.full == {"blog"}


def test_a_limit_that_was_lifted_lets_uploads_in_also_after_a_start() -> None:
    trial = Trial()
    trial.limit()
    trial.machine.full = {"blog"}
    assert trial.round() == {}
    assert (trial.machine.full, trial.machine.measured) == (set(), 0)


def test_files_that_take_long_to_count_are_counted_rarely() -> None:
    trial = Trial()
    trial.limit(disk_mb=100)
    trial.machine.used = {"blog": 1}

    async def slowly(slug: Slug) -> int:
        trial.machine.measured += 1
        trial.now += 10
        return 1

    trial.machine.disk_mb = slowly  # type: ignore[method-assign]
    for _ in range(12):
        trial.round()
    assert trial.machine.measured == 2, "10 s of counting, 200 s of rest"


def test_what_a_removed_site_left_goes() -> None:
    trial = Trial()
    trial.machine.long, trial.machine.full, trial.machine.gone = {"old"}, {"old"}, {"old"}
    trial.round()
    assert (trial.machine.long, trial.machine.full) == (set(), set())


def test_long_requests_are_marked_and_unmarked() -> None:
    trial = Trial()
    trial.limit(request_seconds=600)
    trial.round()
    assert trial.machine.long == {"blog"}
    trial.limit()
    trial.round()
    assert trial.machine.long == set()


def test_a_machine_without_control_groups_says_so_only_where_one_is_needed() -> None:
    trial = Trial()
    trial.machine.offers = frozenset({"cpu"})
    trial.limit()
    assert trial.round() == {}
    trial.limit(memory_mb=512)
    assert "memory of blog is not held" in trial.round()[NOT_ENFORCED]
    trial.machine.offers = frozenset({"memory"})
    assert trial.round() == {}


def test_what_the_kernel_ended_is_said_for_a_while() -> None:
    trial = Trial()
    trial.limit(memory_mb=512)
    trial.machine.ended = {"blog.3": 2}
    assert trial.round()[MEMORY_FULL].startswith("blog: the kernel ended a process")
    trial.now += SHOWN_SECONDS
    assert trial.round() == {}
    trial.machine.ended = {"blog.3": 2, "blog.4": 1}
    assert MEMORY_FULL in trial.round()
