"""Joining, up to the platform's answer: nothing half-made, and the token not used for what could be known before."""

import io
import os
import socket
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tenantry.embedded import nodes
from tenantry.embedded.__main__ import main
from tenantry.embedded.config import Config, choose_config, load_config, save_config
from tenantry.embedded.errors import HomeUnusable, JoinFailed
from tenantry.embedded.home import Home
from tenantry.embedded.invitation import parse_invitation
from tenantry.embedded.join import request_membership
from tenantry.embedded.nodes import (
    agent_document,
    control_document,
    count_sites,
    load_membership,
    parse_membership,
    read_known,
    save_membership,
)
from tenantry.embedded.options import TOKEN_VARIABLE, join_parser, up_parser
from tenantry.embedded.processes import find_processes
from tests.embedded.fake_platform import FakePlatform
from tests.embedded.test_interrupt import free_port


@pytest.fixture
def new(place: Path) -> Home:
    """A home that holds nothing but the programs, as bin/join leaves it."""
    home = Home(place / "new")
    home.root.mkdir()
    home.venv.symlink_to(Path(sys.prefix))
    return home


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "LOGIN_LIMIT", timedelta(seconds=1))


def join(home: Home, platform: FakePlatform, *more: str, token: str = "") -> int:
    port = [] if "--http-port" in more else ["--http-port", str(free_port())]
    return main(["join", platform.url, token or platform.token, "--home", str(home.root), *port, *more])


def written(home: Home) -> set[str]:
    return {entry.name for entry in home.root.iterdir()}


@contextmanager
def refused(match: str) -> Iterator[None]:
    with pytest.raises(JoinFailed, match=match):
        yield


def test_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, words in (
        (["http://10.0.0.1:8081", f"tnj_0123456789.{'a' * 32}"], "not encrypted"),
        (["https://10.0.0.1:8081", "tnj_0123456789"], "not a join token"),
        (["https://10.0.0.1:8081", f"tnj_0123456789.{'a' * 32}", "--name", "a b"], "not a node's name"),
    ):
        with pytest.raises(SystemExit) as leaving:
            join_parser("bin/join").parse_args(arguments)
        assert leaving.value.code == 2
        assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("status", "told", "words"),
    [
        (422, {"title": "Invalid", "errors": [{"field": "token", "message": "It was used."}]}, "It was used."),
        (409, {"title": "Conflict", "detail": "There is a node «n» already."}, "There is a node «n» already."),
        (404, b"<html>", "404 Not Found. Is there a Tenantry platform"),
        (201, {"node": "n"}, "its answer lacks something"),
        (201, b"[]", "its answer lacks something"),
    ],
)
def test_a_refusal_leaves_nothing_of_the_platform(
    new: Home, capsys: pytest.CaptureFixture[str], status: int, told: Any, words: str
) -> None:
    before = written(new)
    with FakePlatform(new.root.parent, answer=lambda document: (status, told)) as platform:
        assert join(new, platform, "--name", "n") == 1
        assert len(platform.requests) == 1
    assert words in capsys.readouterr().err
    assert written(new) - before <= {"lock", "cache"}
    assert find_processes(new, None) == []


def test_the_request_has_the_secret_without_the_fingerprint(new: Home) -> None:
    with FakePlatform(new.root.parent) as platform:
        membership = request_membership(parse_invitation(platform.url, platform.token), platform.ca_text, "n2")
        (path, document), *_ = platform.requests
    assert path == "/api/v1/nodes/join"
    assert document["token"] == "tnj_0123456789abcdef"
    assert document["name"] == membership.name == "n2"
    assert "p-2" not in repr(membership)


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_clock_that_is_an_hour_off(new: Home, hours: int) -> None:
    with FakePlatform(new.root.parent, clock=timedelta(hours=hours)) as platform:
        invitation = parse_invitation(platform.url, platform.token)
        assert request_membership(invitation, platform.ca_text, "n2").name == "n2"


def test_somebody_who_shows_the_platforms_certificate_without_its_key(
    new: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    with FakePlatform(new.root.parent, impostor=True) as platform:
        assert join(new, platform) == 1
        assert platform.requests == []
    assert "somebody may stand between" in capsys.readouterr().err
    assert not new.config.exists()


def test_a_token_of_another_platform(new: Home, capsys: pytest.CaptureFixture[str]) -> None:
    with FakePlatform(new.root.parent) as platform:
        assert join(new, platform, token=f"tnj_0123456789abcdef.{'0' * 32}") == 1
        assert platform.requests == []
    assert "not the platform that made this token" in capsys.readouterr().err


def test_an_answer_that_is_lost_says_what_to_do(new: Home) -> None:
    with FakePlatform(new.root.parent, answer=lambda document: (0, b"")) as platform:
        invitation = parse_invitation(platform.url, platform.token)
        with refused("may be used up.*tenantry node remove n2"):
            request_membership(invitation, platform.ca_text, "n2")


def test_a_port_that_is_taken_is_known_before_the_token_is_used(new: Home, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken, FakePlatform(new.root.parent) as platform:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert join(new, platform, "--http-port", str(taken.getsockname()[1])) == 1
        assert platform.requests == []
    assert "is in use by" in capsys.readouterr().err


def test_a_home_without_programs(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with FakePlatform(place) as platform:
        assert join(Home(place / "bare"), platform) == 1
        assert platform.requests == []
    assert "Run bin/join" in capsys.readouterr().err
    assert not (place / "bare").exists()


def test_a_platforms_home(new: Home, capsys: pytest.CaptureFixture[str]) -> None:
    save_config(new, Config(1, "127.0.0.1", 8080, 8081, None, "first"))
    with FakePlatform(new.root.parent) as platform:
        assert join(new, platform) == 1
        assert platform.requests == []
    assert "is a platform's home" in capsys.readouterr().err


def test_what_the_token_paid_for_is_kept_when_a_later_step_fails(new: Home, capsys: pytest.CaptureFixture[str]) -> None:
    with FakePlatform(new.root.parent) as platform:
        assert join(new, platform, "--name", "n2", "--control") == 1
        errors = capsys.readouterr().err
        assert "its database does not let it in: Connection refused" in errors
        assert f"up --home {new.root}" in errors
        membership = load_membership(new)
        assert membership is not None
        assert membership.answer["agent"]["node_key"] == "a-node-key"
        config = load_config(new)
        assert config is not None
        assert (config.role, config.node, config.with_control) == ("node", "n2", False)
        assert find_processes(new, config) == []
        for name in ("membership.json", "agent.json"):
            assert (new.secrets / name).stat().st_mode & 0o777 == 0o600

        # Again: this home is a node already.
        assert join(new, platform) == 0
        assert "is the node n2 of" in capsys.readouterr().out
        assert len(platform.requests) == 1

        # A crash between the two files: the answer is used, not another token.
        new.config.unlink()
        for made_later in ("data", "releases"):
            (new.root / made_later).rmdir()
        assert join(new, platform) == 1
        assert len(platform.requests) == 1
        again = load_config(new)
        assert again is not None
        assert (again.role, again.node, again.uid_base) == ("node", "n2", config.uid_base)


def test_a_node_of_another_platform(new: Home, capsys: pytest.CaptureFixture[str]) -> None:
    with FakePlatform(new.root.parent) as first:
        assert join(new, first, "--name", "n2") == 1
    capsys.readouterr()
    with FakePlatform(new.root.parent) as second:
        assert join(new, second) == 1
        assert second.requests == []
    assert "is the node n2 of another platform" in capsys.readouterr().err


def test_a_nodes_home_takes_no_cluster_options(home: Home) -> None:
    save_config(home, Config(1, "127.0.0.1", 8080, 8081, None, "n2", role="node", platform_url="https://10.0.0.1:8081"))
    with pytest.raises(HomeUnusable, match=r"is the node n2 of https://10\.0\.0\.1:8081"):
        choose_config(home, up_parser("bin/up").parse_args(["--cluster-address", "10.0.0.2"]))
    assert choose_config(home, up_parser("bin/up").parse_args([])) == load_config(home)


def test_the_agents_file(home: Home) -> None:
    config = Config(1, "0.0.0.0", 80, 8081, None, "n2", role="node")
    with FakePlatform(home.root.parent) as platform:
        answer = platform.joined("n2")
        membership = parse_membership(platform.url, platform.ca_text, answer)
    save_membership(home, membership)
    assert load_membership(home) == membership
    document = agent_document(home, config, membership)
    ca = str(home.etc / "ca.pem")
    assert f"sslrootcert={ca}" in document["dsn"]
    assert "sslmode=verify-full" in document["dsn"]
    assert document["platform_key"] == "a-node-key"
    assert (document["node_token"], document["control_url"]) == ("tnn_a-token", answer["control_url"])
    assert document["tenant_database"] == {"host": "127.0.0.1", "port": 1, "ca": ca}
    assert document["redis"] == {"host": "127.0.0.1", "port": 2, "ca": ca}
    assert (document["bind"], document["http_port"], document["artifact_directory"]) == ("0.0.0.0", 80, None)


def test_control_on_a_node(home: Home) -> None:
    config = Config(1, "127.0.0.1", 80, 8081, None, "n2", role="node", with_control=True)
    control = {
        "platform_key": "k",
        "secret_key": "s",
        "database": {"name": "tenantry", "user": "tenantry_control", "password": "p"},
    }
    with FakePlatform(home.root.parent) as platform:
        answer = platform.joined("n2", control=control)
        document = control_document(home, config, parse_membership(platform.url, platform.ca_text, answer))
    place = {"host": "127.0.0.1", "port": 1}
    assert document["database"] == {**place, **control["database"]}
    assert (document["platform_key"], document["secret_key"]) == ("k", "s")
    assert document["cluster"]["gateway_url"] == answer["control_url"]
    assert document["control_url"] == "http://127.0.0.1:8081"


def test_what_a_node_serves_is_read_from_its_disk(home: Home) -> None:
    assert count_sites(home) == (0, [])
    assert read_known(home) is None
    (home.root / "state" / "sites").mkdir(parents=True)
    (home.root / "state" / "head.json").write_text('{"version": 1, "epoch": "e", "revision": 7}')
    for slug in ("blog", "shop", "stale"):
        (home.root / "state" / "sites" / f"{slug}.json").write_text("{}")
    for slug in ("blog", "stale"):
        (home.run / "sites" / slug).mkdir(parents=True)
        (home.run / "sites" / slug / "app.sock").symlink_to("1.sock")
    (home.run / "sites" / "stale" / "1.sock").touch()
    with socket.socket(socket.AF_UNIX) as serving:
        serving.bind(str(home.run / "sites" / "blog" / "1.sock"))
        assert count_sites(home) == (3, ["blog", "shop", "stale"])
        serving.listen()
        assert count_sites(home) == (3, ["shop", "stale"])
        (home.root / "state" / "sites" / "shop.json").write_text('{"generation": 3, "shift": 2}')
        shop = home.run / "sites" / "shop"
        shop.mkdir()
        for name, target in (("app.sock", "../../wake.sock"), ("serving", "3.sock")):
            (shop / name).symlink_to(target)
        for generation in (3, 5):
            (shop / f"vassal.{generation}.ini").touch()
        assert count_sites(home) == (3, ["shop", "stale"]), "what a visitor would wake is not what is wanted"
        (shop / "serving").unlink()
        (shop / "serving").symlink_to("5.sock")
        assert count_sites(home) == (3, ["stale"]), "who sleeps is served"
    assert read_known(home) == ("e", 7)


def test_options_of_join_have_defaults() -> None:
    options: Namespace = join_parser("bin/join").parse_args(["https://10.0.0.1", f"tnj_0123456789.{'a' * 32}"])
    assert (options.name, options.http_port, options.bind, options.control, options.detach) == (
        None,
        None,
        None,
        False,
        False,
    )


def test_a_token_need_not_be_among_the_arguments(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every user of the machine can read those."""
    token = f"tnj_0123456789.{'a' * 32}"
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{token}\nmore"))
    parser = join_parser("bin/join")
    assert parser.parse_args(["https://10.0.0.1", "-"]).token == token
    monkeypatch.setenv(TOKEN_VARIABLE, token)
    assert parser.parse_args(["https://10.0.0.1", "-"]).token == token
    assert TOKEN_VARIABLE not in os.environ, "what is started later would have it"
    with pytest.raises(SystemExit):
        parser.parse_args(["https://10.0.0.1", "-"])
    assert "not a join token" in capsys.readouterr().err
