"""The round over the releases in use."""

import asyncio
import contextlib
import logging

import pytest

from tenantry.node.errors import Transient
from tenantry.node.keeper import COLLECT_SECONDS, ReleaseKeeper
from tenantry.spec.names import Slug
from tenantry.spec.sites import ReleaseName

ONE, TWO = ReleaseName(Slug("demo"), 1), ReleaseName(Slug("demo"), 2)


class Releases:
    """Answers what the test says; remembers what it was asked."""

    def __init__(self) -> None:
        self.words: dict[ReleaseName, str | Exception | None] = {}
        self.cleaned = 0
        self.verified: list[ReleaseName] = []
        self.collected: list[frozenset[ReleaseName]] = []

    async def clean(self) -> None:
        self.cleaned += 1

    async def verify(self, name: ReleaseName) -> str | None:
        self.verified.append(name)
        words = self.words.get(name)
        if isinstance(words, Exception):
            raise words
        return words

    async def collect(self, used: frozenset[ReleaseName]) -> list[str]:
        self.collected.append(used)
        return ["demo-0"]


def test_each_release_is_verified_also_after_one_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    releases = Releases()
    releases.words[ONE] = Transient("the disk is away")
    keeper = ReleaseKeeper(releases, lambda: frozenset({ONE, TWO}), clock=lambda: 0.0)
    asyncio.run(keeper.round())
    assert releases.verified == [ONE, TWO]
    assert "demo-1 cannot be verified: the disk is away" in caplog.text


def test_damage_is_said_once_and_its_end_too(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    releases = Releases()
    keeper = ReleaseKeeper(releases, lambda: frozenset({ONE}), clock=lambda: 0.0)
    for words in ("src/a is missing", "src/a is missing", "src/b is missing", None, None):
        releases.words[ONE] = words
        asyncio.run(keeper.round())
    said = [record.getMessage() for record in caplog.records if "demo-1" in record.getMessage()]
    assert said == [
        "the release demo-1 is damaged: src/a is missing",
        "the release demo-1 is damaged: src/b is missing",
        "the release demo-1 is whole again",
    ]


def test_unused_releases_are_collected_hourly_and_never_on_an_empty_state() -> None:
    releases, now = Releases(), [0.0]
    used: frozenset[ReleaseName] = frozenset()
    keeper = ReleaseKeeper(releases, lambda: used, clock=lambda: now[0])
    asyncio.run(keeper.round())
    assert releases.collected == []
    used = frozenset({ONE})
    for now[0] in (1.0, 30.0, COLLECT_SECONDS, COLLECT_SECONDS + 2):
        asyncio.run(keeper.round())
    assert releases.collected == [used, used]


def test_a_start_cleans_before_it_verifies() -> None:
    releases = Releases()

    async def start() -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ReleaseKeeper(releases, lambda: frozenset({ONE})).run(), 0.05)

    asyncio.run(start())
    assert (releases.cleaned, releases.verified) == (1, [])
