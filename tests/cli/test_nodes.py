"""Commands about nodes against canned answers: what is shown, what is asked, which exit code."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tenantry.cli.events import _line


def at(seconds_ago: float) -> str:
    return (datetime.now(UTC) - timedelta(seconds=seconds_ago)).isoformat()


def node(name: str = "n1", **different: Any) -> dict[str, Any]:
    """A node that is as it should be, but for what is `different`."""
    base = {
        "name": name,
        "state": "ready",
        "version": "0.1.0",
        "joined_at": at(90_000),
        "last_contact": at(2),
        "epoch": "11111111-1111-1111-1111-111111111111",
        "revision": 10,
        "lag": 0,
        "digest": "sha256x:0123456789abcdef",
        "agrees": True,
        "notifications": True,
        "draining": False,
        "drained": False,
        "conditions": [],
        "sites": 3,
        "failed": 0,
        "drift_open": 0,
        "checked_id": 1,
        "checked_at": at(3),
        "checked": {"sites": 3, "paths": 40, "seconds": 0.05, "cpu_seconds": 0.04, "drift": 0},
        "problems": [],
        "notes": [],
    }
    return base | different


def drift(**different: Any) -> dict[str, Any]:
    base = {
        "site": "blog",
        "kind": "file",
        "path": "run/vassals/blog.1.ini",
        "detail": "12 bytes are others",
        "good_at": at(40),
        "found_at": at(-5),
        "repaired_at": at(-6),
        "took_seconds": 0.21,
    }
    return base | different


def page(*items: Any) -> dict[str, Any]:
    return {"items": list(items), "next_cursor": None}


STATUS = {"version": "0.1.0", "epoch": "e", "revision": 10, "projects": 1, "sites": {"ready": 3}, "nodes": {"ready": 2}}


def test_status_proves_convergence(cli: Any, stub: Any) -> None:
    stub.answer("GET", "/api/v1/status", 200, STATUS)
    stub.answer("GET", "/api/v1/nodes", 200, page(node("n1"), node("n2")))
    done = cli("status")
    assert done.code == 0
    row = next(line for line in done.out.splitlines() if line.startswith("n2"))
    assert row.split()[1:] == ["ready", *row.split()[2:5], "10", "0", "01234567", "yes", "push", "0", "3", "0"]
    assert "2 nodes are at revision 10 and serve the same." in done.out
    assert cli("status", "--json").document()["problems"] == []


def test_status_says_what_is_wrong_of_which_node(cli: Any, stub: Any) -> None:
    stub.answer("GET", "/api/v1/status", 200, STATUS | {"sites": {"failed": 1}})
    wrong = node("n2", state="silent", agrees=None, lag=4, notifications=False, problems=["is silent: …"])
    stub.answer("GET", "/api/v1/nodes", 200, page(node("n1", notes=["polls for changes."]), wrong))
    done = cli("status")
    assert done.code == 1
    assert "Not converged:\n  - n2 is silent: …\n  - 1 site failed" in done.out
    assert "note: n1 polls for changes." in done.out
    stub.answer("GET", "/api/v1/nodes", 200, page())
    stub.answer("GET", "/api/v1/status", 200, STATUS)
    assert cli("status").code == 1, "nobody said that anything is applied"


def test_show_tells_everything(cli: Any, stub: Any) -> None:
    condition = {"type": "MassRemovalRefused", "status": True, "message": "Confirm with 1f2e3d4c"}
    shown = node(drift_open=1, conditions=[condition], agrees=False, problems=["has drifted in 1 place."])
    stub.answer("GET", "/api/v1/nodes/n1", 200, shown)
    stub.answer("GET", "/api/v1/nodes/n1/drift", 200, page(drift(repaired_at=None, took_seconds=None)))
    done = cli("node", "show", "n1")
    assert done.code == 0
    for word in (
        "MassRemovalRefused: Confirm with 1f2e3d4c",
        "NOT what the other nodes serve",
        "3 sites, 40 paths in 0.05 s, no drift found",
        "by notification",
        "file of blog: run/vassals/blog.1.ini",
        "12 bytes are others; last seen right",
        "not repaired",
        "has drifted in 1 place.",
    ):
        assert word in done.out, word
    assert cli("node", "show", "n1", "--json").document()["drift"][0]["path"] == "run/vassals/blog.1.ini"


def ask_check(stub: Any, *drifts: dict[str, Any], **different: Any) -> None:
    stub.answer("POST", "/api/v1/nodes/n1/check", 202, {"check": 7, "requested_at": at(0)})
    stub.answer("GET", "/api/v1/nodes/n1", 200, node(**{"checked_id": 7, **different}))
    stub.answer("GET", "/api/v1/nodes/n1/drift", 200, page(*drifts))
    still_open = [one for one in drifts if one["repaired_at"] is None]
    stub.answer("GET", "/api/v1/nodes/n1/drift?open=true&limit=1000", 200, page(*still_open))


def test_a_check_that_finds_nothing(cli: Any, stub: Any) -> None:
    ask_check(stub, drift(found_at=at(500), repaired_at=at(499)))
    done = cli("node", "check", "n1")
    assert (done.code, done.out) == (0, "n1: as it should be (3 sites and 40 paths compared in 0.05 s)\n")
    assert json.loads(stub.requests[0][3]) == {"repair": False}


def test_a_check_prints_what_drifted_since_when_and_how_long_its_repair_took(cli: Any, stub: Any) -> None:
    ask_check(stub, drift())
    done = cli("node", "check", "n1", "--repair")
    assert done.code == 0, "found and repaired"
    assert "n1: 1 drifted, 0 not repaired" in done.out
    assert "file of blog: run/vassals/blog.1.ini" in done.out
    assert "repaired in 0.21 s" in done.out
    assert json.loads(stub.requests[0][3]) == {"repair": True}


def test_drift_that_is_not_repaired_fails_the_check(cli: Any, stub: Any) -> None:
    ask_check(stub, drift(repaired_at=None, took_seconds=None, good_at=None), drift_open=1)
    done = cli("node", "check", "n1")
    assert done.code == 1
    assert "1 drifted, 1 not repaired" in done.out
    assert "never seen right before" in done.out
    assert cli("node", "check", "n1", "--repair", "--timeout", "1").code == 1


def test_a_check_that_is_not_answered_says_so(cli: Any, stub: Any) -> None:
    ask_check(stub, checked_id=6)
    done = cli("node", "check", "n1", "--timeout", "1")
    assert done.code == 1
    assert "n1 has not answered: it is ready" in done.err
    ask_check(stub, checked_id=6, state="silent")
    assert "it is silent" in cli("node", "check", "n1").err, "at once: nobody will answer"
    assert cli("node", "check", "n1", "--no-wait").code == 0


@pytest.mark.parametrize("words", [(), ("n1", "--all")])
def test_a_check_is_of_one_node_or_of_all(cli: Any, stub: Any, words: tuple[str, ...]) -> None:
    done = cli("node", "check", *words)
    assert done.code == 2
    assert "--all" in done.err
    assert stub.requests == []


def test_all_are_checked_but_those_that_cannot_answer(cli: Any, stub: Any) -> None:
    ask_check(stub)
    stub.answer("GET", "/api/v1/nodes", 200, page(node("n1"), node("n2", state="silent")))
    done = cli("node", "check", "--all")
    assert done.code == 0
    assert "note: n2 is silent and is not checked." in done.err
    stub.answer("GET", "/api/v1/nodes", 200, page(node("n2", state="silent")))
    assert cli("node", "check", "--all").code == 1


def test_one_that_does_not_answer_does_not_hide_the_others(cli: Any, stub: Any) -> None:
    ask_check(stub)
    stub.answer("GET", "/api/v1/nodes", 200, page(node("n0"), node("n1")))
    stub.answer("POST", "/api/v1/nodes/n0/check", 202, {"check": 3, "requested_at": at(0)})
    stub.answer("GET", "/api/v1/nodes/n0", 200, node("n0", state="silent"))
    done = cli("node", "check", "--all")
    assert done.code == 1
    assert "n1: as it should be" in done.out
    assert "n0 has not answered: it is silent" in done.err


def test_a_token_is_printed_as_the_command_of_the_other_machine(cli: Any, stub: Any) -> None:
    made = {"token": "tnj_x.ff", "expires_at": at(-60), "command": "bin/join https://10.0.0.1:8081 tnj_x.ff"}
    stub.answer("POST", "/api/v1/nodes/tokens", 201, made)
    done = cli("node", "token", "--ttl", "5")
    assert done.out == "bin/join https://10.0.0.1:8081 tnj_x.ff\n"
    assert "within 5 min" in done.err
    assert json.loads(stub.requests[0][3]) == {"ttl_minutes": 5, "with_control": False}
    assert cli("node", "token", "--ttl", "0").code == 2


def test_removing_asks_for_the_name(cli: Any, stub: Any) -> None:
    stub.answer("DELETE", "/api/v1/nodes/n1", 204, b"")
    for words in (("n1",), ("n1", "--confirm", "n2")):
        assert cli("node", "remove", *words).code == 2
    assert stub.requests == []
    assert cli("node", "remove", "n1", "--confirm", "n1").out == "n1 is no node any more.\n"
    assert "force" not in stub.requests[-1][1]


def test_a_node_that_serves_is_removed_by_force(cli: Any, stub: Any) -> None:
    stub.answer("DELETE", "/api/v1/nodes/n1?force=true", 204, b"")
    assert cli("node", "remove", "n1", "--confirm", "n1", "--force").out == "n1 is no node any more.\n"


def test_draining_a_node_that_cannot_hear_says_so(cli: Any, stub: Any) -> None:
    silent = node(state="silent", draining=True, last_contact=at(700))
    stub.answer("POST", "/api/v1/nodes/n1/drain", 200, silent)
    stub.answer("GET", "/api/v1/nodes/n1", 200, silent)
    done = cli("node", "drain", "n1", "--wait")
    assert done.code == 1
    assert "n1 cannot be heard (last 11 min ago)" in done.err


def test_what_follows_is_shown_in_one_line() -> None:
    assert _line("report", {"node": None}).split() == ["report", "any", "node"]
    assert _line("report", {"node": "n1"}).split() == ["report", "n1"]
    assert "changes up to r12 are no longer kept" in _line("reset", {"tail": 12})
    change = {"revision": 3, "type": "node.check", "site": None, "project": None, "metadata": {"node": "n1"}}
    assert _line("change", change).split()[:3] == ["3", "node.check", "n1"]
