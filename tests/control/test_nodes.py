"""What people ask of nodes, how nodes hear of it, what they answer, and how the fleet is shown."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from django.db import connection
from django.utils import timezone

from tenantry.control.access.actors import Actor
from tenantry.control.changelog.models import Change
from tenantry.control.errors import Conflict, Forbidden, InvalidInput, NotAuthenticated, NotFound
from tenantry.control.fleet import queries, services, waiting
from tenantry.control.fleet.models import Node, NodeDrift, NodeSecret, NodeSite
from tenantry.control.sealing import sealer
from tenantry.control.sites import queries as site_queries
from tenantry.control.sites import services as sites
from tenantry.control.sites.models import Site
from tenantry.spec.sites import SiteSpec
from tenantry.testing.control import NODE_NAME, ControlDatabase

from .conftest import Agent

MakeSite = Callable[..., Site]
DRAINED = {"type": "Drained", "status": True, "message": "no visitor for 5 s"}
HELD = {"type": "MassRemovalRefused", "status": True, "message": "12 of 12 sites would go; confirm with 0a1b2c3d"}


def silence(name: str = NODE_NAME) -> None:
    Node.objects.filter(name=name).update(last_contact=timezone.now() - queries.SILENT_AFTER - timedelta(seconds=1))


def latest() -> Change:
    return Change.objects.latest("revision")


def test_every_act_is_for_administrators(control_database: ControlDatabase) -> None:
    stranger = Actor(name="eve", is_admin=False)
    acts: list[Callable[[], Any]] = [
        lambda: services.create_join_token(stranger, ttl=timedelta(hours=1)),
        lambda: services.drain(stranger, NODE_NAME),
        lambda: services.remove(stranger, NODE_NAME),
        lambda: services.confirm_removal(stranger, NODE_NAME, "0a1b2c3d"),
        lambda: services.request_check(stranger, NODE_NAME, repair=True),
        lambda: services.new_epoch(stranger),
        lambda: services.compact(stranger),
        lambda: sites.set_mode(stranger, "blog", "live"),
    ]
    changes = Change.objects.count()
    for one in acts:
        with pytest.raises(Forbidden):
            one()
    assert Change.objects.count() == changes


def test_a_node_that_is_none_is_not_found(admin: Actor) -> None:
    for one in (
        lambda: services.drain(admin, "nowhere"),
        lambda: services.remove(admin, "nowhere"),
        lambda: services.confirm_removal(admin, "nowhere", "0a1b2c3d"),
        lambda: services.request_check(admin, "nowhere", repair=False),
        lambda: queries.node("nowhere"),
        lambda: queries.drift_of("nowhere"),
    ):
        with pytest.raises(NotFound, match="nowhere"):
            one()


def test_a_node_hears_that_it_is_to_drain_and_to_come_back(agent: Agent, admin: Actor) -> None:
    since = agent.call("head")["revision"]
    services.drain(admin, NODE_NAME)
    answer = agent.desired(since)
    assert (answer["full"], answer["sites"], answer["node"]["draining"]) == (False, [], True)
    assert answer["revision"] == since + 1
    assert (latest().type, latest().actor, latest().metadata) == ("node.draining", "admin", {"node": NODE_NAME})
    services.drain(admin, NODE_NAME)
    assert latest().revision == since + 1, "it drains already"
    services.drain(admin, NODE_NAME, undo=True)
    assert agent.desired(since)["node"]["draining"] is False
    assert latest().type == "node.resumed"


def test_the_states_of_a_node(agent: Agent, admin: Actor) -> None:
    assert queries.node(NODE_NAME).state == "joining"
    agent.report()
    assert queries.node(NODE_NAME).state == "ready"
    agent.report(conditions=[DRAINED])
    assert (queries.node(NODE_NAME).state, queries.node(NODE_NAME).drained) == ("ready", False), "nobody asked"
    services.drain(admin, NODE_NAME)
    agent.report()
    assert (queries.node(NODE_NAME).state, queries.node(NODE_NAME).draining) == ("draining", True)
    agent.report(conditions=[DRAINED])
    assert (queries.node(NODE_NAME).state, queries.node(NODE_NAME).drained) == ("drained", True)
    silence()
    assert queries.node(NODE_NAME).state == "silent"


def test_a_serving_node_is_not_removed(agent: Agent, admin: Actor) -> None:
    agent.report()
    with pytest.raises(Conflict, match=f"tenantry node drain {NODE_NAME}"):
        services.remove(admin, NODE_NAME)
    services.drain(admin, NODE_NAME)
    agent.report()
    with pytest.raises(Conflict, match="still draining"):
        services.remove(admin, NODE_NAME)
    assert Node.objects.filter(name=NODE_NAME).exists()
    services.remove(admin, NODE_NAME, force=True)
    assert not Node.objects.filter(name=NODE_NAME).exists()
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        agent.report()


@pytest.mark.parametrize("way", ["drained", "silent", "joining"])
def test_a_removed_node_loses_everything(
    agent: Agent, admin: Actor, make_site: MakeSite, way: str, control_database: ControlDatabase
) -> None:
    make_site("blog")
    if way != "joining":
        agent.serve_all()
        agent.report(drift=[{"kind": "file", "path": "run/x", "detail": ""}])
    node = Node.objects.get()
    services.adopt_node(NODE_NAME, node.role, "", "tnn_first")
    if way == "drained":
        services.drain(admin, NODE_NAME)
        agent.report(conditions=[DRAINED])
    if way == "silent":
        silence()
    services.remove(admin, NODE_NAME)
    metadata = {"node": NODE_NAME, "role": node.role, "passwords": "renewed"}
    assert (latest().type, latest().metadata) == ("node.removed", metadata)
    assert not any(model.objects.exists() for model in (Node, NodeSite, NodeSecret, NodeDrift))
    for name, arguments in (("head", []), ("desired", [0]), ("heartbeat", []), ("report", ["{}"])):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            agent.call(name, *arguments)
    with pytest.raises(NotAuthenticated):
        services.authenticate_node("tnn_first")
    with connection.cursor() as cursor:
        cursor.execute("SELECT args, lock FROM procrastinate_jobs WHERE task_name = 'drop_node_role'")
        assert cursor.fetchall() == [(f'{{"role": "{node.role}"}}', f"node-{node.number}")]


def test_a_removal_that_is_held_back_is_confirmed_once(agent: Agent, admin: Actor) -> None:
    with pytest.raises(Conflict, match="does not ask"):
        services.confirm_removal(admin, NODE_NAME, "0a1b2c3d")
    agent.report(conditions=[HELD])
    for token in ("", "0A1B2C3D", "0a1b2c3", "0a1b2c3d\n", "confirmed"):
        with pytest.raises(InvalidInput, match="8 hexadecimal"):
            services.confirm_removal(admin, NODE_NAME, token)
    with pytest.raises(Conflict, match="node show"):
        services.confirm_removal(admin, NODE_NAME, "ffffffff")
    assert agent.desired()["node"]["confirmed"] is None
    services.confirm_removal(admin, NODE_NAME, "0a1b2c3d")
    assert agent.desired()["node"]["confirmed"] == "0a1b2c3d"
    assert latest().metadata == {"node": NODE_NAME, "removal": "0a1b2c3d"}
    agent.report(conditions=[HELD])
    agent.call("heartbeat")
    assert agent.desired()["node"]["confirmed"] == "0a1b2c3d", "it has not done it yet"
    agent.report(conditions=[])
    assert agent.desired()["node"]["confirmed"] is None, "the same removal another day needs another confirmation"


def test_a_check_is_asked_for_and_answered(agent: Agent, admin: Actor) -> None:
    assert services.request_check(admin, NODE_NAME, repair=False) == 1
    assert agent.desired()["node"] == {
        "name": NODE_NAME, "draining": False, "confirmed": None, "check": 1, "check_repair": False,
    }  # fmt: skip
    assert services.request_check(admin, NODE_NAME, repair=True) == 2
    assert (agent.desired()["node"]["check"], agent.desired()["node"]["check_repair"]) == (2, True)
    assert latest().metadata == {"node": NODE_NAME, "check": 2, "repair": True}
    view = queries.node(NODE_NAME)
    assert (view.check_requested, view.checked_id, view.checked, view.checked_at) == (2, 0, None, None)
    found = {"id": 2, "sites": 3, "paths": 40, "seconds": 0.1, "cpu_seconds": 0.01, "drift": 1}
    agent.report(checked=found)
    agent.report(checked={**found, "id": 0, "drift": 0})
    agent.report()
    view = queries.node(NODE_NAME)
    assert (view.checked_id, view.checked) == (2, {**found, "id": 0, "drift": 0})
    assert view.checked_at is not None
    agent.report(checked={**found, "id": 99})
    assert queries.node(NODE_NAME).checked_id == 2, "a number that nobody asked for"


def test_what_a_node_says_of_itself_is_kept(agent: Agent) -> None:
    agent.report()
    view = queries.node(NODE_NAME)
    assert (view.version, view.notifications) == ("", None), "a node of the previous release says nothing of this"
    agent.report(version="0.2.0", notifications=False)
    agent.report()
    view = queries.node(NODE_NAME)
    assert (view.version, view.notifications) == ("0.2.0", False)
    agent.report(notifications=True)
    assert queries.node(NODE_NAME).notifications is True


def drift(**changes: Any) -> dict[str, Any]:
    line = {"site": "blog", "kind": "file", "path": "run/sites/blog/site.1.json", "detail": "other bytes",
            "since_seconds": 30.0, "found_seconds": 5.0, "repaired_seconds": None, "took_seconds": None}  # fmt: skip
    return {**line, **changes}


def test_a_difference_is_open_until_it_is_repaired(agent: Agent) -> None:
    agent.report(drift=[drift()])
    (found,) = queries.drift_of(NODE_NAME, open_only=True)
    assert (found.site, found.kind, found.path, found.detail) == (
        "blog", "file", "run/sites/blog/site.1.json", "other bytes",
    )  # fmt: skip
    assert found.good_at is not None
    assert timedelta(seconds=29.9) < found.found_at - found.good_at < timedelta(seconds=30.1)
    assert timedelta(seconds=4.9) < timezone.now() - found.found_at < timedelta(seconds=15)
    assert queries.node(NODE_NAME).drift_open == 1
    agent.report(drift=[drift(found_seconds=20.0, detail="still other bytes")])
    (found,) = queries.drift_of(NODE_NAME)
    assert found.detail == "still other bytes"
    agent.report(drift=[drift(found_seconds=21.0, repaired_seconds=1.0, took_seconds=0.05)])
    (found,) = queries.drift_of(NODE_NAME)
    assert (found.repaired_at is not None, found.took_seconds) == (True, 0.05)
    assert queries.drift_of(NODE_NAME, open_only=True) == []
    assert queries.node(NODE_NAME).drift_open == 0
    agent.report(drift=[drift(found_seconds=0.0)])
    assert [one.repaired_at is None for one in queries.drift_of(NODE_NAME)] == [True, False]


def test_a_report_of_differences_that_comes_twice_counts_once(agent: Agent) -> None:
    lines = [
        drift(repaired_seconds=4.0, took_seconds=1.0),
        drift(site=None, kind="nginx", path="etc/nginx.conf", repaired_seconds=4.0),
        drift(kind="mode"),
    ]
    agent.report(drift=lines)
    agent.report(drift=lines)
    assert [(one.kind, one.repaired_at is None) for one in queries.drift_of(NODE_NAME)] == [
        ("mode", True), ("nginx", False), ("file", False),
    ]  # fmt: skip
    assert len(queries.drift_of(NODE_NAME, 2)) == 2


def test_differences_are_cut_and_odd_ones_do_no_harm(agent: Agent) -> None:
    agent.report(
        drift=[drift(path="p" * 9_000, detail="d" * 9_000, kind="k" * 99), {"kind": None}, {"path": "x"}, {}],
        checked="nonsense",
    )
    agent.report(drift="nonsense")
    agent.report(drift=[{"kind": "file", "path": "least"}])
    least, cut = queries.drift_of(NODE_NAME)
    assert (len(cut.path), len(cut.detail), len(cut.kind)) == (500, 2_000, 20)
    assert (least.site, least.good_at, least.detail) == (None, None, "")


def test_nodes_are_counted_right_with_sites_and_drift_together(agent: Agent, make_site: MakeSite) -> None:
    for slug in ("one", "two", "three"):
        make_site(slug)
    agent.serve_all()
    agent.report(
        {"slug": "one", "revision": 99, "generation": 1, "state": "failed"}, drift=[drift(), drift(kind="mode")]
    )
    view = queries.node(NODE_NAME)
    assert (view.sites, view.failed, view.drift_open) == (3, 1, 2)


def test_an_agent_of_the_previous_release_works(agent: Agent, admin: Actor, make_site: MakeSite) -> None:
    """It knows head, desired, heartbeat and report, and sends what it always sent."""
    site = make_site("blog", hostnames=["blog.example.org"], environment={"KEY": "value"})
    head = agent.call("head")
    answer = agent.desired()
    assert {"epoch", "revision", "full", "sites"} <= set(answer)
    assert (head["epoch"], head["revision"]) == (answer["epoch"], answer["revision"])
    spec = SiteSpec.from_document(answer["sites"][0])
    assert sealer().unseal(spec.sealed)["environment"] == {"KEY": "value"}
    agent.connection.execute(
        "SELECT agent_v1.report(jsonb_build_object('epoch', %s::text, 'revision', %s::bigint, 'digest', 'sha256x:0', "
        "'conditions', '[]'::jsonb, 'sites', jsonb_build_array(jsonb_build_object('slug', 'blog', 'revision', "
        "%s::bigint, 'generation', 1, 'state', 'serving', 'message', '', 'log', ''))))",
        [answer["epoch"], answer["revision"], site.revision],
    )
    assert site_queries.convergence("blog").converged
    services.request_check(admin, NODE_NAME, repair=True)
    services.drain(admin, NODE_NAME)
    assert agent.desired(answer["revision"])["sites"] == []
    assert agent.call("heartbeat")["revision"] == answer["revision"] + 2
    assert queries.node(NODE_NAME).lag == 2


def test_what_was_heard_of_another_epoch_proves_nothing(agent: Agent, admin: Actor, make_site: MakeSite) -> None:
    make_site("blog")
    agent.serve_all()
    assert site_queries.convergence("blog").converged
    assert queries.node(NODE_NAME).lag == 0
    services.new_epoch(admin)
    state = site_queries.convergence("blog")
    assert not state.converged
    assert [node.lag for node in state.nodes] == [state.revision]
    assert [node.lag for node in site_queries.site("blog").nodes] == [state.revision]
    view = queries.node(NODE_NAME)
    assert view.lag == latest().revision
    agent.serve_all()
    assert site_queries.convergence("blog").converged


def test_a_deletion_is_waited_for_in_the_epoch_of_now(agent: Agent, admin: Actor, make_site: MakeSite) -> None:
    """After a restore the revision that a node once reported may be higher than any there is."""
    make_site("blog")
    agent.report(revision=1_000)
    services.new_epoch(admin)
    sites.delete_site(admin, "blog", confirm="blog")
    assert site_queries.nodes_serving("blog") == [NODE_NAME]
    agent.report()
    assert site_queries.nodes_serving("blog") == []


def test_silent_nodes_are_named_and_not_waited_for(
    agent: Agent, control_database: ControlDatabase, admin: Actor, make_site: MakeSite
) -> None:
    make_site("blog")
    agent.serve_all()
    _, text = services.create_join_token(admin, ttl=timedelta(hours=1))
    services.join(text, name="web-1", version="1")
    state = site_queries.convergence("blog")
    assert state.converged
    assert [(one.node, one.last_contact) for one in state.unreachable] == [("web-1", None)]
    Node.objects.filter(name="web-1").update(last_contact=timezone.now())
    state = site_queries.convergence("blog")
    assert (state.converged, state.unreachable) == (False, [])
    assert [(node.node, node.state) for node in state.nodes] == [(NODE_NAME, "serving"), ("web-1", "absent")]
    silence("web-1")
    assert [one.node for one in site_queries.convergence("blog").unreachable] == ["web-1"]
    sites.delete_site(admin, "blog", confirm="blog")
    assert [one.node for one in site_queries.convergence("blog").unreachable] == ["web-1"]


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_control_whose_clock_is_off_judges_by_the_databases(
    agent: Agent, admin: Actor, make_site: MakeSite, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    """Nodes may run control too, and a node's clock may be wrong."""
    right = timezone.now
    monkeypatch.setattr(timezone, "now", lambda: right() + timedelta(hours=hours))
    make_site("blog")
    agent.serve_all()
    assert queries.node(NODE_NAME).state == "ready"
    assert site_queries.convergence("blog").converged
    with pytest.raises(Conflict, match="drain"):
        services.remove(admin, NODE_NAME)
    token, text = services.create_join_token(admin, ttl=timedelta(minutes=30))
    assert timedelta(minutes=29) < token.expires_at - right() <= timedelta(minutes=30)
    monkeypatch.setattr(timezone, "now", right)
    assert services.join(text, name="web-1", version="1").name == "web-1"


def test_a_mode_is_a_change_without_a_generation(agent: Agent, admin: Actor, make_site: MakeSite) -> None:
    before = make_site("blog")
    since = agent.call("head")["revision"]
    site = sites.set_mode(admin, "blog", "maintenance")
    assert (site.mode, site.generation, site.revision) == ("maintenance", before.generation, since + 1)
    (answered,) = agent.desired(since)["sites"]
    assert (answered["mode"], answered["generation"]) == ("maintenance", before.generation)
    assert (latest().type, latest().metadata) == ("site.mode", {"mode": "maintenance", "before": "live"})
    assert sites.set_mode(admin, "blog", "maintenance").revision == since + 1, "it has that mode already"
    for wrong in ("", "LIVE", "off"):
        with pytest.raises(InvalidInput, match="live, read_only, maintenance, paused"):
            sites.set_mode(admin, "blog", wrong)
    with pytest.raises(NotFound):
        sites.set_mode(admin, "nothing", "live")
    sites.delete_site(admin, "blog", confirm="blog")
    with pytest.raises(Conflict):
        sites.set_mode(admin, "blog", "live")


def test_a_mode_is_not_applied_by_an_agent_that_says_no_version(
    agent: Agent, admin: Actor, make_site: MakeSite
) -> None:
    make_site("blog")
    revision = sites.set_mode(admin, "blog", "maintenance").revision
    agent.report(revision=revision)
    assert queries.node(NODE_NAME).modes_ignored == 1
    assert not waiting.application(revision).converged
    agent.report(revision=revision, version="0.1.0")
    assert queries.node(NODE_NAME).modes_ignored == 0
    assert waiting.application(revision).converged


def test_an_artifact_is_told_with_its_release(agent: Agent, make_site: MakeSite) -> None:
    site = make_site("blog")
    release = agent.desired()["sites"][0]["release"]
    assert (release["artifact"], release["artifact_size"], release["python"]) == (None, None, "3.11.2")
    type(site.release).objects.update(artifact="sha256:" + "a" * 64, artifact_size=12)
    release = agent.desired()["sites"][0]["release"]
    assert (release["artifact"], release["artifact_size"]) == ("sha256:" + "a" * 64, 12)
