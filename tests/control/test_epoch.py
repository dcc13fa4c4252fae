"""The epoch is another whenever the data begin another life, without anybody having to remember to say so."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from django.db import connection

from tenantry.control.access.actors import Actor
from tenantry.control.changelog import queries as changelog
from tenantry.control.changelog.models import Change
from tenantry.control.fleet import services
from tenantry.control.sites import services as sites
from tenantry.control.sites.models import Site
from tenantry.testing.control import CONTROL_ROLE, NODE_ROLE, ControlDatabase
from tenantry.testing.postgres import PORT, SUPERUSER, PostgresServer, find_postgres_bin

from .conftest import Agent

MakeSite = Callable[..., Site]
SECONDS = 60.0


def heads(dsn: str) -> tuple[str, str, int]:
    """The epoch of `head`, of `desired`, and the revision, as the node of this database hears them."""
    with psycopg.connect(dsn, autocommit=True) as agent:
        row = agent.execute("SELECT agent_v1.head(), agent_v1.desired(0)").fetchone()
    assert row is not None
    head, desired = row
    assert head["revision"] == desired["revision"]
    return head["epoch"], desired["epoch"], head["revision"]


def run(*command: str) -> None:
    """Run a program of the server as the user it runs as; fail with its words."""
    user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
    program = str(find_postgres_bin() / command[0])
    done = subprocess.run(
        [*user, program, *command[1:]], capture_output=True, text=True, cwd="/", timeout=SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr


@contextmanager
def replica_of(server: PostgresServer) -> Iterator[PostgresServer]:
    """A streaming replica of the server."""
    directory = Path(tempfile.mkdtemp(prefix="tnt-re-", dir="/tmp"))
    data = directory / "data"
    if os.geteuid() == 0:
        shutil.chown(directory, "postgres", "postgres")
    run("pg_basebackup", "-h", server.host, "-p", str(PORT), "-U", SUPERUSER, "-D", str(data), "-R", "-X", "stream",
        "-c", "fast")  # fmt: skip
    primary = server.command
    command = [str(data) if word == str(server.directory / "data") else word for word in primary]
    command = [str(directory) if word == str(server.directory) else word for word in command]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd="/", start_new_session=True)
    replica = PostgresServer(directory, process, command)
    try:
        within(lambda: _answers(replica), lambda: replica.log.read_text()[-2_000:])
        yield replica
    finally:
        replica.stop()


def _answers(server: PostgresServer) -> bool:
    try:
        server.connect().close()
    except psycopg.OperationalError:
        return False
    return True


def within(condition: Callable[[], Any], words: Callable[[], str] = str) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, words()
        time.sleep(0.02)


def test_everybody_names_the_same_epoch(
    agent: Agent, control_database: ControlDatabase, admin: Actor, make_site: MakeSite
) -> None:
    make_site("blog")
    epoch, revision = changelog.head()
    assert heads(control_database.dsn(NODE_ROLE)) == (str(epoch), str(epoch), revision)
    assert agent.call("heartbeat")["epoch"] == str(epoch)
    assert Change.objects.latest("revision").epoch == epoch
    with connection.cursor() as cursor:
        cursor.execute("SELECT epoch FROM platform_state")
        assert cursor.fetchone()[0] != epoch, "the stored part alone would be restored with the data"


def test_a_person_begins_a_new_epoch(agent: Agent, admin: Actor) -> None:
    before, revision = changelog.head()
    epoch = services.new_epoch(admin)
    assert epoch != before
    assert changelog.head() == (epoch, revision + 1)
    last = Change.objects.latest("revision")
    assert (last.type, last.epoch, last.actor) == ("platform.epoch", epoch, "admin")
    assert agent.call("head")["epoch"] == str(epoch)


def test_a_restart_of_the_server_is_no_new_epoch(control_database: ControlDatabase) -> None:
    server = control_database.server
    before = heads(control_database.dsn(NODE_ROLE))
    connection.close()
    server.halt()
    server.resume()
    assert heads(control_database.dsn(NODE_ROLE)) == before


def test_a_backup_restored_into_a_new_database_is_another_epoch(
    control_database: ControlDatabase, make_site: MakeSite, admin: Actor
) -> None:
    make_site("blog")
    server = control_database.server
    directory = Path(tempfile.mkdtemp(prefix="tnt-du-", dir="/tmp"))
    directory.chmod(0o777)
    before = heads(control_database.dsn(NODE_ROLE))
    place = ("-h", server.host, "-p", str(PORT), "-U", SUPERUSER)
    try:
        run("pg_dump", *place, "-Fc", "-f", str(directory / "dump"), control_database.name)
        sites.restart_site(admin, "blog")
        server.drop_database("restored")
        server.create_database("restored", owner=CONTROL_ROLE)
        run("pg_restore", *place, "-d", "restored", str(directory / "dump"))
        after = heads(server.dsn("restored", NODE_ROLE))
        assert after[0] == after[1] != before[0]
        assert after[2] == before[2]
        # In place: the same name, another database.
        again = server.dsn("restored", NODE_ROLE)
        server.drop_database("restored")
        server.create_database("restored", owner=CONTROL_ROLE)
        run("pg_restore", *place, "-d", "restored", str(directory / "dump"))
        in_place = heads(again)[0]
        assert in_place not in (before[0], after[0])
        # Over the tables of the same database.
        run("pg_restore", *place, "--clean", "-d", "restored", str(directory / "dump"))
        assert heads(again)[0] not in (before[0], after[0], in_place)
    finally:
        shutil.rmtree(directory)
        server.drop_database("restored")


def test_a_promoted_replica_is_another_epoch_at_once(control_database: ControlDatabase, make_site: MakeSite) -> None:
    make_site("blog")
    before = heads(control_database.dsn(NODE_ROLE))
    with replica_of(control_database.server) as replica:
        dsn = replica.dsn(control_database.name, NODE_ROLE)
        assert heads(dsn) == before, "a replica that follows is the same life of the data"
        with replica.connect() as superuser:
            superuser.execute("SELECT pg_promote()")
        after = heads(dsn)  # the control file may not know of the promotion yet
        assert after[0] == after[1] != before[0]
        assert after[2] == before[2]
        with psycopg.connect(replica.dsn(control_database.name, CONTROL_ROLE)) as control:
            row = control.execute("SELECT changelog_append('user.created', NULL, NULL, 'x', '{}')").fetchone()
            assert row == (before[2] + 1,)
            row = control.execute("SELECT epoch::text FROM change ORDER BY revision DESC LIMIT 1").fetchone()
            assert row == (after[0],)
            control.commit()
        with replica.connect() as superuser:
            superuser.execute("CHECKPOINT")
        assert heads(dsn)[0] == after[0], "and stays so"
    assert heads(control_database.dsn(NODE_ROLE)) == before


def test_the_epoch_costs_a_writer_next_to_nothing(control_database: ControlDatabase) -> None:
    with psycopg.connect(control_database.dsn(CONTROL_ROLE)) as control:
        row = control.execute("EXPLAIN (ANALYZE, FORMAT JSON) SELECT platform_epoch() FROM generate_series(1, 1000)")
        plan = row.fetchone()
    assert plan is not None
    per_call_ms = plan[0][0]["Execution Time"] / 1_000
    print(f"platform_epoch(): {per_call_ms * 1000:.0f} µs")
    assert per_call_ms < 1
