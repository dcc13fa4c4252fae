"""Control as the tests use it: its services, in this process, on the server that `HostedPostgres.use` chose."""

from typing import Any

from tenantry.testing.control import NODE_NAME, NODE_ROLE, prepare_django
from tenantry.testing.postgres import PostgresServer

prepare_django()

from django.conf import settings  # noqa: E402
from django.db import connections  # noqa: E402

from tenantry.control.access.actors import SETUP  # noqa: E402
from tenantry.control.fleet import services as fleet  # noqa: E402
from tenantry.control.releases import services as releases  # noqa: E402
from tenantry.control.sites import services as sites  # noqa: E402

PROJECT = "demo"
RELEASE = "demo-1"
FACTS = releases.ReleaseFacts(
    digest=f"sha256:{RELEASE}",
    commit="abc",
    python="3.11.2",
    django="5.2.1",
    wsgi="app:application",
    settings="app",
    manage="manage.py",
    static="static",
)


def join(server: PostgresServer, number: int) -> tuple[str, str, str]:
    """Make node `number` known; returns its name, its role and its key. The template knows the first already."""
    name, role = f"node-{number}", f"tenantry_node_{number}"
    if (name, role) != (NODE_NAME, NODE_ROLE):
        with server.connect() as connection:
            if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,)).fetchone():
                connection.execute(f'CREATE ROLE "{role}" LOGIN')  # type: ignore[call-overload]
        fleet.join_node(name, role)
    return name, role, str(settings.TENANTRY.platform_key)


def add_release() -> None:
    """Add the project of all sites, with a ready release."""
    releases.add_project(SETUP, releases.ProjectRequest(name=PROJECT, source="/srv/demo"))
    releases.finish_release(RELEASE, FACTS)


def forget_connections() -> None:
    """Connect anew with the next act: the server went away meanwhile."""
    connections.close_all()


def create_site(slug: str, **fields: Any) -> None:
    """Ask for a site, under `<slug>.localhost` unless told otherwise, and say that its database was made."""
    request = sites.SiteRequest(slug=slug, project=PROJECT, **{"hostnames": [f"{slug}.localhost"], **fields})
    sites.mark_site_provisioned(sites.create_site(SETUP, request).number)


def add_hostname(slug: str, name: str) -> None:
    sites.add_hostname(SETUP, slug, name)


def remove_hostname(slug: str, name: str) -> None:
    sites.remove_hostname(SETUP, slug, name)


def delete_site(slug: str) -> None:
    sites.delete_site(SETUP, slug, confirm=slug)
