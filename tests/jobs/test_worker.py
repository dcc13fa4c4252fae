"""The worker as a process: it starts a job when its transaction commits, survives being killed, and ends when asked."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tenantry.control.data import databases
from tenantry.control.data.cache import CacheServer
from tenantry.control.data.server import TenantServer
from tenantry.testing.control import JOBS_ROLE, NODE_ROLE, ControlDatabase
from tenantry.testing.postgres import PORT

Start = Callable[[], "subprocess.Popen[bytes]"]


@pytest.fixture
def start_worker(
    control_database: ControlDatabase, home: Path, cache_server: CacheServer, uid_base: int | None
) -> Iterator[Start]:
    from django.conf import settings

    server = control_database.server
    access = {"host": server.host, "port": PORT}
    config = home / "jobs.json"
    config.write_text(
        json.dumps(
            {
                "home": str(home),
                "database": access | {"name": control_database.name, "user": JOBS_ROLE},
                "tenant_database": access,
                "redis": {
                    "socket": cache_server.socket,
                    "admin_user": cache_server.user,
                    "admin_password": cache_server.password,
                },
                "platform_key": settings.TENANTRY.platform_key,
                "secret_key": "for this test",
                "uid_base": uid_base,
            }
        )
    )
    started: list[subprocess.Popen[bytes]] = []

    def start() -> "subprocess.Popen[bytes]":
        with (home / f"worker-{len(started)}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "tenantry.control", "work"],
                env={
                    "PATH": os.environ["PATH"],
                    "TENANTRY_CONTROL_CONFIG": str(config),
                    "PYTHONPATH": str(Path(__file__).parents[2] / "src"),
                    "HOME": str(home),
                },
                stderr=log,
            )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait(10)


@pytest.fixture
def release(control_database: ControlDatabase, tenant_server: TenantServer) -> Iterator[None]:
    from tenantry.control.access.actors import JOBS
    from tenantry.control.releases import services

    with control_database.server.connect(control_database.name) as connection:
        services.add_project(JOBS, services.ProjectRequest(name="demo", source="/srv/demo"))
        connection.execute("DELETE FROM procrastinate_jobs")
    facts = services.ReleaseFacts(
        "sha256:0", "", "3.11.2", "5.2", "d.wsgi:application", "d.settings", "manage.py", None
    )
    services.finish_release("demo-1", facts)
    # As the worker's role makes it, the one who may clone it.
    with control_database.server.connect() as admin:
        admin.execute("CREATE ROLE tpl_demo_1")
        admin.execute(f"CREATE DATABASE tpl_demo_1 OWNER {JOBS_ROLE}")
        admin.execute(f"GRANT tpl_demo_1 TO {JOBS_ROLE}")
        admin.execute("ALTER DATABASE tpl_demo_1 ALLOW_CONNECTIONS false")
    yield
    with control_database.server.connect() as admin:
        for (name,) in admin.execute("SELECT datname FROM pg_database WHERE datname ~ '^(site|tpl)_'").fetchall():
            admin.execute(psycopg.sql.SQL("DROP DATABASE {} WITH (FORCE)").format(psycopg.sql.Identifier(str(name))))
        for (name,) in admin.execute("SELECT rolname FROM pg_roles WHERE rolname ~ '^(site|tpl)_'").fetchall():
            admin.execute(psycopg.sql.SQL("DROP ROLE {}").format(psycopg.sql.Identifier(str(name))))


def create(slug: str) -> Any:
    from tenantry.control.access.actors import JOBS
    from tenantry.control.sites import services

    return services.create_site(JOBS, services.SiteRequest(slug, "demo", [f"{slug}.localhost"]))


def wait_for(site: Any, status: str, home: Path) -> float:
    """Return the seconds until the site has the status."""
    begin = time.monotonic()
    while time.monotonic() - begin < 30:
        site.refresh_from_db()
        if site.status == status:
            return time.monotonic() - begin
        time.sleep(0.005)
    logs = "".join(path.read_text() for path in home.glob("worker-*.log"))
    raise AssertionError(f"{site.status}: {site.error}\n{logs}")


def test_what_a_node_notifies_neither_ends_the_worker_nor_its_jobs(
    start_worker: Start, release: None, home: Path, control_database: ControlDatabase
) -> None:
    """Every role of the database may notify on every channel."""
    mark = home / "releases/demo-1"
    mark.mkdir(parents=True)
    (mark / "release.json").write_text("{}")
    process = start_worker()
    wait_for(create("blog"), "ready", home)
    with psycopg.connect(control_database.dsn(NODE_ROLE), autocommit=True) as node:
        for payload in (
            "",
            "no JSON",
            "[]",
            '{"type": "job_inserted"}',
            '{"type": "abort_job_requested", "job_id": 2}',
        ):
            for channel in ("procrastinate_any_queue_v1", "procrastinate_queue_v1#sites"):
                node.execute("SELECT pg_notify(%s, %s)", (channel, payload))
    assert wait_for(create("shop"), "ready", home) < 5
    time.sleep(0.5)
    assert process.poll() is None


def test_a_site_is_provisioned_at_once(start_worker: Start, release: None, home: Path) -> None:
    mark = home / "releases/demo-1"
    mark.mkdir(parents=True)
    (mark / "release.json").write_text("{}")
    worker = start_worker()
    wait_for(create("first"), "ready", home)
    times = sorted(wait_for(create(f"site-{number}"), "ready", home) for number in range(7))
    # The job itself takes about 0.1 s; a worker that polled instead of listening would take 2.5 s on average.
    assert times[3] < 1.0, times
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(10) == 0


def test_a_job_of_a_killed_worker_is_done_by_the_next(
    start_worker: Start, release: None, home: Path, control_database: ControlDatabase
) -> None:
    mark = home / "releases/demo-1"
    mark.mkdir(parents=True)
    (mark / "release.json").write_text("{}")
    half = home / "releases/demo-2/src"
    half.mkdir(parents=True)
    site = create("blog")
    with control_database.server.connect(control_database.name) as connection:
        # What a killed worker leaves: a job that nobody does.
        connection.execute("UPDATE procrastinate_jobs SET status = 'doing'")
    start_worker()
    wait_for(site, "ready", home)
    assert not half.exists()
    assert mark.is_dir()
    assert databases.template_name("demo", 1) == "tpl_demo_1"


def test_a_final_failure_reaches_the_person(start_worker: Start, release: None, home: Path) -> None:
    # No release.json: the template is a leftover, removed at the start.
    start_worker()
    site = create("blog")
    wait_for(site, "failed", home)
    assert "build the release again" in site.error


def test_ended_sessions_go_when_the_worker_starts_and_with_the_daily_job(
    start_worker: Start, control_database: ControlDatabase, home: Path
) -> None:
    from django.contrib.sessions.models import Session
    from django.utils import timezone

    from tenantry.control.jobs import tasks

    def purged() -> bool:
        begin = time.monotonic()
        while Session.objects.exists() and time.monotonic() - begin < 30:
            time.sleep(0.01)
        return not Session.objects.exists()

    Session.objects.create(session_key="before", session_data="", expire_date=timezone.now())
    start_worker()
    assert purged(), (home / "worker-0.log").read_text()
    Session.objects.create(session_key="after", session_data="", expire_date=timezone.now())
    tasks.purge.configure(task_kwargs={"timestamp": 0}).defer()
    assert purged(), (home / "worker-0.log").read_text()


def test_a_mode_ends_within_seconds_of_its_time(start_worker: Start, release: None, home: Path) -> None:
    from datetime import UTC, datetime, timedelta

    from tenantry.control.access.actors import JOBS
    from tenantry.control.sites import services

    mark = home / "releases/demo-1"
    mark.mkdir(parents=True)
    (mark / "release.json").write_text("{}")
    site = create("blog")
    start_worker()
    wait_for(site, "ready", home)
    until = datetime.now(UTC) + timedelta(seconds=1.5)
    services.set_mode(JOBS, "blog", "maintenance", services.ModeDetails(until=until))
    site.refresh_from_db()
    assert site.mode == "maintenance"
    while site.mode != "live":
        assert datetime.now(UTC) < until + timedelta(seconds=5), (home / "worker-0.log").read_text()
        time.sleep(0.02)
        site.refresh_from_db()
    late = (datetime.now(UTC) - until).total_seconds()
    print(f"live {late:.2f} s after its time")
    assert late >= 0
