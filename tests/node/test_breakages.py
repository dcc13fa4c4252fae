"""New generations that are broken: visitors keep the old one, the person is told why, nothing of it is left.

The sites of a run are side by side on one node. Each serves, gets a broken generation, and then a good one.
"""

import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from node_breakages import BREAKAGES, GONE_SECONDS, Breakage, good, leftovers, lock_database, prepare
from node_lab import Node, Postgres, prepared, wait_until

from tenantry.node.sockets import read_sockets

READY_SECONDS = 20
READY_SECONDS_LONG = 40  # more of these work hard until they are given up
GIVEN_UP_SECONDS = 120.0  # for all that time out, a few at a time


@pytest.fixture
def broken(postgres: Postgres, request: pytest.FixtureRequest) -> Iterator[Node]:
    """A node with a good release and one that holds every breakage."""
    with prepared(postgres) as node:
        prepare(node, READY_SECONDS_LONG if request.node.get_closest_marker("long") else READY_SECONDS)
        yield node


@dataclass
class Visitors:
    """One visitor who goes round all sites again and again, and notes what the old generation did not answer."""

    node: Node
    slugs: list[str]
    asked: dict[str, int] = field(default_factory=dict)
    failed: list[tuple[str, object]] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "Visitors":
        self._thread = threading.Thread(target=self._visit)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _visit(self) -> None:
        while not self._stop.is_set():
            for slug in self.slugs:
                try:
                    status, _, body = self.node.get(f"{slug}.localhost", "/slow?0")
                    answer: object = status if b'"version": "good-1"' not in body else "good-1"
                except OSError as error:
                    answer = repr(error)
                if answer != "good-1":
                    self.failed.append((slug, answer))
                self.asked[slug] = self.asked.get(slug, 0) + 1
                time.sleep(0.01)  # the processor is for what is tested


def check(node: Node, breakages: list[Breakage]) -> None:
    slugs = {f"b{number:02d}": breakage for number, breakage in enumerate(breakages, 1)}
    numbers = {slug: number for number, slug in enumerate(slugs, 1)}
    for slug, breakage in slugs.items():
        lock_database(node, numbers[slug]) if "/users" in str(breakage.site) else None
        node.put(good(node, slug, numbers[slug], breakage))
    for slug in slugs:
        node.reported(slug, numbers[slug])
    before = {slug: listing(node, slug) for slug in slugs}
    wrong: list[str] = []
    with Visitors(node, list(slugs)) as visitors:
        began = time.monotonic()
        revisions = {}
        for slug, breakage in slugs.items():
            document = node.document(slug, numbers[slug], "broken-1", generation=2, **breakage.document())
            revisions[slug] = node.put(document)
        for slug, breakage in slugs.items():
            try:
                report = node.reported(
                    slug, revisions[slug], "failed", max(began + GIVEN_UP_SECONDS - time.monotonic(), 0.1)
                )
            except AssertionError:
                wrong.append(f"{breakage.name}: {slug} {node.last_report(slug)}")
                continue
            told = f"{report['message']}\n{report['log']}"
            if not re.search(breakage.words, told) or report["generation"] != 1 or not report["message"]:
                wrong.append(
                    f"{breakage.name}: told {told[:200]!r} … {told[-500:]!r} of generation {report['generation']}"
                )
        print(f"{len(slugs)} given up after {time.monotonic() - began:.1f} s")
        assert not wrong, "\n".join(wrong)
        wait_until(lambda: not leftovers(node, len(slugs)), GONE_SECONDS, what="everything to end")
        print(f"gone after {time.monotonic() - began:.1f} s; visitors asked {sum(visitors.asked.values())} times")
    assert visitors.failed == []
    assert min(visitors.asked[slug] for slug in slugs) >= 3
    for slug, breakage in slugs.items():
        assert listing(node, slug) == before[slug], breakage.name
    sockets = read_sockets(node.home / "run" / "sites")
    assert {slug: sockets.listening[slug] for slug in slugs} == {slug: {1} for slug in slugs}  # type: ignore[index]
    for slug in slugs:
        revisions[slug] = node.put(good(node, slug, numbers[slug], slugs[slug], generation=3))
    for slug in slugs:
        assert node.reported(slug, revisions[slug])["generation"] == 3


def listing(node: Node, slug: str) -> set[str]:
    """The site's entries in run/ and its data directories."""
    inis = {path.name for path in (node.home / "run" / "vassals").glob(f"{slug}.*")}
    entries = {path.name for path in (node.home / "run" / "sites" / slug).iterdir()}
    data = {path.name for path in (node.home / "data" / slug).rglob("*")}
    return inis | entries | data


def test_broken_generations_are_given_up_and_visitors_notice_nothing(broken: Node) -> None:
    check(broken, [breakage for breakage in BREAKAGES if breakage.short])


@pytest.mark.long
@pytest.mark.parametrize("part", range(3))
def test_every_broken_generation_is_given_up_and_visitors_notice_nothing(broken: Node, part: int) -> None:
    assert len(BREAKAGES) >= 50
    check(broken, [breakage for breakage in BREAKAGES if not breakage.short][part::3])
