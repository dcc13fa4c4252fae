"""Nodes through the API: what is said of them, and what people ask of them."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from tenantry.control.changelog.models import Change
from tenantry.control.fleet.models import Node
from tenantry.control.sites import database_mode
from tenantry.control.sites.models import Site
from tenantry.testing.control import ControlDatabase

from .conftest import Agent, Api

CONDITION = "9 of 10 sites would go: a, b, c. Confirm with 1f2e3d4c"


def problem(response: Any, status: int) -> str:
    assert response.status_code == status, response.content
    assert response.headers["Content-Type"] == "application/problem+json"
    detail: str = response.json()["detail"]
    return detail


def test_a_node_that_is_as_it_should_be(api: Api, agent: Agent, make_site: Callable[..., Site]) -> None:
    make_site("blog")
    assert api.get("/nodes/node-1")["state"] == "joining"
    agent.serve_all()
    agent.report(notifications=True, version="0.1.0")
    node = api.get("/nodes/node-1")
    assert api.get("/nodes")["items"] == [node]
    head = api.get("/status")
    expected = {
        "state": "ready",
        "revision": head["revision"],
        "epoch": head["epoch"],
        "lag": 0,
        "agrees": None,
        "notifications": True,
        "version": "0.1.0",
        "draining": False,
        "drained": False,
        "sites": 1,
        "failed": 0,
        "drift_open": 0,
        "checked": None,
        "problems": [],
        "notes": [],
    }
    assert {name: node[name] for name in expected} == expected


def test_whether_nodes_agree_is_seen_beside_the_others(api: Api, agent: Agent, second_agent: Agent) -> None:
    agent.report(digest="sha256x:aa")
    second_agent.report(digest="sha256x:aa")
    assert [node["agrees"] for node in api.get("/nodes")["items"]] == [True, True]
    second_agent.report(digest="sha256x:bb")
    assert [node["agrees"] for node in api.get("/nodes")["items"]] == [False, False]
    assert "serves something else" in api.get("/nodes/node-1")["problems"][0]


def test_nodes_that_do_not_exist_are_404(api: Api) -> None:
    for method, path, body in (
        ("GET", "/nodes/none", None),
        ("DELETE", "/nodes/none", None),
        ("POST", "/nodes/none/drain", {}),
        ("POST", "/nodes/none/check", {}),
        ("POST", "/nodes/none/confirm", {"token": "0123abcd"}),
        ("GET", "/nodes/none/drift", None),
    ):
        assert "«none»" in problem(api(method, path, body), 404), path


def test_draining_and_coming_back(api: Api, agent: Agent) -> None:
    agent.report()
    node = api("POST", "/nodes/node-1/drain").json()
    assert (node["state"], node["draining"], node["drained"]) == ("draining", True, False)
    assert agent.desired()["node"]["draining"] is True
    assert node["problems"] == ["is 1 revision behind."]
    assert "still draining" in problem(api("DELETE", "/nodes/node-1"), 409)
    agent.report(conditions=[{"type": "Drained", "status": True, "message": ""}])
    node = api.get("/nodes/node-1")
    assert (node["state"], node["drained"], node["problems"]) == ("drained", True, [])
    node = api("POST", "/nodes/node-1/drain", {"undo": True}).json()
    assert (node["state"], node["draining"], node["drained"]) == ("ready", False, False)
    types = list(Change.objects.filter(type__startswith="node.").order_by("revision").values_list("type", flat=True))
    assert types[-2:] == ["node.draining", "node.resumed"]


def test_only_a_drained_or_silent_node_is_removed(api: Api, agent: Agent) -> None:
    agent.report()
    assert "tenantry node drain node-1" in problem(api("DELETE", "/nodes/node-1"), 409)
    assert "tenantry node drain node-1" in problem(api("DELETE", "/nodes/node-1?force=false"), 409)
    Node.objects.update(last_contact=timezone.now() - timedelta(seconds=60))
    assert "is silent" in api.get("/nodes/node-1")["problems"][0]
    assert api("DELETE", "/nodes/node-1").status_code == 204
    assert problem(api("GET", "/nodes/node-1"), 404)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        agent.call("head")


def test_a_refused_removal_is_confirmed_with_its_token(api: Api, agent: Agent) -> None:
    agent.report(conditions=[{"type": "MassRemovalRefused", "status": True, "message": CONDITION}])
    assert "MassRemovalRefused" in api.get("/nodes/node-1")["problems"][0]
    assert "does not ask" in problem(api("POST", "/nodes/node-1/confirm", {"token": "00000000"}), 409)
    for wrong in ("", "xyz", "1F2E3D4C", "1f2e3d4c\n", "1f2e3d4", "%"):
        response = api("POST", "/nodes/node-1/confirm", {"token": wrong})
        assert [error["field"] for error in response.json()["errors"]] == ["token"], wrong
        assert response.status_code == 422
    assert api("POST", "/nodes/node-1/confirm", {"token": "1f2e3d4c"}).status_code == 200
    assert agent.desired()["node"]["confirmed"] == "1f2e3d4c"


def test_a_check_is_asked_for_and_answered(api: Api, agent: Agent) -> None:
    agent.report()
    first = api("POST", "/nodes/node-1/check")
    assert first.status_code == 202
    assert first.json()["check"] == 1
    second = api("POST", "/nodes/node-1/check", {"repair": True}).json()
    assert second["check"] == 2
    asked = agent.desired()["node"]
    assert (asked["check"], asked["check_repair"]) == (2, True)
    done = {"id": 2, "sites": 3, "paths": 40, "seconds": 0.5, "cpu_seconds": 0.1, "drift": 1}
    drift = {"site": "blog", "kind": "file", "path": "run/hosts/a", "detail": "changed"}
    agent.report(checked=done, drift=[drift | {"since_seconds": 30.0, "found_seconds": 1.0, "repaired_seconds": None}])
    node = api.get("/nodes/node-1")
    assert node["checked_id"] == 2
    assert node["checked"] == {name: value for name, value in done.items() if name != "id"}
    assert node["drift_open"] == 1
    assert "tenantry node drift node-1" in node["problems"][0]


def test_drift_is_listed_open_or_all(api: Api, agent: Agent) -> None:
    def drift(path: str, **more: Any) -> dict[str, Any]:
        base = {"site": None, "kind": "mode", "path": path, "detail": "0777, not 0755", "since_seconds": 20.0}
        return {**base, "found_seconds": 5.0, "repaired_seconds": None, "took_seconds": None, **more}

    agent.report(drift=[drift("run/a"), drift("run/b", repaired_seconds=4.0, took_seconds=1.0)])
    rows = {row["path"]: row for row in api.get("/nodes/node-1/drift")["items"]}
    assert set(rows) == {"run/a", "run/b"}
    good, found = (parse_datetime(rows["run/a"][name]) for name in ("good_at", "found_at"))
    assert good is not None
    assert found is not None
    assert abs((found - good).total_seconds() - 20) < 0.1
    assert rows["run/b"]["took_seconds"] == 1.0
    assert [row["path"] for row in api.get("/nodes/node-1/drift?open=true")["items"]] == ["run/a"]
    assert len(api.get("/nodes/node-1/drift?limit=1")["items"]) == 1
    for query in ("limit=0", "limit=1001", "limit=x", "open=perhaps"):
        assert api("GET", f"/nodes/node-1/drift?{query}").status_code == 422, query


def test_a_sites_mode_is_set_without_a_new_generation(api: Api, agent: Agent, make_site: Callable[..., Site]) -> None:
    site = make_site("blog")
    agent.serve_all()
    for mode in ("maintenance", "read_only", "paused", "live"):
        shown = api("PUT", "/sites/blog/mode", {"mode": mode}).json()
        assert (shown["mode"], shown["generation"]) == (mode, site.generation)
        assert agent.desired()["sites"][0]["mode"] == mode
        assert api.get("/sites/blog/convergence")["converged"] is False
        agent.serve_all()
        assert api.get("/sites/blog/convergence")["converged"] is (mode not in ("read_only", "paused"))
        database_mode.finish_database_mode(site.number, read_only=mode == "read_only", actor="admin")
        agent.serve_all()
        assert api.get("/sites/blog/convergence")["converged"] is True
    for wrong in ("", "Live", "off", None, 1, ["live"]):
        response = api("PUT", "/sites/blog/mode", {"mode": wrong})
        assert response.status_code == 422
        assert response.json()["errors"][0]["field"] == "mode"
    assert api("PUT", "/sites/none/mode", {"mode": "live"}).status_code == 404


def test_leaving_read_only_waits_for_the_database(api: Api, agent: Agent, make_site: Callable[..., Site]) -> None:
    site = make_site("blog")
    api("PUT", "/sites/blog/mode", {"mode": "read_only", "message": "moving"})
    database_mode.finish_database_mode(site.number, read_only=True, actor="admin")
    shown = api("PUT", "/sites/blog/mode", {"mode": "live"}).json()
    assert (shown["mode"], shown["pending_mode"]) == ("read_only", "live")
    agent.serve_all()
    assert agent.desired()["sites"][0]["mode"] == "read_only"
    assert api.get("/sites/blog/convergence")["converged"] is False
    database_mode.finish_database_mode(site.number, read_only=False, actor="ada")
    shown = api.get("/sites/blog")
    assert (shown["mode"], shown["pending_mode"], shown["mode_options"]["message"]) == ("live", None, "")
    change = Change.objects.latest("revision")
    assert (change.type, change.actor, change.metadata) == ("site.mode", "ada", {"mode": "live", "before": "read_only"})


@pytest.mark.parametrize(("query", "jobs", "word"), [("", 1, "renewed"), ("?keep_passwords=true", 0, "kept")])
def test_removing_a_node_renews_the_passwords_it_knew(
    api: Api, control_database: ControlDatabase, query: str, jobs: int, word: str
) -> None:
    assert api("DELETE", f"/nodes/node-1{query}").status_code == 204
    with control_database.server.connect(control_database.name) as connection:
        rows = connection.execute("SELECT priority FROM procrastinate_jobs WHERE task_name = 'renew_passwords'")
        assert len(rows.fetchall()) == jobs
    assert Change.objects.latest("revision").metadata["passwords"] == word


def test_a_node_out_of_reach_is_named_and_not_waited_for(
    api: Api, agent: Agent, second_agent: Agent, make_site: Callable[..., Site]
) -> None:
    make_site("blog")
    second_agent.report()
    Node.objects.filter(name="node-2").update(last_contact=timezone.now() - timedelta(seconds=60))
    agent.serve_all()
    state = api.get("/sites/blog/convergence")
    assert state["converged"] is True
    assert [one["node"] for one in state["unreachable"]] == ["node-2"]
    revision = api.get("/status")["revision"]
    state = api.get(f"/changes/{revision}/convergence")
    assert (state["converged"], [one["node"] for one in state["unreachable"]]) == (True, ["node-2"])
    assert api.get(f"/changes/{revision + 1}/convergence")["converged"] is False
    for path in ("/changes/x/convergence", "/changes/-1/convergence", "/changes/1/convergence?wait=61"):
        assert api("GET", path).status_code == 422, path


def test_old_changes_are_compacted_but_not_the_latest(
    api: Api, make_site: Callable[..., Site], control_database: ControlDatabase
) -> None:
    make_site("blog")
    with control_database.server.connect(control_database.name) as superuser:
        superuser.execute("SET session_replication_role = replica")  # nobody else can rewrite the log
        superuser.execute("UPDATE change SET created_at = created_at - interval '400 days'")
    assert api("POST", "/changes/compact").json() == {"removed": 0, "tail": 0}, "the latest 10,000 stay"
    for days in (0, -1, 36_501, "x", None):
        assert api("POST", "/changes/compact", {"keep_days": days}).status_code == 422, days


def test_a_new_epoch_is_another(api: Api, agent: Agent) -> None:
    agent.report()
    before = api.get("/status")
    begun = api("POST", "/changes/new-epoch").json()
    assert begun["epoch"] != before["epoch"]
    assert begun == {name: api.get("/status")[name] for name in ("epoch", "revision")}
    assert api.get("/nodes/node-1")["problems"] == ["has not read the state of this epoch yet."]
    agent.report()
    assert api.get("/nodes/node-1")["problems"] == []
