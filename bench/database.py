"""Control's database with sites and nodes in it, on a PostgreSQL of its own: no platform runs on it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from psycopg import sql

from tenantry.testing.control import (
    CONTROL_ROLE,
    ControlDatabase,
    create_control_database,
    create_template,
    drop_control_database,
    prepare_django,
)
from tenantry.testing.postgres import PostgresServer, start_postgres

AGENTS = "bench_agents"  # may call agent_v1, as the roles of nodes may
RELEASE = "demo-1"


@dataclass(frozen=True, slots=True)
class Bench:
    """A migrated control database. `site_slugs` are ready and served by every node."""

    server: PostgresServer
    database: ControlDatabase
    site_slugs: tuple[str, ...]

    def node_dsn(self, number: int) -> str:
        return self.database.dsn(node_role(number))


def node_role(number: int) -> str:
    return f"bench_node_{number}"


@contextmanager
def control_database(*, sites: int, nodes: int, **settings: str) -> Iterator[Bench]:
    """Start a server with `settings`, migrate, make sites and nodes; everything is gone at the end."""
    prepare_django()
    server = start_postgres(**settings)
    try:
        create_template(server)
        database = create_control_database(server)
        slugs = _make_sites(sites)
        _make_nodes(server, database, nodes)
        with server.connect(database.name) as connection:
            connection.execute("ANALYZE")  # as in a database that has been there for a while
        yield Bench(server, database, slugs)
        drop_control_database(database)
    finally:
        server.stop()


def _make_sites(count: int) -> tuple[str, ...]:
    """Rows as the services would leave them, without the hours of provisioning."""
    from tenantry.control.releases.models import Project, Release
    from tenantry.control.sites.models import Hostname, Site

    project = Project.objects.create(name="demo", source="/srv/demo")
    release = Release.objects.create(
        project=project, number=1, name=RELEASE, status="ready", digest="sha256:aa", python="3.11.2",
        wsgi="demo.wsgi:application", settings="demo.settings", manage="manage.py", static="static",
    )  # fmt: skip
    made = Site.objects.bulk_create(
        Site(slug=f"site-{number}", project=project, release=release, status="ready", sealed="x" * 600)
        for number in range(1, count + 1)
    )
    Hostname.objects.bulk_create(Hostname(name=f"{site.slug}.example.org", site=site) for site in made)
    return tuple(site.slug for site in made)


def _make_nodes(server: PostgresServer, database: ControlDatabase, count: int) -> None:
    from tenantry.control.fleet.models import Node

    group, name = sql.Identifier(AGENTS), sql.Identifier(database.name)
    with server.connect(database.name) as connection, connection.transaction():
        for statement in (
            "CREATE ROLE {group} NOLOGIN",
            "GRANT CONNECT ON DATABASE {name} TO {group}",
            "GRANT USAGE ON SCHEMA agent_v1 TO {group}",
            "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA agent_v1 TO {group}",
        ):
            connection.execute(sql.SQL(statement).format(group=group, name=name))
        for number in range(1, count + 1):
            connection.execute(
                sql.SQL("CREATE ROLE {} LOGIN IN ROLE {}").format(sql.Identifier(node_role(number)), group)
            )
    Node.objects.bulk_create(Node(name=f"bench-{number}", role=node_role(number)) for number in range(1, count + 1))


def control_dsn(bench: Bench) -> str:
    """Return how control itself logs in."""
    return bench.database.dsn(CONTROL_ROLE)
