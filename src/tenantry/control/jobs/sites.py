"""The jobs of a site: provision its data, move it to another release, remove it."""

import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tenantry.control.data import databases, directories, site_roles, writing
from tenantry.control.data.dumps import DumpRequest, dump_site
from tenantry.control.jobs.numbers import foreign_files
from tenantry.control.jobs.platform import Platform
from tenantry.control.jobs.retries import Interrupted, Terminal
from tenantry.control.releases.building.commands import (
    BuildLog,
    Command,
    Owner,
    Runner,
    control_group,
    end_processes_of,
)
from tenantry.control.releases.building.context import StepFailed
from tenantry.control.releases.models import Release, ReleaseStatus
from tenantry.control.sealing import sealer
from tenantry.control.sites import outcomes, queries
from tenantry.control.sites.database_mode import wants_read_only
from tenantry.control.sites.models import Site, SiteStatus
from tenantry.spec.environment import DatabaseAccess, SiteIdentity, SitePlaces, site_environment
from tenantry.spec.users import project_uid

NODES_SECONDS = 15.0  # how long a removal waits for nodes to stop serving; then connections are cut anyway
NODES_POLL_SECONDS = 0.1
MIGRATE_SECONDS = 3600.0  # one site's migrations


def provision_site(platform: Platform, number: int) -> None:
    """Give a site its directories, Redis user, role and database, then hand it to the nodes.

    1 directories · 2 Redis user · 3 database · 4 status ready. Each may be repeated; until 4 no node knows the site.
    """
    site = _site(number)
    if site is None or site.status in (SiteStatus.READY, SiteStatus.DELETING):
        return
    other = foreign_files(platform, site.slug, number)
    if other is not None:
        raise Terminal(
            f"Files of another site, in {other}, belong to the user of number {number}: the database was restored from "
            "a backup that does not know that site. Delete this site without a dump and create it again."
        )
    secrets = sealer().unseal(site.sealed)
    owner = directories.site_owner(platform.uid_base, number)
    directories.make_site_directories(platform.home, site.slug, owner)
    name = databases.site_name(number)
    if platform.cache is not None:
        platform.cache.provision_user(name, site.slug, secrets["cache_password"])
    template = databases.template_name(site.project.name, site.release.number)
    try:
        databases.provision_site_database(platform.server, number, secrets["database_password"], template)
    except databases.TemplateMissing as error:
        raise Terminal(str(error)) from error
    outcomes.mark_site_provisioned(number)


def remove_site(platform: Platform, number: int, *, dump: bool, wait_seconds: float = NODES_SECONDS) -> None:
    """Remove a site's data once no node serves it, after a last dump unless told otherwise.

    1 wait for the nodes · 2 dump · 3 database and role · 4 Redis user and keys · 5 directories · 6 logs · 7 the site's
    row. Invariant: nothing is dropped before the dump is complete on disk.
    """
    site = _site(number)
    if site is None:
        return
    _wait_for_nodes(platform, site.slug, wait_seconds)
    owner = directories.site_owner(platform.uid_base, number)
    # What the site's code started apart from its server outlives it, and could still write what is dumped next.
    end_processes_of(owner.uid)
    kept = None
    if dump:
        request = DumpRequest(platform.home, site.slug, number, owner, datetime.now(UTC))
        kept = dump_site(platform.server, request)
    databases.drop_site_database(platform.server, number)
    if platform.cache is not None:
        first, second = site_roles.SiteRoles(number).logins
        platform.cache.end_user(second)
        platform.cache.drop_user(first, site.slug)
    directories.remove_site_directories(platform.home, site.slug)
    directories.remove_site_logs(platform.home, site.slug)
    outcomes.finish_site_removal(number, str(kept) if kept else None)


def _wait_for_nodes(platform: Platform, slug: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while queries.nodes_serving(slug) and time.monotonic() < deadline:
        if platform.stopping.wait(NODES_POLL_SECONDS):
            raise Interrupted("the worker ends while nodes still serve the site")


def upgrade_site(platform: Platform, number: int, release_name: str) -> None:
    """Run the migrations of another release in a site's database; then the nodes may change over.

    They work as the owner of the database, also where the site may only read. When they fail the site stays on its
    release and the error, with the end of the log, is reported.
    """
    site = _site(number)
    release = Release.objects.select_related("project").filter(name=release_name).first()
    if site is None or site.status != SiteStatus.READY or site.pending_release_id is None:
        return
    if release is None or release.status != ReleaseStatus.READY or release.pk != site.pending_release_id:
        return  # a later request has its own job
    log = BuildLog(platform.home / "logs" / "sites" / f"{site.slug}.migrate.log", control_group(platform.uid_base))
    try:
        _migrate(platform, site, release, log)
    except StepFailed as error:
        if platform.stopping.is_set():
            raise Interrupted("the worker ends during a migration") from error
        outcomes.fail_site_upgrade(number, f"{error}\n\n{log.tail}")
        return
    finally:
        log.close()
    outcomes.finish_site_upgrade(number, release_name)


def _migrate(platform: Platform, site: Site, release: Release, log: BuildLog) -> None:
    """Run the migrations with a login of their own; what they make belongs to the owner. Raises `StepFailed`."""
    site_roles.settle(platform.server, site.number)
    password = site_roles.let_migrate(platform.server, site.number)
    try:
        access = platform.server.access(
            databases.site_name(site.number), password, site_roles.SiteRoles(site.number).migrator
        )
        command = _migration(platform, site, release, access)
        _runner(platform, site, log).run(command, f"The migrations of {release.name} failed")
    finally:
        site_roles.end_migration(platform.server, site.number)
        site.refresh_from_db()
        if wants_read_only(site):
            writing.close_database(platform.server, site.number)
        else:
            site_roles.settle(platform.server, site.number)


def _runner(platform: Platform, site: Site, log: BuildLog) -> Runner:
    owner = directories.site_owner(platform.uid_base, site.number)
    if owner.uid is None or platform.uid_base is None:
        return Runner(Owner(), log, platform.stopping)
    project = project_uid(platform.uid_base, site.project_id)
    return Runner(Owner(owner.uid, owner.own_gid, (project,)), log, platform.stopping)


def _migration(platform: Platform, site: Site, release: Release, access: DatabaseAccess) -> Command:
    directory = platform.home / "releases" / release.name
    manage = Path(release.manage)
    library = ("-m", "django_tenantry") if platform.library_wheel else ()
    argv = (str(directory / "venv/bin/python"), *library, manage.name, "migrate", "--noinput", "--verbosity=1")
    environment = _environment(platform, site, release, access)
    return Command(argv, directory / "src" / manage.parent, environment, MIGRATE_SECONDS)


def _environment(platform: Platform, site: Site, release: Release, access: DatabaseAccess) -> Mapping[str, str]:
    secrets: Mapping[str, Any] = sealer().unseal(site.sealed)
    directory = platform.home / "releases" / release.name
    data = platform.home / "data" / site.slug
    user = secrets.get("cache_user") or databases.site_name(site.number)
    hostnames = tuple(site.hostnames.order_by("name").values_list("name", flat=True))
    return site_environment(
        SiteIdentity(site.slug, hostnames, release.settings, release.wsgi, secrets["secret_key"], release.asgi),
        SitePlaces(
            venv=str(directory / "venv"),
            static=str(directory / (release.static or "static")),
            media=str(data / "media"),
            home=str(data / "home"),
            tmp=str(data / "tmp"),
        ),
        access,
        platform.cache.access(user, site.slug, secrets["cache_password"]) if platform.cache else None,
        secrets["environment"],
    )


def _site(number: int) -> Site | None:
    return Site.objects.select_related("project", "release").filter(number=number).first()


def remove_stale_backups(directory: Path) -> None:
    """Remove what dumps left that were killed. Only while no removal runs."""
    for path in directory.iterdir() if directory.is_dir() else ():
        if re.fullmatch(r"\..+\.partial", path.name):
            path.unlink(missing_ok=True)
