"""Logging in while somebody guesses: wrong passwords are slow, the right one gets in."""

import asyncio
import contextlib
import http.client
import os
import re
import select
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlencode, urlsplit

import pytest
from django.test import Client

from tenantry.control.dashboard import access
from tenantry.control.dashboard.pace import (
    FORGOTTEN_SECONDS,
    LONGEST_PAUSE_SECONDS,
    LONGEST_WAIT_SECONDS,
    PLACES,
    Pace,
    TooManyAttempts,
)
from tenantry.control.dashboard.peers import peer_uid

from .conftest import PASSWORD, USERNAME, Control

STRANGER = 1_900_099_001
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")


class Clock:
    """Time that passes only in `sleep`, for one task at a time."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


async def wrong() -> None:
    return None


async def right() -> str:
    return "admin"


def fill(pace: Pace, lane: str) -> None:
    """Take places until there is none for as long as anybody waits."""
    with contextlib.suppress(TooManyAttempts):
        while True:
            pace._take(lane)


def test_wrong_passwords_take_longer_and_longer_up_to_a_limit() -> None:
    clock = Clock()
    pace = Pace(clock, clock.sleep)
    for _ in range(8):
        assert asyncio.run(pace.attempt("lane", wrong)) is None
    assert [seconds for seconds in clock.slept if seconds] == [0.25, 0.5, 1, 2, 4, 4, 4, 4]


def test_a_right_password_is_answered_at_once_and_forgives() -> None:
    clock = Clock()
    pace = Pace(clock, clock.sleep)
    for _ in range(20):
        asyncio.run(pace.attempt("lane", wrong))
    before = clock.now
    assert asyncio.run(pace.attempt("lane", right)) == "admin"
    assert clock.now == before
    asyncio.run(pace.attempt("lane", wrong))
    assert clock.slept[-1] == 0.25


def test_many_at_once_are_checked_no_faster_and_hanging_up_does_not_help() -> None:
    async def hang_up(_: float) -> None:
        raise asyncio.CancelledError

    clock = Clock()
    pace = Pace(clock, hang_up)
    taken = 0
    for _ in range(1000):
        try:
            asyncio.run(pace.attempt("lane", wrong))
        except asyncio.CancelledError:
            taken += 1
        except TooManyAttempts:
            pass
    # Those are to be checked within the longest wait, and a pause more for the first.
    assert PLACES < taken <= PLACES * (LONGEST_WAIT_SECONDS / LONGEST_PAUSE_SECONDS + 3)


def test_a_lane_is_refused_alone_and_only_while_it_is_full() -> None:
    clock = Clock()
    pace = Pace(clock, clock.sleep)
    fill(pace, "full")
    with pytest.raises(TooManyAttempts):
        asyncio.run(pace.attempt("full", right))
    assert asyncio.run(pace.attempt("other", right)) == "admin"
    clock.now += LONGEST_PAUSE_SECONDS
    assert asyncio.run(pace.attempt("full", right)) == "admin"


def test_lanes_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenantry.control.dashboard.pace.LANES_MAX", 10)
    clock = Clock()
    pace = Pace(clock, clock.sleep)
    for number in range(10):
        asyncio.run(pace.attempt(f"lane-{number}", wrong))
    clock.now += FORGOTTEN_SECONDS + LONGEST_PAUSE_SECONDS
    asyncio.run(pace.attempt("one more", wrong))
    assert list(pace._lanes) == ["one more"]


def test_pages_say_what_happened_and_the_right_password_gets_in(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    pace = Pace(clock, clock.sleep)
    monkeypatch.setattr(access, "_pace", pace)
    client.logout()
    for _ in range(20):
        answer = client.post("/login", {"username": USERNAME, "password": "wrong"})
        assert answer.status_code == 401
    assert "The user name or the password is wrong" in answer.text
    assert "script-src 'self'" in answer.headers["Content-Security-Policy"]
    assert client.post("/login", {"username": USERNAME, "password": PASSWORD}).status_code == 302
    client.logout()
    client.post("/login", {"username": USERNAME, "password": "wrong"})
    (lane,) = pace._lanes
    fill(pace, lane)
    answer = client.post("/login", {"username": USERNAME, "password": "wrong"})
    assert answer.status_code == 429
    assert "Too many attempts at once" in answer.text


@contextmanager
def somebody(uid: int) -> Iterator[None]:
    """Make sockets that belong to another user."""
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)


@as_root
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_the_other_end_is_known_by_its_uid_while_it_is_open(family: socket.AddressFamily) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        target = server.getsockname()
        with somebody(STRANGER):
            connection = socket.socket(family)
        with connection:
            connection.connect(target if family == socket.AF_INET else (f"::ffff:{target[0]}", target[1]))
            accepted, client = server.accept()
            with accepted:
                assert peer_uid(client, target) == STRANGER
                assert peer_uid(client, (target[0], target[1] ^ 1)) is None
                connection.shutdown(socket.SHUT_WR)
                assert peer_uid(client, target) is None


def test_who_is_not_of_this_machine_has_no_uid() -> None:
    assert peer_uid(("192.0.2.1", 4711), ("192.0.2.2", 80)) is None
    assert peer_uid(("nonsense", 1), ("", 2)) is None


@as_root
def test_a_sites_process_that_floods_the_login_does_not_keep_the_administrator_out(control: Control) -> None:
    host, port = urlsplit(control.url).hostname or "", urlsplit(control.url).port or 0
    page = http.client.HTTPConnection(host, port, timeout=20)
    page.request("GET", "/login")
    form = page.getresponse()
    cookie = (form.getheader("Set-Cookie") or "").partition(";")[0]
    token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', form.read().decode())
    assert token is not None

    def send(connection: http.client.HTTPConnection, password: str) -> None:
        body = urlencode({"csrfmiddlewaretoken": token[1], "username": USERNAME, "password": password})
        headers = {"Cookie": cookie, "Content-Type": "application/x-www-form-urlencoded"}
        connection.request("POST", "/login", body, headers)

    hostile = [http.client.HTTPConnection(host, port, timeout=20) for _ in range(40)]
    try:
        for connection in hostile:
            with somebody(STRANGER):
                connection.connect()
            send(connection, "wrong")
        refused: list[int] = []
        deadline = time.monotonic() + 20
        while 429 not in refused and time.monotonic() < deadline:
            waiting = [connection for connection in hostile if connection.sock is not None]
            for connection in _readable(waiting):
                refused.append(connection.getresponse().status)
                connection.close()
        assert 429 in refused, "the flood fills its own lane"
        begin = time.monotonic()
        send(page, PASSWORD)
        assert page.getresponse().status == 302
        assert time.monotonic() - begin < 5
    finally:
        for connection in (*hostile, page):
            connection.close()


def _readable(connections: list[http.client.HTTPConnection]) -> list[http.client.HTTPConnection]:
    by_socket = {connection.sock: connection for connection in connections}
    return [by_socket[ready] for ready in select.select(list(by_socket), [], [], 1)[0]]
