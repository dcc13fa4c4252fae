"""agent_v1: what agents are told, what they may tell, and that they may do nothing else."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from django.db import connection

from tenantry.control.access.actors import Actor
from tenantry.control.api.nodes import _nodes
from tenantry.control.dashboard.node_pages import node_context
from tenantry.control.fleet import queries, services
from tenantry.control.fleet.models import Node, NodeSite
from tenantry.control.releases import services as releases
from tenantry.control.sites import services as sites
from tenantry.control.sites.models import Site
from tenantry.sealing import generate_key
from tenantry.spec.sites import SiteSpec
from tenantry.testing.control import NODE_NAME, NODE_ROLE, ControlDatabase

from .conftest import FACTS, Agent

MANY = 10_000
MakeSite = Callable[..., Site]


def by_slug(answer: dict[str, Any]) -> dict[str, dict[str, Any]]:
    assert len({site["slug"] for site in answer["sites"]}) == len(answer["sites"])
    return {site["slug"]: site for site in answer["sites"]}


def test_a_full_answer_is_what_the_node_can_parse(agent: Agent, make_site: MakeSite) -> None:
    site = make_site("blog", hostnames=["blog.example.org", "a.example.org"], processes=2)
    answer = agent.desired()
    assert answer["full"] is True
    spec = SiteSpec.from_document(answer["sites"][0])
    assert (spec.slug, spec.number, spec.revision, spec.generation) == ("blog", site.number, site.revision, 1)
    assert spec.hostnames == ("a.example.org", "blog.example.org")
    assert (spec.processes, spec.threads) == (2, 1)
    assert str(spec.release.name) == "demo-1"
    assert spec.release.digest == "sha256:aa"
    assert answer["revision"] == agent.call("head")["revision"] == site.revision


def test_only_ready_sites_are_on_nodes(agent: Agent, make_site: MakeSite, admin: Actor) -> None:
    make_site("ready")
    make_site("waiting", ready=False)
    broken = make_site("broken", ready=False)
    sites.mark_site_failed(broken.number, "no disk")
    make_site("going")
    sites.delete_site(admin, "going", confirm="going")
    assert set(by_slug(agent.desired())) == {"ready"}


def test_an_incremental_answer_has_what_changed(agent: Agent, make_site: MakeSite, admin: Actor) -> None:
    make_site("same")
    make_site("moved")
    since = agent.call("head")["revision"]
    sites.add_hostname(admin, "moved", "moved.example.org")
    answer = agent.desired(since)
    assert answer["full"] is False
    assert set(by_slug(answer)) == {"moved"}
    assert by_slug(answer)["moved"]["hostnames"] == ["moved.example.org"]
    assert agent.desired(answer["revision"])["sites"] == []


def test_a_deleted_site_is_absent_while_it_goes_and_after(agent: Agent, make_site: MakeSite, admin: Actor) -> None:
    site = make_site("blog")
    since = agent.call("head")["revision"]
    sites.delete_site(admin, "blog", confirm="blog")
    gone = {"slug": "blog", "revision": since + 1, "present": False}
    assert agent.desired(since)["sites"] == [gone]
    sites.finish_site_removal(site.number)
    assert agent.desired(since)["sites"] == [gone]
    assert agent.desired()["sites"] == []


def test_a_slug_used_again_is_first_absent_then_the_new_site(agent: Agent, make_site: MakeSite, admin: Actor) -> None:
    old = make_site("blog")
    sites.restart_site(admin, "blog")
    since = agent.call("head")["revision"]
    sites.delete_site(admin, "blog", confirm="blog")
    sites.finish_site_removal(old.number)
    new = make_site("blog", ready=False)
    assert new.number > old.number
    assert new.generation == 3, "a generation's file name is never used again"
    assert by_slug(agent.desired(since))["blog"]["present"] is False
    sites.mark_site_provisioned(new.number)
    assert by_slug(agent.desired(since))["blog"]["number"] == new.number


def test_a_revision_from_another_time_gets_a_full_answer(agent: Agent, make_site: MakeSite) -> None:
    make_site("blog")
    assert agent.desired(agent.call("head")["revision"] + 1_000)["full"] is True


def test_an_upgrade_shows_only_when_it_is_migrated(agent: Agent, make_site: MakeSite, admin: Actor) -> None:
    site = make_site("blog")
    releases.request_release(admin, "demo")
    releases.finish_release("demo-2", FACTS)
    sites.update_site(admin, "blog", sites.SiteChange(release="demo-2"))
    assert by_slug(agent.desired())["blog"]["release"]["name"] == "demo-1"
    assert by_slug(agent.desired())["blog"]["generation"] == 1
    sites.finish_site_upgrade(site.number, "demo-2")
    assert by_slug(agent.desired())["blog"]["release"]["name"] == "demo-2"
    assert by_slug(agent.desired())["blog"]["generation"] == 2


def test_a_report_is_kept_replaced_and_forgotten(agent: Agent, make_site: MakeSite) -> None:
    make_site("blog")
    one = {"slug": "blog", "revision": 5, "generation": 1, "state": "failed", "message": "m" * 3_000, "log": "l"}
    agent.report(one, conditions=[{"type": "Disk", "status": "full", "message": "no"}])
    row = NodeSite.objects.get()
    assert (row.node_id, row.slug, row.state, row.revision, row.log) == (NODE_NAME, "blog", "failed", 5, "l")
    assert len(row.message) == 2_000
    node = Node.objects.get()
    assert node.conditions == [{"type": "Disk", "status": "full", "message": "no"}]
    assert node.last_contact is not None
    agent.report({**one, "revision": 6, "state": "serving", "message": None}, {**one, "revision": 4})
    row.refresh_from_db()
    assert (row.state, row.revision, row.message) == ("serving", 6, "")
    agent.report({"slug": "blog", "revision": 7, "state": "absent"})
    assert not NodeSite.objects.exists()


@pytest.mark.parametrize(
    "report",
    [
        {"conditions": [1, "x", None, [], {"type": 1, "message": {"a": 1}}, {"type": "Big", "message": "x" * 20_000}]},
        {"checked": {"sites": "x", "paths": 1.5, "seconds": [], "drift": -1, "id": 10**30, "more": {}}},
        {"drift": [{"kind": "k", "path": "p", "found_seconds": 1e11, "since_seconds": 1e300}]},
        {"drift": [{"kind": "k", "path": "p", "found_seconds": -1e12}]},
        {"drift": [{"kind": "k", "path": "p", "found_seconds": "NaN", "repaired_seconds": "-Infinity"}]},
        {"drift": [{"kind": "k", "path": "p", "took_seconds": "NaN"}]},
        {"revision": 2**63 - 1, "digest": "d" * 1_000_000},
    ],
)
def test_whatever_a_node_says_others_can_be_looked_at(agent: Agent, report: dict[str, Any]) -> None:
    agent.report(**report)
    (node,) = queries.nodes()
    (document,) = _nodes()
    assert len(document.model_dump_json()) < 20_000
    assert node_context(NODE_NAME)["node"]["name"] == NODE_NAME
    for drift in queries.drift_of(NODE_NAME):
        assert drift.found_at <= datetime.now(UTC) + timedelta(seconds=5)
        assert drift.took_seconds is None or drift.took_seconds <= 1e9
    assert not node.drained


def test_reports_and_heartbeats_are_told(agent: Agent, control_database: ControlDatabase) -> None:
    with psycopg.connect(control_database.dsn(), autocommit=True) as listener:
        listener.execute("LISTEN tenantry_report")
        agent.report()
        (note,) = listener.notifies(timeout=2, stop_after=1)
    assert note.payload == NODE_NAME
    beat, head = agent.call("heartbeat"), agent.call("head")
    now = datetime.now(UTC)
    assert timedelta(0) <= now - datetime.fromisoformat(beat.pop("now")) < timedelta(seconds=5)
    assert timedelta(0) <= now - datetime.fromisoformat(head.pop("now")) < timedelta(seconds=5)
    assert beat == head


def test_a_node_speaks_of_sites_that_are_or_were_and_of_no_others(
    agent: Agent, make_site: MakeSite, admin: Actor
) -> None:
    make_site("blog")
    site = make_site("gone")
    sites.delete_site(admin, "gone", confirm="gone")
    sites.finish_site_removal(site.number)
    one = {"revision": 5, "generation": 1, "state": "serving"}
    agent.report(*({**one, "slug": slug} for slug in ("blog", "gone", "made-up", *(f"x{n}" for n in range(1000)))))
    assert set(NodeSite.objects.values_list("slug", flat=True)) == {"blog", "gone"}
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM change WHERE site_slug = 'gone'")  # as a compaction does
    agent.report({**one, "slug": "gone", "revision": 6})
    assert NodeSite.objects.get(slug="gone").revision == 6


def test_an_agent_says_what_it_understands(agent: Agent) -> None:
    agent.report(version="2", features=["logins", "x" * 100, 7, *map(str, range(30))])
    assert Node.objects.get().features[:2] == ["logins", "0"]
    assert len(Node.objects.get().features) <= 20
    agent.report()
    assert queries.nodes_without("logins") == []
    agent.report(version="1")
    assert queries.nodes_without("logins") == [NODE_NAME]


def test_in_a_large_fleet_only_the_report_that_completes_it_is_sure_to_be_told(
    agent: Agent, control_database: ControlDatabase
) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO node (name, role, revision, digest, conditions, last_contact) "
            "SELECT 'n' || n, 'r' || n, 7, '', '[]', clock_timestamp() FROM generate_series(1, 1000) n"
        )
        cursor.execute("UPDATE node SET revision = 6 WHERE name = 'n1'")
    with psycopg.connect(control_database.dsn(), autocommit=True) as listener:
        listener.execute("LISTEN tenantry_report")
        for analyzed in (False, True):
            if analyzed:
                listener.execute("ANALYZE node")
            agent.connection.execute("SELECT setseed(0)")  # the next number is greater than one in a thousand
            agent.report(revision=7)
            assert list(listener.notifies(timeout=0.1)) == [], "one lives that has not caught up"
        listener.execute("UPDATE node SET last_contact = clock_timestamp() - interval '1 minute' WHERE name = 'n1'")
        listener.execute("UPDATE node SET revision = 6 WHERE name = %s", (NODE_NAME,))
        agent.report(revision=7)
        assert [note.payload for note in listener.notifies(timeout=2, stop_after=1)] == [NODE_NAME]


def test_what_thousand_nodes_ask_at_once_is_planned_once(control_database: ControlDatabase) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT proconfig FROM pg_proc WHERE oid = 'agent_v1.desired'::regproc")
        ((settings,),) = cursor.fetchall()
    assert "plan_cache_mode=force_generic_plan" in settings


def test_a_role_without_a_node_is_refused(agent: Agent) -> None:
    Node.objects.all().delete()
    for name, arguments in (("head", []), ("desired", [0]), ("heartbeat", []), ("report", ["{}"])):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            agent.call(name, *arguments)


@pytest.mark.parametrize(
    "call", ["lo_create(0)", "lo_creat(131072)", "lo_from_bytea(0, 'x')", "lo_import('/etc/hosts')"]
)
def test_a_node_cannot_store_large_objects(agent: Agent, call: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        agent.connection.execute(f"SELECT {call}")


def test_a_node_may_call_agent_v1_and_nothing_else(agent: Agent, control_database: ControlDatabase) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r','v','S')"
        )
        relations = [row[0] for row in cursor.fetchall()]
        cursor.execute("SELECT oid::regprocedure::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace")
        functions = [row[0] for row in cursor.fetchall()]
    assert {"site", "token", "change", "auth_user", "procrastinate_jobs"} <= set(relations)
    assert any(name.startswith("changelog_append") for name in functions)
    for relation in relations:
        for statement in (f"SELECT * FROM public.{relation}", f"DELETE FROM public.{relation}"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                agent.connection.execute(statement)
    for call in ("changelog_append('x', null, null, 'x', '{}')", "calling_node()"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            agent.connection.execute(f"SELECT public.{call}")
    for statement in ("CREATE TABLE public.mine (x int)", "CREATE SCHEMA mine", "CREATE TEMP TABLE mine (x int)"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            agent.connection.execute(statement)
    with control_database.server.connect(control_database.name) as superuser:
        granted = superuser.execute(
            "SELECT p.oid::regprocedure::text FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace "
            "WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') "
            "AND has_schema_privilege(%(role)s, n.oid, 'USAGE') AND has_function_privilege(%(role)s, p.oid, 'EXECUTE')",
            {"role": NODE_ROLE},
        ).fetchall()
    assert {name for (name,) in granted} == {
        "agent_v1.head()",
        "agent_v1.desired(bigint)",
        "agent_v1.report(jsonb)",
        "agent_v1.heartbeat()",
    }


def test_the_functions_cannot_be_led_astray_by_a_search_path(agent: Agent, make_site: MakeSite) -> None:
    make_site("blog")
    agent.connection.execute("SET search_path = pg_temp, agent_v1")
    assert set(by_slug(agent.desired())) == {"blog"}


def test_a_tenant_cannot_even_connect(control_database: ControlDatabase) -> None:
    server = control_database.server
    with server.connect() as superuser:
        superuser.execute("DROP ROLE IF EXISTS site_1")
        superuser.execute("CREATE ROLE site_1 LOGIN")
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        server.connect(control_database.name, "site_1")


@pytest.mark.parametrize("keyed", [False, True])
def test_ten_thousand_sites_are_told_in_a_moment(agent: Agent, make_site: MakeSite, admin: Actor, keyed: bool) -> None:
    make_site("first", hostnames=["first.example.org"])
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO site (slug, project_id, release_id, status, error, mode, runtime, generation, revision, "
            "processes, threads, sealed, environment_names) "
            "SELECT 's' || n, project_id, release_id, status, '', mode, runtime, 1, revision, 1, 1, sealed, '[]' "
            "FROM site, generate_series(1, %s) n WHERE slug = 'first'",
            [MANY],
        )
        cursor.execute("INSERT INTO hostname (name, site_id) SELECT slug || '.example.com', number FROM site")
        if keyed:
            services.adopt_node(NODE_NAME, NODE_ROLE, generate_key())
        cursor.execute("ANALYZE site; ANALYZE hostname; ANALYZE change; ANALYZE node_secret")
    started = time.monotonic()
    full = agent.desired()
    full_seconds = time.monotonic() - started
    assert len(full["sites"]) == MANY + 1
    sites.restart_site(admin, "s77")
    started = time.monotonic()
    changed = agent.desired(full["revision"])
    incremental_seconds = time.monotonic() - started
    assert set(by_slug(changed)) == {"s77"}
    print(
        f"desired of {MANY} sites, {keyed=}: full {full_seconds:.3f} s, one change {incremental_seconds * 1000:.1f} ms"
    )
    assert full_seconds < 5
    assert incremental_seconds < 0.1
