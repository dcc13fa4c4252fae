"""Ports, the node's name and user ids: chosen at the first up, kept since."""

import os
import socket
from argparse import Namespace
from pathlib import Path

import pytest

from tenantry.embedded import config as config_module
from tenantry.embedded.config import (
    Config,
    check_ports,
    choose_config,
    choose_uid_base,
    load_config,
    node_name,
    save_config,
)
from tenantry.embedded.errors import HomeUnusable, PortTaken
from tenantry.embedded.home import Home
from tenantry.embedded.options import up_parser
from tests.embedded.test_interrupt import free_port


def options(*arguments: str) -> Namespace:
    return up_parser("bin/up").parse_args(list(arguments))


def test_defaults(home: Home) -> None:
    config = choose_config(home, options())
    assert (config.bind, config.http_port, config.control_port) == ("127.0.0.1", 8080, 8081)
    assert not home.config.exists()


def test_what_was_chosen_is_kept(home: Home) -> None:
    first = choose_config(home, options("--http-port", "9000", "--bind", "0.0.0.0"))
    save_config(home, first)
    assert load_config(home) == first
    assert choose_config(home, options()) == first


def test_a_new_http_port_moves_the_control_port_along(home: Home) -> None:
    save_config(home, choose_config(home, options("--http-port", "9000")))
    assert choose_config(home, options("--http-port", "9100")).control_port == 9101


@pytest.mark.parametrize(("http_port", "control_port"), [(80, 8081), (1024, 1025), (65535, 8081)])
def test_the_control_port_beside_it(home: Home, http_port: int, control_port: int) -> None:
    assert choose_config(home, options("--http-port", str(http_port))).control_port == control_port


def test_two_services_on_one_port(home: Home) -> None:
    with pytest.raises(HomeUnusable, match="both 9000"):
        choose_config(home, options("--http-port", "9000", "--control-port", "9000"))


@pytest.mark.parametrize("text", ["[]", "{", '{"version": 2}', '{"version": 1}'])
def test_a_damaged_or_foreign_file_is_said_to_be_one(home: Home, text: str) -> None:
    home.config.write_text(text)
    with pytest.raises(HomeUnusable, match=r"config\.json"):
        load_config(home)


def test_a_newer_key_does_not_hurt(home: Home) -> None:
    save_config(home, choose_config(home, options()))
    home.config.write_text(home.config.read_text().replace("{", '{"from_the_future": 1,', 1))
    assert load_config(home) == choose_config(home, options())


@pytest.mark.parametrize("text", ["0", "65536", "-1", "http", "80 "])
def test_a_port_that_is_none(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    if text == "80 ":
        assert options("--http-port", text).http_port == 80
        return
    with pytest.raises(SystemExit) as leaving:
        options("--http-port", text)
    assert leaving.value.code == 2
    assert "--http-port" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["localhost", "::1", "1.2.3", "127.0.0.1;"])
def test_an_address_that_is_none(text: str) -> None:
    with pytest.raises(SystemExit) as leaving:
        options("--bind", text)
    assert leaving.value.code == 2


def test_a_taken_port_names_its_holder_and_the_way_out() -> None:
    with socket.socket() as holder, socket.socket() as other:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        other.bind(("127.0.0.1", 0))
        port, free = holder.getsockname()[1], other.getsockname()[1]
        other.close()
        config = Config(1, "127.0.0.1", port, free, None, "node")
        with pytest.raises(PortTaken, match=rf"Port {port}.*pid {os.getpid()}\).*--http-port \d+"):
            check_ports(config)
        with pytest.raises(PortTaken, match=rf"Port {port}, wanted for the dashboard.*--control-port"):
            check_ports(Config(1, "127.0.0.1", free, port, None, "node"))


def test_free_ports_pass() -> None:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        ports = one.getsockname()[1], other.getsockname()[1]
    check_ports(Config(1, "127.0.0.1", *ports, None, "node"))


def test_an_ordinary_user_may_not_have_port_80(as_somebody: None) -> None:
    allowed = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    if allowed <= 80:
        pytest.skip("this machine lets everybody listen on port 80")
    with pytest.raises(PortTaken, match="1024"):
        check_ports(Config(1, "127.0.0.1", 80, 18080, None, "node"))


@pytest.mark.parametrize(
    ("host", "name"),
    [("web-1.example.com", "web-1"), ("Größe", "gr-e"), ("---", "node"), ("x" * 70, "x" * 40), ("a_b", "a-b")],
)
def test_the_nodes_name_is_a_slug(monkeypatch: pytest.MonkeyPatch, host: str, name: str) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: host)
    assert node_name() == name


def test_each_home_has_a_range_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(config_module, "_is_mapped", lambda text, first, count: True)
    bases = {choose_uid_base(Path(f"/srv/{name}")) for name in "abcdefgh"}
    assert len(bases) == 8
    assert all(base and base >= 1_879_048_192 and base + 100_000 <= 2_147_483_647 for base in bases)
    assert choose_uid_base(Path("/srv/a")) == choose_uid_base(Path("/srv/a"))


def test_an_ordinary_user_is_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert choose_uid_base(Path("/srv/a")) is None


@pytest.mark.parametrize(
    ("text", "first", "count", "answer"),
    [
        ("         0          0 4294967295\n", 1_900_000_000, 100_000, True),
        ("0 100000 65536\n", 1_900_000_000, 100_000, False),
        ("0 100000 65536\n", 20_000, 25_000, True),
        ("0 1000 1\n1 100000 65536\n", 20_000, 25_000, True),
        ("0 1000 1\n", 20_000, 25_000, False),
        ("0 0 30000\n", 20_000, 25_000, False),
    ],
)
def test_which_ids_a_container_has(text: str, first: int, count: int, answer: bool) -> None:
    assert config_module._is_mapped(text, first, count) is answer


@pytest.mark.parametrize("text", ["127.0.0.1", "0.0.0.0", "224.0.0.1", "localhost", "10.0.0.1:5432", ""])
def test_a_cluster_address_that_nobody_else_could_use(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        options("--cluster-address", text)
    assert leaving.value.code == 2
    assert "--cluster-address" in capsys.readouterr().err


def test_the_cluster_address_is_remembered_until_it_is_ended(home: Home) -> None:
    assert choose_config(home, options()).gateway_url is None
    chosen = choose_config(home, options("--cluster-address", "127.0.0.2", "--cluster-postgres-port", "5433"))
    save_config(home, chosen)
    assert choose_config(home, options()) == chosen
    assert (chosen.gateway_url, chosen.postgres_port, chosen.redis_port) == ("https://127.0.0.2:8081", 5433, 6380)
    ended = choose_config(home, options("--cluster-address", "none"))
    assert (ended.cluster_address, ended.gateway_url) == (None, None)


def test_a_home_of_an_older_release_has_no_cluster(home: Home) -> None:
    old = '{"version": 1, "bind": "127.0.0.1", "http_port": 1, "control_port": 2, "uid_base": null, "node": "n"}'
    home.config.write_text(old)
    config = choose_config(home, options())
    assert (config.role, config.cluster_address, config.shares_uids) == ("platform", None, False)
    assert not config.old_seals, "no node of it remembers anything"
    (home.root / "state").mkdir()
    (home.root / "state" / "head.json").write_text("{}")
    upgraded = choose_config(home, options())
    assert upgraded.old_seals
    save_config(home, upgraded)
    (home.secrets / "node.key").write_text("key")
    assert choose_config(home, options()).old_seals, "remembered: the node still has the old documents"


def test_an_address_of_another_machine(home: Home) -> None:
    config = choose_config(home, options("--cluster-address", "192.0.2.1", "--http-port", str(free_port())))
    with pytest.raises(HomeUnusable, match=r"192\.0\.2\.1 is not an address of this machine.*--cluster-address"):
        check_ports(config)


@pytest.mark.parametrize("option", ["--cluster-postgres-port", "--cluster-redis-port"])
def test_a_cluster_port_that_is_taken_names_its_holder_and_the_option(home: Home, option: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.2", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        config = choose_config(
            home, options("--cluster-address", "127.0.0.2", "--http-port", str(free_port()), option, port)
        )
        with pytest.raises(PortTaken, match=rf"Port {port}, .* is in use by .*pid {os.getpid()}.*{option}"):
            check_ports(config)


def test_two_servers_on_one_port_of_the_cluster_address(home: Home) -> None:
    port = str(free_port())
    chosen = ("--cluster-address", "127.0.0.2", "--bind", "0.0.0.0", "--http-port", port)
    with pytest.raises(HomeUnusable, match="are the same"):
        check_ports(choose_config(home, options(*chosen, "--cluster-redis-port", port)))
