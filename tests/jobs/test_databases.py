"""Templates and sites' databases on a real server, made by a role that is no superuser."""

import time
from collections.abc import Iterator

import psycopg
import pytest

from tenantry.control.data import databases, hoarders, site_roles
from tenantry.control.data.databases import TemplateMissing, provision_site_database
from tenantry.control.data.server import TenantServer
from tenantry.testing.postgres import PostgresServer

TEMPLATE = "tpl_demo_1"
TRUSTED_EXTENSION = """
    SELECT name FROM pg_available_extension_versions
    WHERE trusted AND NOT installed AND requires IS NULL ORDER BY name <> 'hstore', name LIMIT 1"""


@pytest.fixture
def template(tenant_server: TenantServer) -> Iterator[str]:
    """A sealed template with a table, a row and a schema of the project's own."""
    password = databases.create_template(tenant_server, TEMPLATE)
    with psycopg.connect(tenant_server.access(TEMPLATE, password).url, autocommit=True) as connection:
        connection.execute("CREATE TABLE page (id bigint GENERATED ALWAYS AS IDENTITY, title text)")
        connection.execute("INSERT INTO page (title) VALUES ('from the template')")
        connection.execute("CREATE SCHEMA extra CREATE TABLE extra.thing (id int)")
        # An extension that its owner may make; not every PostgreSQL comes with the same.
        for (extension,) in connection.execute(TRUSTED_EXTENSION).fetchall():
            connection.execute(f"CREATE EXTENSION {extension}")  # type: ignore[call-overload]
    databases.seal_template(tenant_server, TEMPLATE)
    yield TEMPLATE
    databases.drop_template(tenant_server, TEMPLATE)


def login(server: TenantServer, number: int, password: str) -> "psycopg.Connection[tuple[object, ...]]":
    return psycopg.connect(server.access(f"site_{number}", password).url, autocommit=True)


def test_a_site_owns_its_clone(tenant_server: TenantServer, template: str) -> None:
    provision_site_database(tenant_server, 1, "first", template)
    with login(tenant_server, 1, "first") as connection:
        assert connection.execute("SELECT title FROM page").fetchall() == [("from the template",)]
        connection.execute("ALTER TABLE page ADD COLUMN body text")
        connection.execute("INSERT INTO page (title) VALUES ('of the site')")
        connection.execute("DROP TABLE extra.thing")
        connection.execute("CREATE SCHEMA more")
        owners = connection.execute("SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'").fetchall()
    assert owners == [("site_1_owner",)]
    provision_site_database(tenant_server, 2, "second", template)
    with login(tenant_server, 2, "second") as connection:
        assert connection.execute("SELECT count(*) FROM page").fetchone() == (1,)
    for number in (1, 2):
        databases.drop_site_database(tenant_server, number)


def test_nobody_else_gets_in(tenant_server: TenantServer, template: str) -> None:
    provision_site_database(tenant_server, 1, "first", template)
    provision_site_database(tenant_server, 2, "second", template)
    access = tenant_server.access("site_2", "x")
    for database in ("site_2", template, "postgres", "template1"):
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(host=access.host, port=access.port, dbname=database, user="site_1", password="first")
    with pytest.raises(psycopg.OperationalError):
        login(tenant_server, 1, "wrong")
    for number in (1, 2):
        databases.drop_site_database(tenant_server, number)


def test_a_site_cannot_connect_even_where_the_access_rules_would_let_it(
    postgres_server: PostgresServer, tenant_server: TenantServer, template: str
) -> None:
    provision_site_database(tenant_server, 1, "first", template)
    with postgres_server.connect() as connection:
        row = connection.execute(
            "SELECT has_database_privilege('public', 'site_1', 'CONNECT, TEMP, CREATE')"
        ).fetchone()
    assert row == (False,)
    databases.drop_site_database(tenant_server, 1)


def test_provisioning_again_changes_nothing_and_resets_the_password(tenant_server: TenantServer, template: str) -> None:
    provision_site_database(tenant_server, 1, "first", template)
    with login(tenant_server, 1, "first") as connection:
        connection.execute("INSERT INTO page (title) VALUES ('kept')")
    provision_site_database(tenant_server, 1, "other", template)
    with login(tenant_server, 1, "other") as connection:
        assert connection.execute("SELECT count(*) FROM page").fetchone() == (2,)
    databases.drop_site_database(tenant_server, 1)


@pytest.mark.parametrize("survived", ["role", "clone"])
def test_provisioning_goes_on_after_a_crash(tenant_server: TenantServer, template: str, survived: str) -> None:
    with tenant_server.admin() as admin:
        roles = site_roles.SiteRoles(1)
        site_roles.set_login(admin, roles.site, "earlier")
        site_roles.make_owner(admin, roles)
        site_roles.join(admin, roles.owner)
        if survived == "clone":
            databases._clone(admin, roles, template)
    provision_site_database(tenant_server, 1, "first", template)
    with login(tenant_server, 1, "first") as connection:
        connection.execute("ALTER TABLE page ADD COLUMN body text")
    databases.drop_site_database(tenant_server, 1)


def test_dropping_works_while_somebody_is_connected_and_twice(tenant_server: TenantServer, template: str) -> None:
    provision_site_database(tenant_server, 1, "first", template)
    with login(tenant_server, 1, "first") as connection:
        databases.drop_site_database(tenant_server, 1)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    databases.drop_site_database(tenant_server, 1)
    assert not databases.site_database_exists(tenant_server, 1)


def test_the_template_survives_its_clones_and_goes_with_its_role(tenant_server: TenantServer, template: str) -> None:
    provision_site_database(tenant_server, 1, "first", template)
    databases.drop_site_database(tenant_server, 1)
    provision_site_database(tenant_server, 1, "first", template)
    assert template in databases.list_templates(tenant_server)
    databases.drop_template(tenant_server, template)
    databases.drop_template(tenant_server, template)
    assert template not in databases.list_templates(tenant_server)
    with login(tenant_server, 1, "first") as connection:
        connection.execute("ALTER TABLE page ADD COLUMN body text")
    databases.drop_site_database(tenant_server, 1)


def test_a_missing_template_is_named(tenant_server: TenantServer) -> None:
    with pytest.raises(TemplateMissing, match=r"tpl_demo_9.*build the release again"):
        provision_site_database(tenant_server, 1, "first", "tpl_demo_9")
    databases.drop_site_database(tenant_server, 1)


def test_the_longest_slug_keeps_its_templates_apart() -> None:
    slug = "a" + "-b" * 19 + "c"
    assert len(slug) == 40
    assert len(databases.template_name(slug, 10**17)) <= 63
    with pytest.raises(ValueError, match="63 bytes"):
        databases.template_name(slug, 10**18)


def test_a_role_has_limits_and_the_server_never_sees_its_password(
    tenant_server: TenantServer, template: str, postgres_server: PostgresServer
) -> None:
    provision_site_database(tenant_server, 1, "visible?", template)
    with postgres_server.connect() as connection:
        row = connection.execute(
            "SELECT rolconnlimit, rolsuper OR rolcreatedb OR rolcreaterole OR rolreplication OR rolbypassrls, "
            "rolpassword LIKE 'SCRAM-SHA-256%' FROM pg_authid WHERE rolname = 'site_1'"
        ).fetchone()
    assert row == (site_roles.SITE_CONNECTIONS, False, True)
    databases.drop_site_database(tenant_server, 1)


def test_a_neighbour_cannot_hold_up_a_removal(tenant_server: TenantServer, template: str) -> None:
    for number in (1, 2):
        provision_site_database(tenant_server, number, "secret", template)
    with login(tenant_server, 2, "secret") as hostile:
        hostile.execute("GRANT ALL ON page TO site_1")
        hostile.execute("GRANT ALL ON DATABASE site_2 TO site_1")
        hostile.execute("ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO site_1")
    databases.drop_site_database(tenant_server, 1)
    assert not databases.site_database_exists(tenant_server, 1)
    with tenant_server.admin() as admin:
        assert admin.execute("SELECT rolcanlogin FROM pg_roles WHERE rolname = 'site_1'").fetchall() == [(False,)]
    databases.drop_site_database(tenant_server, 2)
    with tenant_server.admin() as admin:
        assert admin.execute("SELECT 1 FROM pg_roles WHERE rolname IN ('site_1', 'site_2')").fetchall() == []


def test_a_site_cannot_keep_its_own_database(tenant_server: TenantServer, template: str) -> None:
    provision_site_database(tenant_server, 1, "secret", template)
    with login(tenant_server, 1, "secret") as hostile:
        hostile.execute("ALTER DATABASE site_1 IS_TEMPLATE true CONNECTION LIMIT 0")
    databases.drop_site_database(tenant_server, 1)
    assert not databases.site_database_exists(tenant_server, 1)


def test_a_site_that_takes_the_servers_locks_is_stopped(
    tenant_server: TenantServer, template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(databases, "LOCKS_MAX", 1_000)
    for number in (1, 2):
        provision_site_database(tenant_server, number, "secret", template)
    take = "SELECT count(pg_advisory_lock(n)) FROM generate_series(1, %s::int) AS n"
    with login(tenant_server, 1, "secret") as hostile, login(tenant_server, 2, "secret") as modest:
        hostile.execute(take, (1_500,))
        modest.execute(take, (500,))
        assert databases.end_lock_hoarders(tenant_server) == ["site_1"]
        with pytest.raises(psycopg.OperationalError):
            hostile.execute("SELECT 1")
        assert modest.execute("SELECT 1").fetchone() == (1,)
    for number in (1, 2):
        databases.drop_site_database(tenant_server, number)


def test_a_site_that_fills_the_queue_of_notifications_is_stopped(
    tenant_server: TenantServer, template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hoarders, "TRANSACTION_SECONDS", 0.2)
    for number in (1, 2):
        provision_site_database(tenant_server, number, "secret", template)
    with login(tenant_server, 1, "secret") as hostile, login(tenant_server, 2, "secret") as modest:
        hostile.execute("LISTEN anything")
        hostile.execute("SET idle_in_transaction_session_timeout = 0")
        hostile.execute("BEGIN")
        hostile.execute("SELECT 1")
        modest.execute("SELECT count(pg_notify('other', n || repeat('x', 7900))) FROM generate_series(1, 2000) AS n")
        time.sleep(0.3)
        assert hoarders.end_queue_holders(tenant_server) == [], "nearly empty"
        monkeypatch.setattr(hoarders, "QUEUE_MAX", 0.0005)
        assert hoarders.end_queue_holders(tenant_server) == ["site_1"]
        with pytest.raises(psycopg.OperationalError):
            hostile.execute("SELECT 1")
        modest.execute("SELECT count(pg_notify('other', n || repeat('x', 7900))) FROM generate_series(1, 8) AS n")
        used = modest.execute("SELECT pg_notification_queue_usage()").fetchone()
        assert used is not None
        assert used[0] < 0.0005
        assert hoarders.end_queue_holders(tenant_server) == []
    for number in (1, 2):
        databases.drop_site_database(tenant_server, number)
