"""Control as the tests use it: its services, in this process, on the server that `HostedPostgres.use` chose."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from tenantry.sealing import generate_key
from tenantry.testing.control import NODE_NAME, NODE_ROLE, NODES_ROLE, prepare_django
from tenantry.testing.postgres import PostgresServer

prepare_django()

from django.db import connections  # noqa: E402

from tenantry.control.access.actors import SETUP  # noqa: E402
from tenantry.control.fleet import services as fleet  # noqa: E402
from tenantry.control.releases import services as releases  # noqa: E402
from tenantry.control.sites import services as sites  # noqa: E402

PROJECT = "demo"
RELEASE = "demo-1"


@dataclass(frozen=True, slots=True)
class Membership:
    """What a machine is given when it joins: who it is, its PostgreSQL role, the key of its sites' secrets."""

    name: str
    role: str
    key: str = field(repr=False)


def join(server: PostgresServer, number: int) -> Membership:
    """Make node `number` known: the first as the set-up does, the others with a token."""
    name = f"node-{number}"
    if number == 1:
        key = generate_key()
        fleet.adopt_node(NODE_NAME, NODE_ROLE, key)
        return Membership(NODE_NAME, NODE_ROLE, key)
    _, token = fleet.create_join_token(SETUP, ttl=timedelta(minutes=5))
    joined = fleet.join(token, name=name, version="test")
    with server.connect() as connection:  # what the job does
        connection.execute(f'CREATE ROLE "{joined.role}" LOGIN IN ROLE "{NODES_ROLE}"')  # type: ignore[call-overload]
    return Membership(name, joined.role, joined.node_key)


def add_project() -> None:
    """Add the project of all sites, with its first release ready."""
    releases.add_project(SETUP, releases.ProjectRequest(name=PROJECT, source="/srv/demo"))
    _finish(RELEASE)


def add_release() -> str:
    """Add another ready release, which sites get that ask for it; returns its name."""
    name = releases.request_release(SETUP, PROJECT).name
    _finish(name)
    return name


def _finish(name: str) -> None:
    facts = releases.ReleaseFacts(
        digest=f"sha256:{name}",
        commit="abc",
        python="3.11.2",
        django="5.2.1",
        wsgi="app:application",
        settings="app",
        manage="manage.py",
        static="static",
    )
    releases.finish_release(name, facts)


def add_release_request() -> None:
    """Make a change that asks nothing of the nodes, but has them look."""
    releases.request_release(SETUP, PROJECT)


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


def set_mode(slug: str, mode: str) -> None:
    sites.set_mode(SETUP, slug, mode)


def confirm(node: str, token: str) -> None:
    fleet.confirm_removal(SETUP, node, token)


def delete_site(slug: str) -> None:
    sites.delete_site(SETUP, slug, confirm=slug)
