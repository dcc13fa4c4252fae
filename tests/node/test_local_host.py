"""This machine as the reconciler sees it: how often its sockets are read, what an action answers when it cannot be."""

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from node_lab import make_spec

from tenantry.node.actions import Action, AwaitReady, PrepareSite, RemoveGeneration, SetLink, Switch, WriteVassal
from tenantry.node.config import Config, parse_config
from tenantry.node.effects import host as host_module
from tenantry.node.effects.files import remove_stale
from tenantry.node.effects.host import LocalHost
from tenantry.node.errors import NodeError, NotReady
from tenantry.node.sockets import read_sockets
from tenantry.sealing import generate_key
from tenantry.spec.names import Slug

BLOG = Slug("blog")
UNUSED = 7  # a generation that nothing serves


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory short enough for a home, with the places of one site."""
    directory = Path(tempfile.mkdtemp(prefix="tn", dir="/tmp"))
    for name in ("run/hosts", "run/vassals", "run/sites/blog", "logs/sites"):
        (directory / name).mkdir(parents=True)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def host(home: Path, monkeypatch: pytest.MonkeyPatch) -> LocalHost:
    """No reading of the table gets too old during a test."""
    monkeypatch.setattr(host_module, "SOCKETS_FRESH_SECONDS", 3600.0)
    return LocalHost(make_config(home), ready_seconds=0.01)


def make_config(home: Path) -> Config:
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


def listening_after(host: LocalHost, home: Path, action: Action) -> frozenset[int]:
    """Return who is seen to listen after `action`, when generation 2 came between the last look and it."""
    assert host.observe(BLOG, None).listening == frozenset()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(home / "run/sites/blog/2.sock"))
        listener.listen()
        with contextlib.suppress(NodeError):  # no emperor runs here: some actions fail
            asyncio.run(host.apply(action, make_spec(UNUSED)))
        return host.observe(BLOG, None).listening


@pytest.mark.parametrize(
    "action", [WriteVassal(BLOG, UNUSED), AwaitReady(BLOG, UNUSED), RemoveGeneration(BLOG, UNUSED)], ids=str
)
def test_sockets_are_read_again_after_what_changes_them_also_when_it_failed(
    host: LocalHost, home: Path, action: Action
) -> None:
    assert listening_after(host, home, action) == {2}


@pytest.mark.parametrize("action", [SetLink(BLOG, "static", "/srv"), Switch(BLOG, UNUSED)], ids=str)
def test_other_actions_do_not_read_the_machines_sockets_again(host: LocalHost, home: Path, action: Action) -> None:
    assert listening_after(host, home, action) == frozenset()


def test_a_site_without_a_user_id_of_its_own_is_never_started(home: Path) -> None:
    host = LocalHost(replace(make_config(home), uid_base=1_900_000_000))
    spec = replace(make_spec(), number=80_000)
    with pytest.raises(NotReady, match="no user id for site number 80000"):
        asyncio.run(host.apply(PrepareSite(BLOG), spec))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts a process as somebody else")
def test_a_socket_that_a_tenant_binds_under_another_sites_path_is_nobodys(home: Path) -> None:
    site = home / "run/sites/blog"
    # It visits itself: a connection to a path of this name must not keep the neighbour awake.
    listen = "import os, socket, sys; s = socket.socket(socket.AF_UNIX); os.unlink(sys.argv[1]); s.bind(sys.argv[1]); "
    listen += (
        "s.listen(); c = socket.socket(socket.AF_UNIX); c.connect(sys.argv[1]); print(flush=True); sys.stdin.read()"
    )
    with socket.socket(socket.AF_UNIX) as own:
        own.bind(str(site / "1.sock"))
        own.listen()
        visitor = socket.socket(socket.AF_UNIX)
        visitor.connect(str(site / "1.sock"))
        site.chmod(0o777)  # in the tenant's own mount namespace it is a directory of the tenant's
        home.chmod(0o755)
        tenant = subprocess.Popen(
            [sys.executable, "-c", listen, str(site / "1.sock")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            user=65_534,
        )
        assert tenant.stdin is not None
        assert tenant.stdout is not None
        try:
            assert tenant.stdout.readline() == b"\n"
            found = read_sockets(home / "run/sites")
        finally:
            tenant.stdin.close()
            tenant.stdout.close()
            tenant.wait(timeout=10)
            visitor.close()
    assert (found.listening, found.connections) == ({BLOG: {1}}, {BLOG: {1: 1}})


def test_what_standby_says_is_heard_whoever_reads_the_directories_before(host: LocalHost, home: Path) -> None:
    """A full answer makes the agent read everything: that must not take the news away from who reports it."""
    (home / "run" / "failed").mkdir(parents=True)
    (home / "run" / "failed" / "blog").write_text("generation 1 keeps ending")
    host.scan()
    assert host.changed_wakings() == {"blog"}
    assert host.changed_wakings() == frozenset()


def test_an_agent_that_starts_leaves_what_another_process_is_writing(home: Path) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    for number in (os.getppid(), dead.pid):
        (home / f".app.sock.{number}.new").symlink_to("7.sock")
    remove_stale(home)
    assert [path.name for path in home.glob(".app*")] == [f".app.sock.{os.getppid()}.new"]
