"""Rows for the pages, made through the services, the jobs' outcomes and the agent's functions."""

import itertools
from typing import Any

from django.contrib.auth.models import User
from django.test import override_settings
from psycopg.types.json import Jsonb

from tenantry.control.access.actors import Actor
from tenantry.control.access.services import ensure_administrator
from tenantry.control.changelog.queries import head
from tenantry.control.fleet import services as fleet
from tenantry.control.releases import services as releases
from tenantry.control.sites import services as sites
from tenantry.control.sites.models import Hostname, Site
from tenantry.testing.control import NODE_ROLE, ControlDatabase

ADMIN = Actor(name="admin", is_admin=True, username="admin")
_numbers = itertools.count(1)


def administrator(username: str, password: str) -> None:
    """Create the administrator with a hash that any process of control can check: tests use a faster one."""
    with override_settings(PASSWORD_HASHERS=["django.contrib.auth.hashers.PBKDF2PasswordHasher"]):
        ensure_administrator(username, password)


def fast_administrator(username: str, password: str) -> User:
    """Create the administrator for this process alone."""
    ensure_administrator(username, password)
    return User.objects.get(username=username)


def project(name: str = "", *, ready: bool = True) -> str:
    """Add a project with a built release; returns its name."""
    name = name or f"demo{next(_numbers)}"
    releases.add_project(ADMIN, releases.ProjectRequest(name=name, source=f"/srv/{name}"))
    if ready:
        built(f"{name}-1")
    return name


def built(release: str) -> None:
    facts = releases.ReleaseFacts(
        digest="sha256:" + "4f" * 32,
        commit="9c1185a5c5e9fc54612808977ee8f548b2258d31",
        python="3.11.7",
        django="5.2.8",
        wsgi="demo.wsgi:application",
        settings="demo.settings",
        manage="manage.py",
        static="static",
    )
    releases.finish_release(release, facts)


def site(slug: str, project_name: str, *hostnames: str, provisioned: bool = True, **more: Any) -> Site:
    """Create a site as a person does; the job's part is played unless told otherwise."""
    names = hostnames or (f"{slug}.localhost",)
    made = sites.create_site(ADMIN, sites.SiteRequest(slug=slug, project=project_name, hostnames=names, **more))
    if provisioned:
        sites.mark_site_provisioned(made.number)
    return Site.objects.get(number=made.number)


def many_sites(count: int, project_name: str, prefix: str = "shop") -> None:
    """Insert provisioned sites directly: a service call each would take longer than the test."""
    like = Site.objects.filter(project__name=project_name).first() or site(f"{prefix}-first", project_name)
    made = Site.objects.bulk_create(
        [
            Site(
                slug=f"{prefix}-{number:05}",
                project=like.project,
                release=like.release,
                status="ready",
                sealed=like.sealed,
                revision=like.revision,
            )
            for number in range(1, count + 1)
        ]
    )
    Hostname.objects.bulk_create([Hostname(name=f"{one.slug}.localhost", site=one) for one in made])


def report(
    database: ControlDatabase,
    *lines: dict[str, Any],
    conditions: list[dict[str, Any]] | None = None,
    role: str = NODE_ROLE,
    **more: Any,
) -> None:
    """Report as the node does: over its own connection, with its own role."""
    epoch, revision = head()
    document = {
        "epoch": str(epoch),
        "revision": revision,
        "digest": "sha256x:0",
        "conditions": conditions or [],
        "sites": list(lines),
    }
    with database.server.connect(database.name, role) as connection:
        connection.execute("SELECT agent_v1.report(%s)", [Jsonb(document | more)])


def another_node(database: ControlDatabase, name: str) -> str:
    """Add a node; returns its role, which stays until the server of the tests ends."""
    role = "tenantry_" + name.replace("-", "_").replace(".", "_")
    with database.server.connect() as superuser:
        if superuser.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role]).fetchone() is None:
            superuser.execute(f"CREATE ROLE {role} LOGIN")
    fleet.adopt_node(name, role)
    return role


def drift(path: str, *, repaired: bool, **more: Any) -> dict[str, Any]:
    """A difference as a node reports it."""
    times = {"repaired_seconds": 4.8, "took_seconds": 0.21} if repaired else {}
    base = {"site": None, "kind": "mode", "path": path, "detail": "mode 0777, not 0755", "since_seconds": 27.0}
    return {**base, "found_seconds": 5.0, **times, **more}


def serving(database: ControlDatabase, *slugs: str) -> None:
    """Report that the node serves the sites as they are desired now."""
    lines = [
        {"slug": one.slug, "revision": one.revision, "generation": one.generation, "state": "serving", "message": ""}
        for one in Site.objects.filter(slug__in=slugs)
    ]
    report(database, *({**line, "log": ""} for line in lines))


def failing(database: ControlDatabase, slug: str, message: str, log: str) -> None:
    """Report that the node failed to start a site."""
    one = Site.objects.get(slug=slug)
    line = {"slug": slug, "revision": one.revision, "generation": one.generation, "state": "failed"}
    report(database, {**line, "message": message, "log": log})
