"""A database of the previous release, with a node in it, is brought up to date and the node goes on."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from django.core.management import call_command
from django.db import connection, connections

from tenantry.control.fleet import queries, services
from tenantry.testing.control import CONTROL_ROLE, NODE_ROLE, ControlDatabase, point_django_at

BEFORE = {"changelog": "0002", "releases": "0001", "sites": "0002", "fleet": "0002"}
FUNCTIONS = """
    SELECT p.oid::regprocedure::text, pg_get_functiondef(p.oid), p.proacl IS NULL
    FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
    WHERE n.nspname IN ('public', 'agent_v1') AND p.proname NOT LIKE 'procrastinate%' ORDER BY 1
"""


@pytest.fixture
def old_database(control_database: ControlDatabase) -> Iterator[ControlDatabase]:
    """A database as the previous release left it."""
    server = control_database.server
    server.drop_database("old")
    server.create_database("old", owner=CONTROL_ROLE)
    point_django_at(server, "old")
    for app, migration in BEFORE.items():
        call_command("migrate", app, migration, verbosity=0)
    try:
        yield ControlDatabase(server, "old")
    finally:
        connections.close_all()
        server.drop_database("old")


def rows(query: str, *parameters: Any) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(query, parameters or None)
        return list(cursor.fetchall()) if cursor.description else []


def test_nodes_and_changes_stay_and_the_functions_are_those_of_a_new_database(
    old_database: ControlDatabase, control_database: ControlDatabase
) -> None:
    rows("INSERT INTO node (name, role, revision, digest, conditions) VALUES ('first', %s, 1, '', '[]')", NODE_ROLE)
    rows("INSERT INTO node (name, role, revision, digest, conditions) VALUES ('second', 'x', 1, '', '[]')")
    rows("SELECT changelog_append('node.joined', NULL, NULL, 'setup', '{}')")
    ((epoch, revision),) = rows("SELECT epoch, revision FROM platform_state")
    call_command("migrate", verbosity=0)
    assert rows("SELECT revision, tail, epoch FROM platform_state") == [(revision, 0, epoch)]
    numbers = rows("SELECT number FROM node ORDER BY number")
    assert len({number for (number,) in numbers}) == 2
    # The previous release's control may still be running.
    rows("INSERT INTO node (name, role, revision, digest, conditions) VALUES ('third', 'y', 1, '', '[]')")
    assert rows("SELECT number FROM node WHERE name = 'third'")[0] > max(numbers)
    services.adopt_node("first", NODE_ROLE)
    with psycopg.connect(old_database.dsn(NODE_ROLE), autocommit=True) as agent:
        row = agent.execute("SELECT agent_v1.desired(0)").fetchone()
        agent.execute("SELECT agent_v1.heartbeat(), agent_v1.head(), agent_v1.report('{}')")
    assert row is not None
    assert row[0]["revision"] == revision
    assert row[0]["epoch"] != str(epoch), "the node reads everything anew after the upgrade"
    assert queries.node("first").state == "ready"
    upgraded = rows(FUNCTIONS)
    connections.close_all()
    point_django_at(control_database.server, control_database.name)
    assert upgraded == rows(FUNCTIONS)
    assert {"agent_v1.desired(bigint)", "platform_epoch()", "changelog_compact(timestamp with time zone,bigint)"} <= {
        name for name, *_ in upgraded
    }
