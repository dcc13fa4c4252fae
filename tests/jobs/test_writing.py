"""read_only in the database: what a site may do then, on connections that were open before, and what it cannot undo."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg import errors

from tenantry.control.data import databases, site_roles, writing
from tenantry.control.data.server import TenantServer
from tenantry.control.data.site_roles import SiteRoles, administrating, end_migration, let_migrate, settle
from tenantry.control.data.writing import close_database, may_write, open_database
from tenantry.testing.postgres import PostgresServer

TEMPLATE = "tpl_writing_1"
Connection = psycopg.Connection[tuple[Any, ...]]
Connect = Callable[[], Connection]


@pytest.fixture
def site(tenant_server: TenantServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Connect]:
    """The site 1, with a table of its template and one of its own; returns connections as the site."""
    monkeypatch.setattr(writing, "CONNECTIONS_SECONDS", 0.1)
    password = databases.create_template(tenant_server, TEMPLATE)
    with psycopg.connect(tenant_server.access(TEMPLATE, password).url, autocommit=True) as connection:
        connection.execute("CREATE TABLE page (id bigint GENERATED ALWAYS AS IDENTITY, title text)")
    databases.seal_template(tenant_server, TEMPLATE)
    databases.provision_site_database(tenant_server, 1, "one", TEMPLATE)
    opened: list[Connection] = []

    def connect() -> Connection:
        opened.append(psycopg.connect(tenant_server.access("site_1", "one").url, autocommit=True))
        return opened[-1]

    connect().execute("CREATE TABLE own (i int PRIMARY KEY); INSERT INTO own VALUES (1)")
    settle(tenant_server, 1)  # as after migrations
    yield connect
    for connection in opened:
        connection.close()
    databases.drop_site_database(tenant_server, 1)
    databases.drop_template(tenant_server, TEMPLATE)


PREPARATION: LiteralString = """
    INSERT INTO page (title) VALUES ('a');
    CREATE TABLE empty (i int);
    CREATE SCHEMA more CREATE TABLE more.thing (i int);
    CREATE SEQUENCE counter;
    CREATE VIEW seen AS SELECT * FROM own;
    CREATE MATERIALIZED VIEW kept AS SELECT * FROM own;
    CREATE EXTENSION hstore;
    CREATE TYPE colour AS ENUM ('red');
    CREATE FUNCTION sneak() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'INSERT INTO own VALUES (99) RETURNING 1';
    CREATE PROCEDURE sneak_again() LANGUAGE sql SECURITY DEFINER AS 'INSERT INTO own VALUES (98)';
    CREATE FUNCTION count_own() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS 'SELECT count(*) FROM own';
    CREATE FUNCTION private() RETURNS int LANGUAGE sql AS 'SELECT 7';
    REVOKE EXECUTE ON FUNCTION private() FROM PUBLIC;
    GRANT ALL ON own, page, empty, more.thing, seen, counter TO PUBLIC;
    GRANT INSERT (i), UPDATE (i) ON own TO PUBLIC;
    GRANT ALL ON own, counter TO site_1 WITH GRANT OPTION;
    GRANT ALL ON SCHEMA public, more TO PUBLIC;
    GRANT ALL ON DATABASE site_1 TO PUBLIC;
    GRANT CREATE ON DATABASE site_1 TO site_1;
    ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC;
    SELECT lo_from_bytea(4711, 'large');
    GRANT ALL ON LARGE OBJECT 4711 TO PUBLIC;
"""

REFUSED: list[LiteralString] = [
    "INSERT INTO own VALUES (2)",
    "UPDATE own SET i = 3",
    "DELETE FROM own",
    "TRUNCATE own",
    "INSERT INTO page (title) VALUES ('x')",
    "INSERT INTO more.thing VALUES (1)",
    "INSERT INTO seen VALUES (5)",
    "WITH x AS (INSERT INTO own VALUES (6) RETURNING i) SELECT * FROM x",
    "SELECT * FROM own FOR UPDATE",
    "BEGIN; LOCK TABLE own IN EXCLUSIVE MODE",
    "COPY own FROM STDIN",
    "SELECT nextval('counter')",
    "SELECT setval('counter', 5)",
    "SELECT sneak()",
    "CALL sneak_again()",
    "CREATE TABLE new (i int)",
    "CREATE TABLE more.new (i int)",
    "CREATE SCHEMA new",
    "ALTER TABLE own ADD COLUMN j int",
    "DROP TABLE own",
    "DROP SCHEMA more CASCADE",
    "DROP EXTENSION hstore CASCADE",
    "CREATE EXTENSION citext",
    "CREATE INDEX ON own (i)",
    "CREATE TRIGGER t AFTER INSERT ON own EXECUTE FUNCTION sneak()",
    "REFRESH MATERIALIZED VIEW kept",
    "ALTER TYPE colour ADD VALUE 'blue'",
    "CREATE OR REPLACE FUNCTION sneak() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "DROP FUNCTION sneak()",
    "ALTER FUNCTION sneak() SECURITY DEFINER",
    "SELECT lo_put(4711, 0, 'other')",
    "SELECT lo_unlink(4711)",
    "SELECT lowrite(lo_open(4711, 131072), 'x')",
    "COMMENT ON TABLE own IS 'x'",
    "ALTER DATABASE site_1 SET work_mem = '1MB'",
    "SET ROLE site_1_owner",
    "SET ROLE site_1_migrator",
    "GRANT site_1_owner TO site_1",
    "DO $$ BEGIN INSERT INTO own VALUES (7); END $$",
]

ALLOWED: list[LiteralString] = [
    "SELECT * FROM own, page, more.thing, seen, kept, empty",
    "SELECT last_value FROM counter",
    "SELECT lo_get(4711)",
    "SELECT 'a=>1'::hstore, 'red'::colour, private()",
    "LISTEN news",
    "NOTIFY news, 'x'",
    "CREATE TEMPORARY TABLE t AS SELECT * FROM own",
    "INSERT INTO t VALUES (5)",
    "SELECT pg_advisory_xact_lock(1)",
]


def test_a_closed_database_refuses_every_write_and_serves_every_read(
    tenant_server: TenantServer, site: Connect, postgres_server: PostgresServer
) -> None:
    before = site()
    before.execute(PREPARATION)
    close_database(tenant_server, 1)
    assert not may_write(tenant_server, 1)
    for connection in (before, site()):
        connection.execute("SET default_transaction_read_only = off")
        for statement in REFUSED:
            with pytest.raises((errors.InsufficientPrivilege, errors.UndefinedFunction, errors.WrongObjectType)):
                connection.execute(statement)
            connection.execute("ROLLBACK")
        for statement in ALLOWED:
            connection.execute(statement)
        assert connection.execute("SELECT count_own()").fetchone() == (1,)
        # PostgreSQL asks nobody for a right to make a large object. Nothing can refer to it.
        connection.execute("SELECT lo_create(0)")
    with postgres_server.connect("site_1") as superuser:
        assert superuser.execute("SELECT i FROM own").fetchall() == [(1,)]
    open_database(tenant_server, 1)
    assert may_write(tenant_server, 1)
    assert before.execute("SELECT sneak()").fetchone() == (1,)
    before.execute("DROP SCHEMA more CASCADE; DROP EXTENSION hstore; ALTER TABLE own ADD COLUMN j int")
    definers = "SELECT proname FROM pg_proc WHERE prosecdef ORDER BY 1"
    assert [row[0] for row in before.execute(definers)] == ["count_own", "sneak", "sneak_again"]


def wait_until_closed(connection: Connection) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        row = connection.execute("SELECT pg_has_role('site_1_owner', 'USAGE')").fetchone()
        if row == (False,):
            return
        time.sleep(0.02)
    pytest.fail("the database was not closed")


def test_who_had_become_the_owner_owns_nothing_any_more(tenant_server: TenantServer, site: Connect) -> None:
    first, second = site(), site()
    if first.info.server_version >= site_roles.SET_IS_AN_OPTION:
        with pytest.raises(errors.InsufficientPrivilege):
            first.execute("SET ROLE site_1_owner")
        return
    first.execute("SET ROLE site_1_owner")
    first.execute("CREATE TABLE mine (i int)")
    close_database(tenant_server, 1)
    open_database(tenant_server, 1)
    second.execute("SET ROLE site_1_owner")
    second.execute("INSERT INTO mine VALUES (1)")
    close_database(tenant_server, 1)
    for hostile in (first, second):
        for statement in (
            "INSERT INTO mine VALUES (2)",
            "GRANT ALL ON own TO PUBLIC",
            "CREATE TABLE other (i int)",
            "CREATE SCHEMA other",
            "ALTER TABLE own OWNER TO site_1",
            "DROP TABLE mine",
            "SET ROLE site_1_owner",
        ):
            with pytest.raises((errors.InsufficientPrivilege, errors.InvalidParameterValue, errors.UndefinedTable)):
                hostile.execute(statement)  # UndefinedTable: without a role, not even the schema is seen
    assert site().execute("SELECT count(*) FROM mine").fetchone() == (1,)
    with tenant_server.admin() as admin:
        assert site_roles.existing(admin, ["site_1_former"]) == []
    open_database(tenant_server, 1)
    site().execute("INSERT INTO mine VALUES (3); ALTER TABLE own ADD COLUMN j int")


def test_what_was_under_way_goes_on_reading_and_stops_writing(tenant_server: TenantServer, site: Connect) -> None:
    prepared, transaction, untouched = site(), site(), site()
    for number in range(10, 20):
        prepared.execute("INSERT INTO own VALUES (%s)", (number,), prepare=True)
    transaction.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    transaction.execute("SELECT count(*) FROM own")
    untouched.execute("SELECT 1")
    pids = [connection.info.backend_pid for connection in (prepared, transaction, untouched)]
    closing = threading.Thread(target=close_database, args=(tenant_server, 1))
    closing.start()
    wait_until_closed(prepared)
    with pytest.raises(errors.InsufficientPrivilege):
        prepared.execute("INSERT INTO own VALUES (%s)", (20,), prepare=True)
    assert transaction.execute("SELECT count(*) FROM own").fetchone() == (11,)
    with pytest.raises(errors.InsufficientPrivilege):
        transaction.execute("INSERT INTO own VALUES (21)")
    transaction.execute("ROLLBACK")
    closing.join(10)
    assert untouched.execute("SELECT count(*) FROM own").fetchone() == (11,)
    open_database(tenant_server, 1)
    prepared.execute("INSERT INTO own VALUES (%s)", (20,), prepare=True)
    assert pids == [connection.info.backend_pid for connection in (prepared, transaction, untouched)]


def test_writing_that_had_begun_may_end_and_is_ended(tenant_server: TenantServer, site: Connect) -> None:
    short, loop, copy, idle, reader = (site() for _ in range(5))
    ended: dict[str, type[BaseException] | None] = {}

    def run(name: str, connection: Connection, statement: LiteralString) -> threading.Thread:
        def body() -> None:
            try:
                connection.execute(statement)
                ended[name] = None
            except psycopg.Error as error:
                ended[name] = type(error)

        thread = threading.Thread(target=body)
        thread.start()
        return thread

    threads = [
        run("short", short, "DO $$ BEGIN INSERT INTO own VALUES (2); PERFORM pg_sleep(0.6); END $$"),
        run(
            "loop",
            loop,
            "DO $$ BEGIN FOR n IN 100..9999 LOOP INSERT INTO own VALUES (n); PERFORM pg_sleep(0.01); END LOOP; END $$",
        ),
        run("reader", reader, "SELECT pg_sleep(3), i FROM own"),
    ]
    idle.execute("SET idle_in_transaction_session_timeout = 0")
    idle.execute("BEGIN")
    idle.execute("INSERT INTO own VALUES (3)")
    began, done = threading.Event(), threading.Event()

    def copy_without_end() -> None:
        try:
            with copy.cursor() as cursor, cursor.copy("COPY own FROM STDIN") as stream:
                while not done.wait(0.01):
                    stream.write("20000\n")
                    began.set()
        except psycopg.Error as error:
            ended["copy"] = type(error)

    threads.append(threading.Thread(target=copy_without_end))
    threads[-1].start()
    assert began.wait(5)
    time.sleep(0.2)
    begin = time.monotonic()
    close_database(tenant_server, 1, writers_seconds=1.0)
    took = time.monotonic() - begin
    done.set()
    assert 1.0 < took < 4.0
    for thread in threads:
        thread.join(10)
    assert (ended["short"], ended["reader"]) == (None, None)
    assert ended["copy"] is not None
    assert ended["loop"] in (errors.QueryCanceled, errors.InsufficientPrivilege)
    with pytest.raises(psycopg.OperationalError):
        idle.execute("COMMIT")
    assert [row[0] for row in loop.execute("SELECT i FROM own ORDER BY 1")] == [1, 2]


def test_closing_and_opening_again_change_nothing(tenant_server: TenantServer, site: Connect) -> None:
    connection = site()
    for _ in range(2):
        close_database(tenant_server, 1)
        with pytest.raises(errors.InsufficientPrivilege):
            connection.execute("DELETE FROM own")
    settle(tenant_server, 1)
    assert not may_write(tenant_server, 1)
    for _ in range(2):
        open_database(tenant_server, 1)
        connection.execute("DELETE FROM own")


@pytest.mark.parametrize(
    ("step", "call"),
    [
        ("keep_to_reading", 1),
        ("settle_objects", 1),
        ("keep_to_reading", 2),
        ("end_writers", 1),
        ("replace_owner", 1),
        ("join", 1),
        ("settle_objects", 2),
        ("drop_former", 1),
    ],
)
def test_closing_that_was_interrupted_is_completed_or_undone(
    tenant_server: TenantServer, site: Connect, step: str, call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = site()
    if step in ("replace_owner", "join") and connection.info.server_version >= site_roles.SET_IS_AN_OPTION:
        pytest.skip("no connection can have become the owner")
    connection.execute("CREATE FUNCTION f() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'DELETE FROM own RETURNING 1'")
    real, calls = getattr(writing, step), 0

    def interrupted(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            raise InterruptedError(step)
        return real(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(writing, step, interrupted)
        with pytest.raises(InterruptedError):
            close_database(tenant_server, 1)
    open_database(tenant_server, 1)
    connection.execute("INSERT INTO own VALUES (2)")
    assert connection.execute("SELECT prosecdef FROM pg_proc WHERE proname = 'f'").fetchone() == (True,)
    close_database(tenant_server, 1)
    with pytest.raises(errors.InsufficientPrivilege):
        connection.execute("SELECT f()")
    assert connection.execute("SELECT count(*) FROM own").fetchone() == (2,)


def test_a_site_of_before_there_were_owners_is_settled_while_it_works(
    tenant_server: TenantServer, postgres_server: PostgresServer
) -> None:
    with postgres_server.connect() as superuser:
        superuser.execute("CREATE ROLE site_7 LOGIN PASSWORD 'seven'")
        superuser.execute("CREATE DATABASE site_7 OWNER site_7 TEMPLATE template0")
        superuser.execute("REVOKE ALL ON DATABASE site_7 FROM PUBLIC")
        superuser.execute("GRANT site_7 TO jobs_admin WITH ADMIN OPTION")  # who made it has that
    try:
        with psycopg.connect(tenant_server.access("site_7", "seven").url, autocommit=True) as connection:
            connection.execute("CREATE TABLE note (id serial, text text); CREATE SCHEMA app")
            connection.execute("CREATE FUNCTION app.f() RETURNS int LANGUAGE sql AS 'SELECT 1'")
            connection.execute("REVOKE ALL ON SCHEMA app, public FROM site_7, pg_database_owner")
            settle(tenant_server, 7)
            connection.execute("INSERT INTO note (text) VALUES ('x'); ALTER TABLE note ADD COLUMN more int")
            assert may_write(tenant_server, 7)
            close_database(tenant_server, 7)
            with pytest.raises(errors.InsufficientPrivilege):
                connection.execute("INSERT INTO note (text) VALUES ('x')")
        with postgres_server.connect() as superuser:
            mine = superuser.execute("SELECT pg_has_role('jobs_admin', 'site_7_owner', 'USAGE')").fetchone()
            assert mine == (False,)
    finally:
        databases.drop_site_database(tenant_server, 7)
    with postgres_server.connect() as superuser:
        assert superuser.execute("SELECT rolname FROM pg_roles WHERE rolname ~ '^site_7'").fetchall() == []


def test_who_keeps_a_table_locked_is_waited_for_and_then_ended(tenant_server: TenantServer, site: Connect) -> None:
    holder, other = site(), site()
    holder.execute("CREATE TABLE new (i int)")
    holder.execute("BEGIN")
    holder.execute("SELECT * FROM new")
    began = time.monotonic()
    settled = threading.Thread(target=lambda: settle(tenant_server, 1, locked_seconds=0.5))
    settled.start()
    slowest = 0.0
    while settled.is_alive():
        asked = time.monotonic()
        other.execute("SELECT * FROM new")
        slowest = max(slowest, time.monotonic() - asked)
    settled.join()
    assert slowest < 0.4, "others queue behind the change of owner for 0.1 s at most"
    assert time.monotonic() - began > 0.5
    with pytest.raises(psycopg.OperationalError):
        holder.execute("SELECT 1")


def test_a_hostile_owner_cannot_keep_the_platform_out(tenant_server: TenantServer, site: Connect) -> None:
    hostile = site()
    hostile.execute("CREATE SCHEMA evil; CREATE FUNCTION evil.format(text) RETURNS text LANGUAGE sql AS 'SELECT 1/0'")
    for statement in (
        "ALTER DATABASE site_1 SET search_path = evil, pg_catalog",
        "ALTER DATABASE site_1 SET role = 'site_1'",
        "ALTER DATABASE site_1 SET default_transaction_read_only = on",
        "ALTER DATABASE site_1 SET statement_timeout = 1",
        "ALTER DATABASE site_1 CONNECTION LIMIT 0",
        "REVOKE ALL ON DATABASE site_1 FROM site_1, site_1_owner",
        "REVOKE ALL ON SCHEMA evil, public FROM site_1_owner, pg_database_owner, site_1",
        "ALTER ROLE site_1 SET role = 'site_1_owner'",
    ):
        hostile.execute(statement)
    close_database(tenant_server, 1)
    with pytest.raises(errors.InsufficientPrivilege):
        hostile.execute("DELETE FROM own")
    open_database(tenant_server, 1)
    hostile.execute("DELETE FROM own")


def test_migrations_write_while_the_site_may_not(tenant_server: TenantServer, site: Connect) -> None:
    close_database(tenant_server, 1)
    password = let_migrate(tenant_server, 1)
    access = tenant_server.access("site_1", password, SiteRoles(1).migrator)
    with psycopg.connect(access.url, autocommit=True) as migration:
        migration.execute("ALTER TABLE own ADD COLUMN j int; CREATE TABLE new (i int); INSERT INTO new VALUES (1)")
        with pytest.raises(errors.InsufficientPrivilege):
            migration.execute("GRANT site_1_owner TO site_1")
        with pytest.raises(errors.InsufficientPrivilege):
            site().execute("INSERT INTO own VALUES (5)")
        end_migration(tenant_server, 1)
        with pytest.raises(psycopg.OperationalError):
            migration.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(access.url)
    close_database(tenant_server, 1)
    assert site().execute("SELECT * FROM new").fetchall() == [(1,)]


def test_another_sites_login_does_not_get_in(tenant_server: TenantServer, site: Connect) -> None:
    databases.provision_site_database(tenant_server, 2, "two", TEMPLATE)
    try:
        site().execute("GRANT ALL ON DATABASE site_1 TO site_2")
        with pytest.raises(errors.InsufficientPrivilege):
            site().execute("GRANT site_1 TO site_2")
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(tenant_server.access("site_1", "two", "site_2").url)
    finally:
        databases.drop_site_database(tenant_server, 2)


def test_the_platform_belongs_to_no_site_when_it_is_done(tenant_server: TenantServer, site: Connect) -> None:
    with tenant_server.admin() as admin:
        mine = admin.execute("SELECT pg_has_role('site_1', 'USAGE'), pg_has_role('site_1_owner', 'USAGE')").fetchone()
    assert mine == (False, False)
    with administrating(tenant_server, SiteRoles(1)) as admin:
        assert site_roles.existing(admin, SiteRoles(1).all) == ["site_1", "site_1_migrator", "site_1_owner"]
