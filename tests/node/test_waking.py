"""Who wakes and who sleeps, where others change the same site in between. Without processes."""

import asyncio
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tenantry.node.config import Config, parse_config
from tenantry.node.effects.emperor import let_all_sleep
from tenantry.node.effects.files import set_link
from tenantry.node.layout import WAKE_HTTP_TARGET, WAKE_TARGET
from tenantry.node.standby import sleeping
from tenantry.node.standby.sleeping import Sleeper
from tenantry.node.standby.waking import Unwakeable, Waker
from tenantry.sealing import generate_key
from tenantry.spec.names import Slug

BLOG = Slug("blog")


@pytest.fixture
def config() -> Iterator[Config]:
    with tempfile.TemporaryDirectory(prefix="tnw", dir="/tmp") as home:
        yield make_config(home)


def make_config(home: str) -> Config:
    made = parse_config(
        {
            "home": home,
            "node": "n",
            "dsn": "dbname=none",
            "platform_key": generate_key(),
            "bind": "127.0.0.1",
            "http_port": 8080,
            "uid_base": None,
            "nginx_group": None,
            "tenant_database": {"host": "/run", "port": 5432},
            "redis_socket": None,
        }
    )
    for directory in (made.layout.vassals, made.layout.wake_failures, made.layout.site_logs):
        directory.mkdir(parents=True)
    return made


def park(config: Config, generation: int, *, led_to: str, slug: Slug = BLOG, link: str = "app.sock") -> Path:
    """Make a site on demand whose visitors are led to `led_to`; return its directory."""
    directory = config.layout.site(slug)
    directory.mkdir(parents=True, exist_ok=True)
    config.layout.parked(slug, generation).write_text("an ini")
    set_link(directory / "serving", f"{generation}.sock")
    set_link(directory / link, led_to)
    set_link(directory / "idle", "0")
    return directory


def test_who_wakes_what_the_agent_replaces_meanwhile_is_led_to_the_new_one(config: Config) -> None:
    async def body() -> None:
        waker = Waker(config, starts_at_once=4)
        park(config, 1, led_to=WAKE_TARGET)
        visitor = asyncio.create_task(waker.wake(BLOG))
        await asyncio.sleep(0.2)
        assert config.layout.vassal(BLOG, 1).exists(), "it is being started"
        directory = park(config, 2, led_to="2.sock")
        config.layout.vassal(BLOG, 1).unlink()
        config.layout.parked(BLOG, 1).unlink()
        assert (await visitor).socket == config.layout.socket(BLOG, 2)
        assert not list(config.layout.wake_failures.iterdir()), "nothing failed"
        assert os.readlink(directory / "app.sock") == "2.sock"

    asyncio.run(body())


def test_a_generation_that_failed_takes_no_other_with_it(config: Config) -> None:
    async def body() -> None:
        waker = Waker(config, starts_at_once=4)
        park(config, 1, led_to=WAKE_TARGET)
        config.layout.parked(BLOG, 1).unlink()
        for _ in range(2):
            with pytest.raises(Unwakeable):
                await waker.wake(BLOG)
        park(config, 2, led_to=WAKE_TARGET)
        visitor = asyncio.create_task(waker.wake(BLOG))
        await asyncio.sleep(0.2)
        assert config.layout.vassal(BLOG, 2).exists(), "it is being started, without waiting for the other's turn"
        visitor.cancel()
        assert waker.site(BLOG).waking is not None
        waker.site(BLOG).waking.cancel()  # type: ignore[union-attr]

    asyncio.run(body())


def test_a_process_on_its_way_out_is_not_taken_for_the_one_that_starts(config: Config) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65_536)
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        writer.close()

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async def body() -> None:
        waker = Waker(config, starts_at_once=4)
        park(config, 1, led_to=WAKE_TARGET)
        socket = config.layout.socket(BLOG, 1)
        async with await asyncio.start_unix_server(hang_up, socket):
            visitor = asyncio.create_task(waker.wake(BLOG))
            await asyncio.sleep(0.3)
            assert not visitor.done()
        socket.unlink(missing_ok=True)
        async with await asyncio.start_unix_server(answer, socket):
            assert (await visitor).socket == socket

    asyncio.run(body())


def test_when_an_emperor_begins_sites_sleep_whatever_they_speak(config: Config) -> None:
    for name, link in (("wsgi", "app.sock"), ("asgi", "app.http")):
        directory = park(config, 3, led_to="3.sock", slug=Slug(name), link=link)
        config.layout.vassal(Slug(name), 3).write_text("an ini")
        if link == "app.http":
            (directory / "engine.http").touch()
    let_all_sleep(config.layout)
    assert os.readlink(config.layout.site(Slug("wsgi")) / "app.sock") == WAKE_TARGET
    assert os.readlink(config.layout.site(Slug("asgi")) / "app.http") == WAKE_HTTP_TARGET
    assert not (config.layout.site(Slug("asgi")) / "app.sock").is_symlink()
    assert not list(config.layout.vassals.iterdir())


def test_a_process_that_was_left_running_behind_a_sleeping_site_is_ended(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = park(config, 1, led_to=WAKE_TARGET)
    os.utime(directory / "app.sock", (0, 0), follow_symlinks=False)
    config.layout.vassal(BLOG, 1).write_text("an ini")
    sleeper = Sleeper(config, Waker(config, starts_at_once=4))
    assert not sleeper._idle(), "somebody may be starting it"
    monkeypatch.setattr(sleeping, "LEFT_SECONDS", 0.0)
    time.sleep(0.02)
    assert [found.slug for found in sleeper._idle()] == [BLOG]


def test_nobody_stays_awake_longer_than_an_hour_at_once(config: Config) -> None:
    directory = park(config, 1, led_to="1.sock")
    os.utime(directory / "app.sock", (0, 0), follow_symlinks=False)
    os.mkfifo(directory / "activity")
    os.utime(directory / "activity", (2**32, 2**32))
    now = time.time()
    assert sleeping._last(directory, now) == pytest.approx(now + 3600)
    assert now + 3601 - sleeping._last(directory, now + 3601) == pytest.approx(1, abs=0.1)
