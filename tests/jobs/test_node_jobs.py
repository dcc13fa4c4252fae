"""The role of a node: it logs in when its job has run, may call agent_v1 and nothing else, and goes with the node."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.utils import timezone
from psycopg.conninfo import make_conninfo

from tenantry.control.config import ControlConfig
from tenantry.control.config import Database as Place
from tenantry.testing.control import JOBS_ROLE, NODE_NAME, NODE_ROLE, ControlDatabase
from tenantry.testing.postgres import PORT, PostgresServer


@pytest.fixture
def platform(control_database: ControlDatabase, home: Path) -> Iterator[Any]:
    """What the jobs worker has, logged in as the worker is."""
    from tenantry.control.jobs.platform import platform_of

    place = Place(control_database.server.host, PORT, control_database.name, JOBS_ROLE)
    made = platform_of(replace(ControlConfig(), home=home, database=place))
    try:
        yield made
    finally:
        made.server.close()


@pytest.fixture
def joined(platform: Any) -> Any:
    """A node that has joined; its job has run."""
    made = join("web-1")
    run_jobs(platform)
    yield made
    with platform.server.admin() as admin:
        drop_all(admin)


def join(name: str) -> Any:
    from tenantry.control.access.actors import SETUP
    from tenantry.control.fleet import services

    _, text = services.create_join_token(SETUP, ttl=timedelta(hours=1))
    return services.join(text, name=name, version="1")


def run_jobs(platform: Any) -> None:
    """Run the jobs of nodes that were deferred, in order, as the worker does."""
    from django.db import connection

    from tenantry.control.jobs import nodes

    with connection.cursor() as cursor:
        cursor.execute("SELECT task_name, args FROM procrastinate_jobs WHERE task_name LIKE '%%node_role' ORDER BY id")
        rows = cursor.fetchall()
        cursor.execute("DELETE FROM procrastinate_jobs WHERE task_name LIKE '%%node_role'")
    for task, arguments in rows:
        getattr(nodes, task)(platform, **json.loads(arguments))


def drop_all(admin: Any) -> None:
    for (role,) in admin.execute(r"SELECT rolname FROM pg_roles WHERE rolname ~ '^tenantry_node_[2-9]'").fetchall():
        admin.execute(f"GRANT {role} TO CURRENT_USER")
        admin.execute(f"DROP OWNED BY {role}")
        admin.execute(f"DROP ROLE {role}")


def log_in(database: ControlDatabase, role: str, password: str, name: str | None = None) -> "psycopg.Connection[Any]":
    where = make_conninfo(
        host=database.server.host, port=PORT, dbname=name or database.name, user=role, password=password
    )
    return psycopg.connect(where, autocommit=True)


def is_refused(agent: "psycopg.Connection[Any]", statement: str) -> bool:
    try:
        agent.execute(statement)  # type: ignore[call-overload]
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.InvalidGrantOperation):
        return True
    return False


def roles(server: PostgresServer) -> set[str]:
    with server.connect() as superuser:
        return {name for (name,) in superuser.execute("SELECT rolname FROM pg_roles").fetchall()}


def remove(name: str) -> None:
    from tenantry.control.access.actors import SETUP
    from tenantry.control.fleet import services
    from tenantry.control.fleet.models import Node

    Node.objects.filter(name=name).update(last_contact=timezone.now() - timedelta(minutes=1))
    services.remove(SETUP, name)


def test_a_node_logs_in_with_its_password_and_no_other(
    control_database: ControlDatabase, platform: Any, joined: Any
) -> None:
    with log_in(control_database, joined.role, joined.password) as agent:
        row = agent.execute("SELECT agent_v1.heartbeat()").fetchone()
        assert row is not None
        assert row[0]["epoch"] == joined.epoch
    with pytest.raises(psycopg.OperationalError, match="password"):
        log_in(control_database, joined.role, "another")
    with control_database.server.connect() as superuser:
        row = superuser.execute(
            "SELECT rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls, rolconnlimit FROM pg_roles "
            "WHERE rolname = %s",
            [joined.role],
        ).fetchone()
    assert row == (False, False, False, False, False, 10)


def test_a_node_that_holds_a_lock_keeps_nobody_from_removing_it(
    control_database: ControlDatabase, platform: Any, joined: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tenantry.control.data import hoarders

    monkeypatch.setattr(hoarders, "BLOCKING_SECONDS", 0.5)
    with log_in(control_database, joined.role, joined.password) as agent:
        agent.execute("BEGIN")
        agent.execute("SELECT agent_v1.heartbeat()")
        time.sleep(0.6)
        assert hoarders.end_blocking_nodes(platform.server) == [], "nobody waits"
        with psycopg.connect(control_database.dsn(), autocommit=True) as person, ThreadPoolExecutor() as pool:
            removed = pool.submit(person.execute, "UPDATE node SET draining = true WHERE role = %s", [joined.role])
            ended: list[str] = []
            deadline = time.monotonic() + 10
            while not ended and time.monotonic() < deadline:
                ended = hoarders.end_blocking_nodes(platform.server)
            assert ended == [joined.role]
            assert removed.result(timeout=10).rowcount == 1
        with pytest.raises(psycopg.OperationalError):
            agent.execute("SELECT 1")


def test_a_joined_node_may_call_agent_v1_and_nothing_else(
    control_database: ControlDatabase, platform: Any, joined: Any
) -> None:
    server = control_database.server
    with server.connect(control_database.name) as superuser:
        objects = superuser.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v', 'S')"
        ).fetchall()
        callable_now = superuser.execute(
            "SELECT p.oid::regprocedure::text FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace "
            "WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') "
            "AND has_schema_privilege(%(role)s, n.oid, 'USAGE') AND has_function_privilege(%(role)s, p.oid, 'EXECUTE')",
            {"role": joined.role},
        ).fetchall()
    assert {name for (name,) in callable_now} == {
        "agent_v1.head()",
        "agent_v1.desired(bigint)",
        "agent_v1.report(jsonb)",
        "agent_v1.heartbeat()",
    }
    assert {("node_secret",), ("join_token",), ("site",), ("procrastinate_jobs",)} <= set(objects)
    forbidden = [f"SELECT * FROM public.{name}" for (name,) in objects]
    forbidden += [f"DELETE FROM public.{name}" for (name,) in objects]
    forbidden += [
        "SELECT public.platform_epoch()",
        "SELECT public.note_drift('node-1', '[]')",
        "SELECT public.changelog_compact(now(), 0)",
        "SELECT public.changelog_append('x', NULL, NULL, 'x', '{}')",
        "SELECT public.calling_node()",
        "SELECT * FROM pg_authid",
        "SELECT * FROM pg_shadow",
        "SELECT * FROM pg_hba_file_rules",
        "SELECT pg_read_file('/etc/passwd')",
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename <> session_user",
        "COPY (SELECT 1) TO PROGRAM 'true'",
        "SET ROLE tenantry_control",
        "SET SESSION AUTHORIZATION tenantry_node_1",
        "CREATE ROLE mine",
        "CREATE DATABASE mine",
        "CREATE SCHEMA mine",
        "CREATE TABLE public.mine (x int)",
        "CREATE TABLE agent_v1.mine (x int)",
        "CREATE TEMP TABLE mine (x int)",
        "CREATE OR REPLACE FUNCTION agent_v1.head() RETURNS jsonb LANGUAGE sql AS 'SELECT NULL::jsonb'",
        "DROP FUNCTION agent_v1.head()",
        "ALTER ROLE tenantry_nodes LOGIN",
        f"GRANT {joined.role} TO tenantry_node_1",
        f"ALTER ROLE {joined.role} SUPERUSER",
    ]
    with log_in(control_database, joined.role, joined.password) as agent:
        for statement in forbidden:
            assert is_refused(agent, statement), statement
        # What others do is not to be read either: their statements may hold anything.
        shown = agent.execute(
            "SELECT DISTINCT query FROM pg_stat_activity WHERE usename IS DISTINCT FROM session_user"
        ).fetchall()
        assert {text for (text,) in shown} <= {"<insufficient privilege>", "", None}


def test_a_node_enters_no_other_database(control_database: ControlDatabase, platform: Any, joined: Any) -> None:
    server = control_database.server
    server.drop_database("site_7")
    server.create_database("site_7")
    try:
        for name in ("postgres", "template1", "site_7"):
            with pytest.raises(psycopg.OperationalError, match=r"no pg_hba.conf entry|permission denied|password"):
                log_in(control_database, joined.role, joined.password, name)
    finally:
        server.drop_database("site_7")


def test_a_node_speaks_for_itself_alone(control_database: ControlDatabase, platform: Any, joined: Any) -> None:
    from tenantry.control.fleet.models import Node

    with log_in(control_database, joined.role, joined.password) as agent:
        agent.execute("""SELECT agent_v1.report('{"version": "9", "node": "node-1", "name": "node-1"}')""")
    assert list(Node.objects.order_by("name").values_list("name", "version")) == [(NODE_NAME, ""), ("web-1", "9")]


def test_the_job_may_come_twice(control_database: ControlDatabase, platform: Any) -> None:
    from django.db import connection

    from tenantry.control.jobs import nodes

    made = join("web-1")
    with connection.cursor() as cursor:
        cursor.execute("SELECT args->>'verifier' FROM procrastinate_jobs WHERE task_name = 'make_node_role'")
        (verifier,) = cursor.fetchone()
    nodes.make_node_role(platform, made.role, verifier)
    nodes.make_node_role(platform, made.role, verifier)
    log_in(control_database, made.role, made.password).close()
    remove("web-1")
    nodes.drop_node_role(platform, made.role)
    nodes.drop_node_role(platform, made.role)
    assert made.role not in roles(control_database.server)


def test_a_removed_nodes_connections_end_and_its_role_goes(
    control_database: ControlDatabase, platform: Any, joined: Any
) -> None:
    with log_in(control_database, joined.role, joined.password) as agent:
        agent.execute("LISTEN tenantry")
        remove("web-1")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            agent.execute("SELECT agent_v1.desired(0)")
        run_jobs(platform)
        with pytest.raises(psycopg.OperationalError):
            agent.execute("SELECT 1")
    assert joined.role not in roles(control_database.server)
    with pytest.raises(psycopg.OperationalError):
        log_in(control_database, joined.role, joined.password)


def test_a_node_removed_before_its_job_ran_gets_no_role(control_database: ControlDatabase, platform: Any) -> None:
    made = join("web-1")
    remove("web-1")
    run_jobs(platform)
    assert made.role not in roles(control_database.server)


def test_the_first_nodes_role_goes_with_its_own_grants(control_database: ControlDatabase, platform: Any) -> None:
    """It was granted by name, not through the group; and it stays when the machine was adopted again meanwhile."""
    from tenantry.control.fleet import services
    from tenantry.control.jobs import nodes

    server = control_database.server
    with server.connect() as superuser:
        superuser.execute("CREATE ROLE tenantry_node_first LOGIN")
        if superuser.info.server_version >= 160_000:  # what the set-up does
            superuser.execute(f"GRANT tenantry_node_first TO {JOBS_ROLE} WITH ADMIN TRUE, INHERIT FALSE, SET FALSE")
    services.adopt_node("first", "tenantry_node_first")
    nodes.drop_node_role(platform, "tenantry_node_first")
    assert "tenantry_node_first" in roles(server), "a node has it"
    remove("first")
    run_jobs(platform)
    assert "tenantry_node_first" not in roles(server)
    assert NODE_ROLE in roles(server)
