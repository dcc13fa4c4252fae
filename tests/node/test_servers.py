"""Which of several database servers the agent uses, and how often it knocks at them."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import pytest
from node_lab import Postgres, free_port

from tenantry.node.errors import StoreUnavailable
from tenantry.node.gate import ConnectGate
from tenantry.node.servers import Servers, Timeline, split_servers, watch_for_promotions
from tenantry.node.store import Line, Store


class CountingGate(ConnectGate):
    """Lets everybody through and counts."""

    turns = 0

    async def turn(self) -> None:
        self.turns += 1


@contextlib.contextmanager
def closed_ports(count: int) -> Iterator[list[int]]:
    """Ports that refuse: bound, so that nobody else gets them, and not listened on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        yield [int(one.getsockname()[1]) for one in sockets]


def test_each_server_gets_its_own_address_and_port() -> None:
    each = split_servers("host=a,b hostaddr=10.0.0.1,10.0.0.2 port=1,2 dbname=d sslmode=verify-full")
    common = {"dbname": "d", "sslmode": "verify-full", "target_session_attrs": "read-write"}
    assert each == [
        common | {"host": "a", "hostaddr": "10.0.0.1", "port": "1"},
        common | {"host": "b", "hostaddr": "10.0.0.2", "port": "2"},
    ]
    assert [one["port"] for one in split_servers("host=a,b port=7")] == ["7", "7"]
    assert split_servers("host=a port=7") == [{"host": "a", "port": "7"}]
    assert len(split_servers("host=a,b,c port=1,2")) == 1, "libpq refuses it, and says why"


def test_every_server_of_a_connection_string_counts_as_an_attempt() -> None:
    async def connect(dsn: str) -> int:
        gate = CountingGate()
        line = Line(dsn, gate)
        with pytest.raises(StoreUnavailable, match=r"refused.*; .*refused"):
            await line.execute("SELECT 1")
        return gate.turns

    with closed_ports(2) as (one, two):
        dsn = f"host=127.0.0.1,127.0.0.1 port={one},{two} user=nobody dbname=none"
        assert asyncio.run(connect(dsn)) == 2


def test_every_address_of_a_name_counts_as_an_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    async def connect() -> int:
        gate = CountingGate()

        async def resolve(host: str, port: int, **_: object) -> list[object]:
            assert host == "db.example.test"
            return [(2, 1, 6, "", (address, port)) for address in ("127.0.0.1", "127.0.0.2")]

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
        with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1.*127\.0\.0\.2"):
            await Line(f"host=db.example.test port={free_port()} user=nobody dbname=none", gate).execute("SELECT 1")
        return gate.turns

    assert asyncio.run(connect()) == 2


def test_all_lines_use_the_server_that_let_one_in(postgres: Postgres) -> None:
    async def connect() -> None:
        gate = CountingGate()
        servers = Servers(f"host=127.0.0.1,{postgres.directory} port={refusing},5432 user=super dbname=postgres")
        lines = [Line(servers, gate) for _ in range(2)]
        assert [await line.execute("SELECT 1") for line in lines] == [1, 1]
        assert gate.turns == 3, "the second one goes where the first got in"
        servers.use(0)
        with pytest.raises(StoreUnavailable, match="another server"):
            await lines[0].execute("SELECT 1")
        assert await lines[0].execute("SELECT 1") == 1, "it tried the other, which refuses"
        assert servers.current == 1
        for line in lines:
            line.drop()

    with closed_ports(1) as (refusing,):
        asyncio.run(connect())


def test_a_server_says_where_it_stands(postgres: Postgres) -> None:
    async def ask() -> Timeline:
        store = Store(Line(postgres.dsn("postgres")))
        try:
            return await store.timeline()
        finally:
            store.close()

    system, timeline = asyncio.run(ask())
    assert system.isdigit()
    assert timeline == "00000001"


@pytest.mark.parametrize(
    ("other", "followed"),
    [
        (Timeline("7", "0000000A"), True),
        (Timeline("7", "00000009"), False),
        (Timeline("7", "00000008"), False),
        (Timeline("8", "0000000A"), False),
        (None, False),
    ],
)
def test_a_server_that_was_promoted_later_is_followed(other: Timeline | None, followed: bool) -> None:
    servers = Servers("host=a,b")
    waits: list[float] = []

    class EnoughError(Exception):
        pass

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            raise EnoughError

    async def own() -> Timeline:
        return Timeline("7", "00000009" if servers.current == 0 else "0000000A")

    async def its(number: int) -> Timeline:
        if number == 0:
            return Timeline("7", "00000009")
        if other is None:
            raise StoreUnavailable("a standby")
        return other

    with pytest.raises(EnoughError):
        asyncio.run(watch_for_promotions(servers, own, its, sleep=sleep, jitter=lambda: 0.0))
    assert servers.current == int(followed)
    assert waits == [10.0, 30.0, 30.0]


def test_with_one_server_there_is_nothing_to_watch() -> None:
    async def nobody(*_: int) -> Timeline:
        raise AssertionError("asked")

    asyncio.run(watch_for_promotions(Servers("host=a"), nobody, nobody))
