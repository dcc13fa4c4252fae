"""What the agent puts in place reaches the disk: at once what counts from then on, a moment later the rest."""

import asyncio
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tenantry.node.actions import LinkHost, RemoveSite, SetFlag, Switch, UnlinkHost
from tenantry.node.config import Config, parse_config
from tenantry.node.effects import flushing
from tenantry.node.effects.files import set_link, write_file
from tenantry.node.effects.flushing import Flusher
from tenantry.node.effects.host import LocalHost
from tenantry.node.written import Written
from tenantry.sealing import generate_key
from tenantry.spec.names import Fqdn, Slug

BLOG = Slug("blog")


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The paths that were waited for, in their order."""
    paths: list[Path] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        paths.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    return paths


def test_contents_reach_the_disk_before_their_names(tmp_path: Path, synced: list[Path]) -> None:
    flusher = Flusher(tmp_path)
    site = tmp_path / "site"
    site.mkdir()
    write_file(site / "mode.maintenance", b"")
    set_link(site / "app.sock", "2.sock")
    assert synced == []
    flusher.note_files(site)
    flusher.note(tmp_path / "gone")
    flusher.flush()
    assert synced == [site / "mode.maintenance", tmp_path, site]
    flusher.flush()
    assert len(synced) == 3, "once is enough"


def test_hashes_of_what_was_written_are_flushed(tmp_path: Path, synced: list[Path]) -> None:
    flusher = Flusher(tmp_path)
    written = Written(tmp_path, flusher)
    written.remember(Slug("blog"), "blog.1.ini", b"text")
    flusher.flush()
    assert synced == [tmp_path / "blog.json", tmp_path]
    written.drop(Slug("blog"))
    flusher.flush()
    assert synced[2:] == [tmp_path]


def test_many_are_waited_for_in_one_go(tmp_path: Path, synced: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    whole: list[Path] = []
    monkeypatch.setattr(flushing, "sync_file_system", whole.append)
    flusher = Flusher(tmp_path)
    for number in range(1000):
        flusher.note_files(tmp_path / str(number))
    flusher.flush()
    assert (whole, synced) == ([tmp_path], [])


def test_what_could_not_be_flushed_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried: list[Path] = []

    def fail(path: Path) -> None:
        tried.append(path)
        raise OSError(5, "Input/output error", str(path))

    flusher = Flusher(tmp_path)
    flusher.note(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(flushing, "sync", fail)
        flusher.flush()
    assert "Input/output error" in caplog.text
    monkeypatch.setattr(flushing, "sync", tried.append)
    flusher.flush()
    assert tried == [tmp_path, tmp_path]


def test_nobody_waits_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Path] = []

    def slow(path: Path) -> None:
        time.sleep(0.3)
        done.append(path)

    monkeypatch.setattr(flushing, "sync", slow)

    async def body() -> float:
        flusher = Flusher(tmp_path)
        task = asyncio.create_task(flusher.run())
        flusher.note(tmp_path)
        longest, last = 0.0, time.perf_counter()
        while not done:
            await asyncio.sleep(0.001)
            longest, last = max(longest, time.perf_counter() - last), time.perf_counter()
        task.cancel()
        return longest

    assert asyncio.run(body()) < 0.2


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory short enough for a home, with the places of one site."""
    with tempfile.TemporaryDirectory(prefix="tn", dir="/tmp") as directory:
        for name in ("run/hosts", "run/vassals", "run/sites/blog", "logs/sites", "state/written"):
            (Path(directory) / name).mkdir(parents=True)
        yield Path(directory)


def test_flags_links_and_routes_are_flushed_after_visitors_see_them(home: Path, synced: list[Path]) -> None:
    host = LocalHost(config_of(home))
    run = home / "run"
    for action, expected in (
        (SetFlag(BLOG, "maintenance", True), {run / "sites/blog/mode.maintenance", run / "sites/blog"}),
        (Switch(BLOG, 2), {run / "sites/blog/mode.maintenance", run / "sites/blog"}),
        (LinkHost(BLOG, Fqdn("a.localhost")), {run / "hosts"}),
        (UnlinkHost(BLOG, Fqdn("a.localhost")), {run / "hosts"}),
        (RemoveSite(BLOG), {run / "sites"}),
    ):
        asyncio.run(host.apply(action, None))
        assert synced == [], "nobody waits"
        host.flusher.flush()
        assert set(synced) >= expected, action
        synced.clear()


def config_of(home: Path) -> Config:
    return parse_config(
        {
            "home": str(home),
            "node": "n",
            "dsn": "dbname=x",
            "platform_key": generate_key(),
            "bind": "127.0.0.1",
            "http_port": 8080,
            "uid_base": None,
            "nginx_group": None,
            "tenant_database": {"host": "/srv/pg", "port": 5432},
        }
    )
