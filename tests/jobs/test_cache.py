"""One Redis for all sites: a site reaches its own keys, and neither reads, lists, changes nor hears another's."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from tenantry.control.data.cache import CacheServer

Client = redis.Redis


@pytest.fixture
def connect(cache_server: CacheServer) -> Iterator[Callable[[str], Client]]:
    opened: list[Client] = []

    def connect(name: str) -> Client:
        cache_server.provision_user(f"site_{name}", name, f"password of {name}")
        access = cache_server.access(f"site_{name}", name, f"password of {name}")
        client = redis.Redis.from_url(access.redis_url, decode_responses=True)
        opened.append(client)
        return client

    yield connect
    for client in opened:
        client.close()
    for name in ("alpha", "beta", "alpha-2"):
        cache_server.drop_user(f"site_{name}", name)


def test_a_site_uses_its_own_keys(connect: Callable[[str], Client]) -> None:
    alpha = connect("alpha")
    alpha.set("alpha:1:page", "hello", ex=60)
    alpha.incrby("alpha:1:count", 2)
    with alpha.pipeline(transaction=True) as pipe:
        pipe.mget("alpha:1:page", "alpha:1:count")
        pipe.expire("alpha:1:page", 10)
        assert pipe.execute() == [["hello", "2"], True]
    with alpha.lock("alpha:1:lock", timeout=5):
        assert alpha.exists("alpha:1:lock")
    assert not alpha.exists("alpha:1:lock"), "the lock's release is a script, and must work"


FORBIDDEN = [
    ("GET", "beta:1:secret"),
    ("SET", "beta:1:secret", "stolen"),
    ("DEL", "beta:1:secret"),
    ("MGET", "alpha:1:x", "beta:1:secret"),
    ("RENAME", "beta:1:secret", "alpha:1:secret"),
    ("COPY", "beta:1:secret", "alpha:1:secret"),
    ("GET", "alpha-2:1:x"),
    ("GET", "unprefixed"),
    ("EVAL", "return redis.call('get', KEYS[1])", "1", "beta:1:secret"),
    ("EVAL", "return redis.call('get', 'beta:1:secret')", "0"),
    ("EVAL", "return redis.call('keys', '*')", "0"),
    ("SORT", "alpha:1:list", "BY", "nosort", "GET", "beta:1:secret"),
    ("KEYS", "*"),
    ("KEYS", "alpha:*"),
    ("SCAN", "0"),
    ("RANDOMKEY",),
    ("DBSIZE",),
    ("FLUSHDB",),
    ("FLUSHALL",),
    ("CONFIG", "GET", "*"),
    ("SELECT", "1"),
    ("SWAPDB", "0", "1"),
    ("FUNCTION", "FLUSH"),
    ("FUNCTION", "LOAD", "#!lua name=x\nredis.register_function('x', function() return 1 end)"),
    ("MOVE", "alpha:1:x", "1"),
    ("MONITOR",),
    ("INFO",),
    ("SLOWLOG", "GET"),
    ("CLIENT", "LIST"),
    ("CLIENT", "KILL", "ID", "1"),
    ("CLIENT", "TRACKING", "on", "BCAST"),
    ("PUBSUB", "CHANNELS"),
    ("SUBSCRIBE", "beta:events"),
    ("PSUBSCRIBE", "*"),
    ("PUBLISH", "beta:events", "x"),
    ("ACL", "LIST"),
    ("ACL", "SETUSER", "site_alpha", "~*"),
    ("SCRIPT", "FLUSH"),
    ("SCRIPT", "KILL"),
    ("FUNCTION", "LIST"),
    ("SAVE",),
    ("SHUTDOWN",),
    ("REPLICAOF", "NO", "ONE"),
    ("MIGRATE", "127.0.0.1", "1", "alpha:1:x", "0", "1"),
]


@pytest.mark.parametrize("command", FORBIDDEN, ids=lambda command: " ".join(command)[:40])
def test_a_site_is_refused(connect: Callable[[str], Client], command: tuple[str, ...]) -> None:
    alpha, beta = connect("alpha"), connect("beta")
    beta.set("beta:1:secret", "of beta")
    with pytest.raises(redis.ResponseError, match=r"permission|ACL failure|can't (run|access)"):
        alpha.execute_command(*command)
    assert beta.get("beta:1:secret") == "of beta"


def test_a_wrong_password_and_no_password_are_refused(
    cache_server: CacheServer, connect: Callable[[str], Client]
) -> None:
    connect("alpha")
    with pytest.raises(redis.AuthenticationError):
        redis.Redis.from_url(cache_server.access("site_alpha", "alpha", "wrong").redis_url).ping()
    with pytest.raises(redis.AuthenticationError):
        redis.Redis(unix_socket_path=cache_server.socket).ping()


def test_dropping_removes_keys_and_login_of_that_site_alone(
    cache_server: CacheServer, connect: Callable[[str], Client]
) -> None:
    alpha, other = connect("alpha"), connect("alpha-2")
    for number in range(3000):
        alpha.set(f"alpha:1:{number}", "x")
    other.set("alpha-2:1:x", "kept")
    cache_server.drop_user("site_alpha", "alpha")
    cache_server.drop_user("site_alpha", "alpha")
    with pytest.raises(redis.RedisError):
        alpha.get("alpha:1:1")
    assert connect("alpha").exists(*(f"alpha:1:{number}" for number in range(3000))) == 0
    assert other.get("alpha-2:1:x") == "kept"


def test_users_are_saved_for_the_next_start(cache_server: CacheServer, connect: Callable[[str], Client]) -> None:
    connect("alpha")
    saved = (Path(cache_server.socket).parent / "users.acl").read_text()
    assert "\nuser site_alpha on " in f"\n{saved}"
    assert "password of alpha" not in saved


def test_a_script_without_end_is_ended(connect: Callable[[str], Client], cache_server: CacheServer) -> None:
    alpha, beta = connect("alpha"), connect("beta")
    assert cache_server.end_stuck_script() is None
    with redis.Redis(unix_socket_path=cache_server.socket, username="admin", password="administrates") as admin:
        admin.config_set("lua-time-limit", 50)
    ended: list[str] = []

    def run() -> None:
        try:
            alpha.eval("while true do end", 0)
        except redis.RedisError as error:
            ended.append(str(error))

    script = threading.Thread(target=run)
    script.start()
    done = None
    deadline = time.monotonic() + 10
    while done is None and time.monotonic() < deadline:
        done = cache_server.end_stuck_script()
    script.join(10)
    assert done is not None
    assert "killed" in done
    assert ended
    assert beta.ping()


def test_who_takes_most_of_the_connections_loses_them_and_nobody_else(
    cache_server: CacheServer, connect: Callable[[str], Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    alpha, beta = connect("alpha"), connect("beta")
    quiet = beta.client_id()
    assert cache_server.end_connection_hoarders() == []
    monkeypatch.setattr("tenantry.control.data.cache.CALM_CLIENTS", 30)
    monkeypatch.setattr("tenantry.control.data.cache.SITE_CLIENTS", 20)
    known = [alpha.connection_pool.make_connection() for _ in range(40)]
    strangers = [socket.socket(socket.AF_UNIX) for _ in range(40)]
    try:
        for connection in known:
            connection.connect()
        for stranger in strangers:
            stranger.connect(cache_server.socket)
        assert sorted(cache_server.end_connection_hoarders()) == ["default", "site_alpha"]
        assert beta.client_id() == quiet
        assert alpha.ping(), "it may connect again"
        assert cache_server.end_connection_hoarders() == []
    finally:
        for connection in known:
            connection.disconnect()
        for stranger in strangers:
            stranger.close()
