"""`SiteCache` against a real Redis, as a user who may neither list keys nor flush."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from django_tenantry.cache import SiteCache

pytestmark = pytest.mark.usefixtures("empty_redis")


@pytest.fixture
def administrator(redis_server: Any) -> Iterator["redis.Redis[bytes]"]:
    with redis.Redis(unix_socket_path=str(redis_server.socket)) as client:
        yield client


@pytest.fixture
def empty_redis(administrator: "redis.Redis[bytes]") -> None:
    administrator.flushall()


@pytest.fixture
def open_cache(redis_server: Any) -> Iterator[Callable[..., SiteCache]]:
    opened = []

    def open_one(slug: str = "blog", **params: Any) -> SiteCache:
        cache = SiteCache(redis_server.address(slug), {"KEY_PREFIX": slug, **params})
        opened.append(cache)
        return cache

    yield open_one
    for cache in opened:
        for pool in cache._cache._pools.values():
            pool.disconnect()


def test_every_operation_of_django_works_with_the_rights_of_a_site(open_cache: Callable[..., SiteCache]) -> None:
    cache = open_cache()
    cache.set("a", {"x": 1})
    assert cache.get("a") == {"x": 1}
    assert cache.add("a", 2) is False
    assert cache.add("b", 2, timeout=30) is True
    assert cache.incr("b", 3) == 5
    assert cache.get_or_set("c", lambda: 7) == 7
    assert cache.touch("c", 60) is True
    assert cache.touch("c", None) is True
    cache.set_many({"d": 1, "e": 2}, timeout=60)
    assert cache.get_many(["d", "e", "absent"]) == {"d": 1, "e": 2}
    assert cache.has_key("d")
    assert cache.delete("d") is True
    cache.delete_many(["b", "e"])
    cache.incr_version("c")
    assert cache.get("c", version=2) == 7
    assert cache.get("e") is None


def test_clear_leaves_the_entries_of_other_sites(open_cache: Callable[..., SiteCache]) -> None:
    blog, shop = open_cache("blog"), open_cache("shop")
    blog.set("a", 1)
    shop.set("a", 2)
    assert blog.clear() is True
    assert blog.get("a") is None
    assert shop.get("a") == 2
    blog.set("a", 3)
    assert blog.get("a") == 3


def test_clear_reaches_another_process_with_its_next_request(open_cache: Callable[..., SiteCache]) -> None:
    here, there = open_cache(), open_cache()
    here.set("a", 1)
    assert there.get("a") == 1
    here.clear()
    there.close()  # what Django does when a request is finished
    assert there.get("a") is None


def test_clear_reaches_a_process_without_requests_after_a_second(
    open_cache: Callable[..., SiteCache], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = open_cache(), open_cache()
    here.set("a", 1)
    assert there.get("a") == 1
    here.clear()
    later = there._generation_read_at + 1.01
    monkeypatch.setattr("django_tenantry.cache.time.monotonic", lambda: later)
    assert there.get("a") is None


def test_losing_the_generation_never_brings_back_what_was_cleared(
    open_cache: Callable[..., SiteCache], administrator: "redis.Redis[bytes]"
) -> None:
    cache = open_cache()
    cache.set("a", "first", timeout=None)
    cache.clear()
    administrator.delete("blog:generation")  # evicted
    cache.close()
    assert cache.get("a") is None


def test_two_processes_that_begin_together_agree_on_the_generation(open_cache: Callable[..., SiteCache]) -> None:
    caches = [open_cache() for _ in range(3)]
    assert len({cache.make_key("a") for cache in caches}) == 1


def test_every_key_begins_with_the_site_and_carries_the_version(
    open_cache: Callable[..., SiteCache], administrator: "redis.Redis[bytes]"
) -> None:
    cache = open_cache(VERSION=4)
    cache.set("a", 1)
    keys = {key.decode() for key in administrator.scan_iter()}
    generation = administrator.get("blog:generation")
    assert isinstance(generation, bytes)
    assert keys == {"blog:generation", f"blog:{generation.decode()}:4:a"}


def test_a_site_can_neither_read_nor_list_nor_flush_another(redis_server: Any) -> None:
    with redis.Redis.from_url(redis_server.address("blog")) as client:
        for forbidden in (
            lambda: client.get("shop:generation"),
            lambda: client.set("shop:generation", "x"),
            client.keys,
            client.flushdb,
            lambda: next(client.scan_iter()),
        ):
            with pytest.raises(redis.exceptions.NoPermissionError):
                forbidden()


def test_without_a_prefix_it_refuses_to_be_made() -> None:
    with pytest.raises(ValueError, match="KEY_PREFIX"):
        SiteCache("unix:///nowhere", {})
