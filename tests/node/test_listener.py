"""What is heard, whether notifications arrive, and how soon a lost connection is tried again."""

import asyncio
import heapq
import math
import os
import random
import selectors
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantry.node.errors import StoreUnavailable
from tenantry.node.gate import ConnectGate, retry_delay
from tenantry.node.hearing import (
    AGAIN_SECONDS,
    ECHO_ANSWER_SECONDS,
    ECHO_SPREAD_SECONDS,
    OWN_QUERY_SECONDS,
    Hearing,
)
from tenantry.node.listener import (
    HEARTBEAT_ANSWER_SECONDS,
    HEARTBEAT_JITTER,
    HEARTBEAT_SECONDS,
    Hint,
    Listener,
    _beyond,
    parse_head,
    parse_now,
    parse_payload,
)
from tenantry.node.store import _CONNECT, ANSWER_SECONDS, CONNECT_SECONDS, Line, storable


@pytest.mark.parametrize(
    "payload",
    [
        *("", "{", "[]", "null", '{"revision": 3}', '{"epoch": "e", "revision": "x"}', "7"),
        '{"epoch": "e", "revision": 1e400}',
        '{"epoch": "e", "revision": NaN}',
        pytest.param("[" * 3_900 + "]" * 3_900, id="deep"),
    ],
)
def test_whatever_is_said_is_at_least_a_hint(payload: str) -> None:
    assert parse_payload(payload) == Hint(None, None)


def test_what_is_reported_can_be_stored_whatever_files_are_called() -> None:
    report = {
        "drift": [{"path": os.fsdecode(b"run/bad\xff"), "age": 1.5}],
        "sites": ({"message": "a\0b", "log": None},),
    }
    told = {
        "drift": [{"path": "run/bad\\udcff", "age": 1.5}],
        "sites": [{"message": "a\N{REPLACEMENT CHARACTER}b", "log": None}],
    }
    assert storable(report) == told
    assert storable("Zoë \N{SNOWMAN}") == "Zoë \N{SNOWMAN}"


def test_a_notification_names_the_head() -> None:
    assert parse_payload('{"epoch": "e", "revision": 12, "type": "site.created"}') == Hint("e", 12)
    assert parse_head({"epoch": "e", "revision": 12}) == Hint("e", 12)
    assert parse_head(None) == Hint(None, None)


@pytest.mark.parametrize("document", [None, {}, {"now": None}, {"now": "noon"}, {"now": "2026-01-01T00:00:00"}])
def test_a_clock_that_cannot_be_read_is_not_compared(document: Any) -> None:
    assert parse_now(document) is None


def test_clocks_are_compared_without_holding_the_way_against_them() -> None:
    assert parse_now({"now": "1970-01-01T01:00:10.5+01:00"}) == 10.5
    assert _beyond(100.0, 99.0, 101.0) == 0.0
    assert _beyond(100.0, 100.2, 100.4) == pytest.approx(0.2)
    assert _beyond(100.0, 90.0, 91.0) == -9.0


def test_half_open_and_hung_connections_are_noticed_within_five_seconds() -> None:
    assert HEARTBEAT_SECONDS * (1 + HEARTBEAT_JITTER / 2) + HEARTBEAT_ANSWER_SECONDS < 5
    assert ANSWER_SECONDS < 5
    assert _CONNECT["keepalives_idle"] + _CONNECT["keepalives_interval"] * _CONNECT["keepalives_count"] < 5
    assert _CONNECT["tcp_user_timeout"] < 5000
    assert CONNECT_SECONDS < 5


@given(st.integers(0, 1000), st.floats(0, 1))
def test_a_retry_is_never_at_once_and_never_far_away(attempt: int, jitter: float) -> None:
    assert 0.2 <= retry_delay(attempt, jitter) <= 5.0


# Whether notifications arrive


def test_somebodys_notification_is_proof_enough() -> None:
    hearing = Hearing(0.0, 1.0)
    hearing.heard(1.0)
    assert hearing.arrives is True
    assert hearing.due == math.inf


def test_otherwise_an_echo_is_sent_and_waited_for() -> None:
    hearing = Hearing(0.0, 0.5)
    assert hearing.due == ECHO_SPREAD_SECONDS / 2 + 2 * OWN_QUERY_SECONDS
    assert hearing.step(1.0)
    assert hearing.arrives is None
    hearing.heard(1.1)
    assert hearing.arrives is True


def test_two_echoes_that_do_not_arrive_are_said_and_tried_again() -> None:
    hearing = Hearing(0.0, 0.0)
    assert hearing.step(0.0)
    assert hearing.due == ECHO_ANSWER_SECONDS
    assert not hearing.step(2.0)
    assert hearing.arrives is None, "a busy machine may have missed one"
    assert hearing.due == 2.0
    assert hearing.step(2.0)
    assert not hearing.step(4.0)
    assert hearing.arrives is False
    assert hearing.due == 4.0 + AGAIN_SECONDS
    assert hearing.step(hearing.due)
    hearing.heard(70.0)
    assert hearing.arrives is True


def test_an_echo_that_could_not_be_sent_says_nothing() -> None:
    hearing = Hearing(0.0, 0.0)
    hearing.step(0.0)
    hearing.unsent(1.0)
    assert hearing.arrives is None
    assert hearing.step(hearing.due), "it is sent again"


def test_what_comes_with_an_answer_of_its_own_proves_nothing() -> None:
    hearing = Hearing(0.0, 0.0)
    hearing.step(4.9)
    hearing.beaten(5.0, "e", 1)
    hearing.heard(5.001)
    assert hearing.arrives is None
    assert hearing.step(hearing.due), "the echo may have been this one: another is sent, and no answer is missing"
    hearing.heard(hearing.due)
    assert hearing.arrives is True


def test_a_change_that_was_not_told_of_calls_for_a_test() -> None:
    hearing = Hearing(0.0, 0.0)
    hearing.beaten(0.0, "e", 10)
    hearing.heard(1.0, 10)
    hearing.beaten(3.0, "e", 11)  # its notification may be on its way
    assert hearing.due == math.inf
    hearing.beaten(6.0, "e", 11)
    assert hearing.due == 6.0
    assert hearing.arrives is True, "a doubt is not an answer"
    hearing.heard(7.0)
    hearing.beaten(9.0, "e", 11)
    assert hearing.due == math.inf, "one doubt, one test"
    hearing.heard(10.0, 12)
    hearing.beaten(12.0, "e", 12)
    hearing.beaten(15.0, "f", 3)
    hearing.beaten(18.0, "f", 3)
    assert hearing.due == math.inf


# A thousand nodes and a database that goes away: under a clock that jumps from event to event


class _InstantSelector(selectors.DefaultSelector):
    """Never waits; moves the loop's clock instead."""

    loop: "FakeLoop"

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout:
            self.loop.now += timeout
        return super().select(0)


class FakeLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.now = 0.0
        selector = _InstantSelector()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return self.now


def run_in_no_time(coroutine: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=FakeLoop) as runner:
        runner.run(coroutine)


class FakeLine(Line):
    """A line whose server is there or not."""

    def __init__(self, gate: ConnectGate, attempt: Callable[[], bool]) -> None:
        super().__init__("", gate)
        self._attempt = attempt
        self._open = False

    async def connection(self) -> Any:
        if not self._open:
            await self._gate.turn()
            self._open = self._attempt()
            if not self._open:
                raise StoreUnavailable("no connection")
        return self

    async def execute(self, query: str, parameters: tuple[Any, ...] = (), *, seconds: float = 4.0) -> Any:
        await self.connection()
        return {"epoch": "e", "revision": 1}

    def drop(self) -> None:
        self._open = False

    async def notifies(self, timeout: float) -> Any:  # noqa: ASYNC109
        await asyncio.sleep(timeout)
        if not server_up():
            self._open = False
            raise StoreUnavailable("broke")
        for nothing in ():
            yield nothing


UP_AGAIN = 60.0


def server_up() -> bool:
    now = asyncio.get_running_loop().time()
    return now < 10.0 or now >= UP_AGAIN


def busiest(moments: list[float], window: float) -> int:
    """Return the most events in any window."""
    inside: list[float] = []
    most = 0
    for moment in sorted(moments):
        heapq.heappush(inside, moment)
        while inside[0] <= moment - window:
            heapq.heappop(inside)
        most = max(most, len(inside))
    return most


def test_a_thousand_nodes_do_not_come_together() -> None:
    """The database is away from 10 s to 60 s. Each node has a listener and somebody who asks as fast as he may."""
    attempts: list[list[float]] = [[] for _ in range(1000)]
    back: list[float] = []

    async def node(number: int) -> None:
        loop = asyncio.get_running_loop()
        dice = random.Random(number)
        gate = ConnectGate(clock=loop.time, jitter=dice.random)

        def attempt() -> bool:
            attempts[number].append(loop.time())
            return server_up()

        def hint(hint: Hint) -> None:
            if hint.epoch is None and loop.time() >= UP_AGAIN:
                back.append(loop.time())

        async def ask() -> None:
            line, failures = FakeLine(gate, attempt), 0
            while True:
                try:
                    if not server_up():
                        line.drop()
                    await line.execute("")
                    failures = 0
                    await asyncio.sleep(1)
                except StoreUnavailable:
                    await asyncio.sleep(retry_delay(failures, dice.random()))
                    failures += 1

        async with asyncio.TaskGroup() as group:
            group.create_task(Listener(FakeLine(gate, attempt), hint, jitter=dice.random).run())
            group.create_task(ask())

    async def all_nodes() -> None:
        tasks = [asyncio.create_task(node(number)) for number in range(1000)]
        await asyncio.sleep(UP_AGAIN + 15)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    run_in_no_time(all_nodes())
    assert max(busiest(moments, 1.0) for moments in attempts) <= 2
    outage = sorted(moment for moments in attempts for moment in moments if moment >= 10.5)
    print(f"attempts of 1,000 nodes: at most {busiest(outage, 0.1)} within 100 ms, {busiest(outage, 1.0)} within 1 s")
    print(f"1,000 nodes are back within {max(back) - UP_AGAIN:.1f} s")
    assert busiest(outage, 0.1) <= 300, "2,000 lines spread over seconds"
    assert len(back) >= 1000
    assert max(back) <= UP_AGAIN + 6


def test_whatever_tasks_want_a_process_knocks_twice_a_second() -> None:
    moments: list[float] = []

    async def knock(gate: ConnectGate) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(20):
            await gate.turn()
            moments.append(loop.time())

    async def crowd() -> None:
        gate = ConnectGate(clock=asyncio.get_running_loop().time)
        await asyncio.gather(*(knock(gate) for _ in range(5)))

    run_in_no_time(crowd())
    assert len(moments) == 100
    assert moments[1] == 0.0, "both lines of a fresh agent connect at once"
    assert busiest(moments, 1.0) == 2
