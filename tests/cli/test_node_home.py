"""The command line in a home that joined another platform: it says so, and looks at what is there."""

import json
from pathlib import Path
from typing import Any

import pytest

from tenantry.cli.connection import find_connection, find_joined
from tenantry.cli.doctor import check_platform
from tenantry.cli.errors import NotConnected

URL = "https://127.0.0.1:1"


@pytest.fixture
def node_home(tmp_path: Path) -> Path:
    document = {"version": 1, "role": "node", "node": "n2", "platform_url": URL}
    (tmp_path / "config.json").write_text(json.dumps(document))
    return tmp_path


def test_a_nodes_home_says_whose_it_is_and_where_to_ask(node_home: Path) -> None:
    with pytest.raises(NotConnected) as caught:
        find_connection(None, {"TENANTRY_HOME": str(node_home)})
    assert f"is the node n2 of {URL}" in str(caught.value)
    assert str(node_home / "etc" / "ca.pem") in caught.value.advice


@pytest.mark.parametrize("text", [None, "", "[]", '{"version": 1}', '{"role": "platform"}', '{"role": "node"}'])
def test_what_is_no_nodes_home(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    assert find_joined(tmp_path) is None


def test_a_platform_that_is_away_is_found(node_home: Path) -> None:
    joined = find_joined(node_home)
    assert joined is not None
    finding = check_platform(joined)
    assert (finding.check, finding.state) == ("node n2", "failed")
    assert URL in finding.message


def test_doctor_asks_a_node_for_no_servers_of_the_platform(cli: Any, node_home: Path) -> None:
    done = cli("doctor", "--json", "--home", str(node_home))
    checks = [one["check"] for one in json.loads(done.out)["findings"]]
    assert {"postgresql", "redis", "api"}.isdisjoint(checks)
    assert checks[-1] == "node n2"
