"""A site's database follows its mode: which goes first, and what repeated, late and failed jobs end in."""

import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg import errors

from tenantry.control.data import databases, writing
from tenantry.control.data.server import TenantServer
from tenantry.testing.control import ControlDatabase

from .test_site_jobs import platform, release, second_release, secrets_of, site

__all__ = ["platform", "release", "site"]


@pytest.fixture
def ready(platform: Any, site: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The site, provisioned; no node is live, and nobody is waited for."""
    from tenantry.control.jobs import site_databases, sites

    monkeypatch.setattr(site_databases, "QUIET_SECONDS", 0.0)
    sites.provision_site(platform, site.number)
    return site


@pytest.fixture
def execute(platform: Any, ready: Any) -> Callable[[str], Any]:
    """Run a statement as the site."""

    def run(statement: str) -> Any:
        access = platform.server.access(f"site_{ready.number}", secrets_of(ready)["database_password"])
        with psycopg.connect(access.url, autocommit=True) as connection:
            return connection.execute(statement)

    return run


def set_mode(site: Any, mode: str) -> None:
    from tenantry.control.access.actors import JOBS
    from tenantry.control.sites import services

    services.set_mode(JOBS, site.slug, mode)
    site.refresh_from_db()


def queued(control_database: ControlDatabase, task: str = "follow_mode") -> int:
    with control_database.server.connect(control_database.name) as connection:
        row = connection.execute(
            "SELECT count(*) FROM procrastinate_jobs WHERE task_name = %s AND status = 'todo'", (task,)
        ).fetchone()
    return int(str(row[0])) if row else 0


def follow(platform: Any, site: Any) -> None:
    from tenantry.control.jobs import site_databases

    site_databases.follow_mode(platform, site.number, "admin")
    site.refresh_from_db()


def changes(site: Any) -> list[tuple[str, dict[str, Any]]]:
    from tenantry.control.changelog.models import Change

    rows = Change.objects.filter(site_slug=site.slug, type__in=("site.mode", "site.database", "site.failed"))
    return list(rows.order_by("revision").values_list("type", "metadata"))


def test_into_read_only_and_back(
    platform: Any, ready: Any, execute: Callable[[str], Any], control_database: ControlDatabase
) -> None:
    from tenantry.control.sites.queries import convergence

    set_mode(ready, "read_only")
    assert (ready.mode, ready.pending_mode, queued(control_database)) == ("read_only", None, 1)
    execute("INSERT INTO note VALUES ('the nodes come first')")
    follow(platform, ready)
    with pytest.raises(errors.InsufficientPrivilege):
        execute("INSERT INTO note VALUES ('x')")
    set_mode(ready, "live")
    assert (ready.mode, ready.pending_mode, queued(control_database)) == ("read_only", "live", 2)
    assert not convergence("blog").converged
    follow(platform, ready)
    assert (ready.mode, ready.pending_mode, ready.database_read_only) == ("live", None, False)
    execute("INSERT INTO note VALUES ('y')")
    assert [(kind, metadata.get("mode", metadata.get("read_only"))) for kind, metadata in changes(ready)] == [
        ("site.mode", "read_only"),
        ("site.database", True),
        ("site.mode", "live"),
    ]


def test_the_mode_changes_only_when_the_database_is_open(
    platform: Any, ready: Any, monkeypatch: pytest.MonkeyPatch, execute: Callable[[str], Any]
) -> None:
    from tenantry.control.sites import database_mode

    set_mode(ready, "read_only")
    follow(platform, ready)
    set_mode(ready, "live")
    seen: list[str] = []
    real = writing.open_database

    def opened(server: TenantServer, number: int) -> None:
        real(server, number)
        ready.refresh_from_db()
        seen.append(ready.mode)
        execute("INSERT INTO note VALUES ('before any visitor is let in')")

    monkeypatch.setattr(writing, "open_database", opened)
    follow(platform, ready)
    assert seen == ["read_only"]
    assert not database_mode.wants_read_only(ready)


def test_jobs_look_at_what_is_wanted_when_they_run(
    platform: Any, ready: Any, execute: Callable[[str], Any], control_database: ControlDatabase
) -> None:
    set_mode(ready, "read_only")
    set_mode(ready, "live")
    set_mode(ready, "read_only")
    assert (ready.mode, ready.pending_mode, queued(control_database)) == ("read_only", None, 3)
    for _ in range(3):
        follow(platform, ready)
        with pytest.raises(errors.InsufficientPrivilege):
            execute("INSERT INTO note VALUES ('x')")
    assert [kind for kind, _ in changes(ready)] == ["site.mode", "site.database"]


@pytest.mark.parametrize("mode", ["maintenance", "paused"])
def test_a_site_is_stopped_at_once_and_its_database_opened_after(
    platform: Any, ready: Any, mode: str, execute: Callable[[str], Any]
) -> None:
    set_mode(ready, "read_only")
    follow(platform, ready)
    set_mode(ready, mode)
    assert (ready.mode, ready.pending_mode) == (mode, None)
    follow(platform, ready)
    execute("INSERT INTO note VALUES ('an administrator')")
    assert (ready.mode, ready.database_read_only) == (mode, False)


def test_a_mode_without_consequences_needs_no_job(ready: Any, control_database: ControlDatabase) -> None:
    for mode in ("maintenance", "paused", "live", "live"):
        set_mode(ready, mode)
    assert queued(control_database) == 0


def test_a_failure_is_told_and_asked_for_again(
    ready: Any, platform: Any, control_database: ControlDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tenantry.control.sites import database_mode
    from tenantry.control.sites.queries import convergence

    set_mode(ready, "read_only")
    database_mode.fail_database_mode(ready.number, "ObjectsLocked: somebody.")
    state = convergence("blog")
    assert state.status == "failed"
    assert state.error.startswith("The database could not be made read-only: ObjectsLocked: somebody.")
    set_mode(ready, "read_only")
    assert (ready.error, queued(control_database)) == ("", 2)
    follow(platform, ready)
    assert ready.database_read_only


def test_a_site_that_is_not_served_yet_has_nothing_to_close(platform: Any, site: Any) -> None:
    set_mode(site, "read_only")
    follow(platform, site)
    assert not site.database_read_only
    set_mode(site, "live")
    assert site.mode == "live"


def test_requests_under_way_are_waited_for(
    platform: Any, ready: Any, execute: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tenantry.control.jobs import site_databases

    monkeypatch.setattr(site_databases, "QUIET_SECONDS", 0.3)
    access = platform.server.access(f"site_{ready.number}", secrets_of(ready)["database_password"])

    def visit() -> None:
        with psycopg.connect(access.url, autocommit=True) as connection:
            connection.execute("DO $$ BEGIN INSERT INTO note VALUES ('x'); PERFORM pg_sleep(1); END $$")

    request = threading.Thread(target=visit)
    request.start()
    time.sleep(0.2)
    set_mode(ready, "read_only")
    began = time.monotonic()
    follow(platform, ready)
    assert time.monotonic() - began > 1.0
    request.join()
    assert execute("SELECT text FROM note").fetchall() == [("x",)]


def test_an_upgrade_migrates_a_read_only_site_which_stays_so(
    platform: Any, ready: Any, execute: Callable[[str], Any]
) -> None:
    from tenantry.control.jobs import sites

    set_mode(ready, "read_only")
    follow(platform, ready)
    second_release(
        platform,
        ready,
        "import os, subprocess\n"
        "assert os.environ['PGUSER'].endswith('_migrator')\n"
        "sql = 'CREATE TABLE made (i int); INSERT INTO note VALUES (1); SELECT current_user'\n"
        f"psql = '{platform.server.address.binaries / 'psql'}'\n"
        "said = subprocess.check_output([psql, '-v', 'ON_ERROR_STOP=1', '-Atc', sql], text=True)\n"
        "assert said.strip().endswith('_owner'), said\n",
    )
    sites.upgrade_site(platform, ready.number, "demo-2")
    ready.refresh_from_db()
    assert (ready.release.name, ready.error) == ("demo-2", "")
    assert execute("SELECT count(*) FROM note, made").fetchone() == (0,)
    for table in ("note", "made"):
        with pytest.raises(errors.InsufficientPrivilege):
            execute(f"DELETE FROM {table}")
    assert not writing.may_write(platform.server, ready.number)


def test_a_read_only_site_is_removed_with_its_dump(platform: Any, ready: Any) -> None:
    from tenantry.control.access.actors import JOBS
    from tenantry.control.jobs import sites
    from tenantry.control.sites import services

    set_mode(ready, "read_only")
    follow(platform, ready)
    services.delete_site(JOBS, "blog", confirm="blog")
    sites.remove_site(platform, ready.number, dump=True, wait_seconds=0)
    assert list((platform.home / "backups").glob("blog-*.dump"))
    assert not databases.site_database_exists(platform.server, ready.number)
