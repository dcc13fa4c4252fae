"""The real servers: PostgreSQL, Redis and supervisord started, probed, killed and stopped."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
import redis

from tenantry.embedded.components import Platform, make_programs, probe
from tenantry.embedded.config import Config, choose_uid_base, save_config
from tenantry.embedded.credentials import (
    CONTROL_ROLE,
    JOBS_ROLE,
    NODE_ROLE,
    conninfo,
    keep_credentials,
    redis_socket,
)
from tenantry.embedded.down import clear_remains, stop_platform
from tenantry.embedded.errors import ComponentFailed, Interrupted, ToolMissing
from tenantry.embedded.home import Home, make_layout
from tenantry.embedded.network import answers
from tenantry.embedded.postgres import data_directory, prepare_database, prepare_postgres
from tenantry.embedded.processes import find_processes, find_supervisor, read_process
from tenantry.embedded.progress import View
from tenantry.embedded.redis import prepare_redis
from tenantry.embedded.signals import Interruption
from tenantry.embedded.starting import Start
from tenantry.embedded.supervision import Program, Supervisor, start_supervisor
from tests.embedded.conftest import make_home

LIMIT = timedelta(seconds=60)


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the time is up"
        time.sleep(0.05)


@pytest.fixture
def view() -> Iterator[View]:
    with View("test") as shown:
        yield shown


def stores(home: Home) -> tuple[Platform, Supervisor]:
    """Start PostgreSQL and Redis in `home` and wait until both answer."""
    config = Config(1, "127.0.0.1", 1, 2, choose_uid_base(home.root), "node")
    make_layout(home, config.uid_base)
    save_config(home, config)
    interruption = Interruption()
    credentials = keep_credentials(home)
    programs = prepare_postgres(home, credentials, interruption)
    prepare_redis(home, config, credentials, running=False)
    platform = Platform(home, config, credentials, programs)
    supervisor = start_supervisor(home, make_programs(platform), interruption)
    for name in ("postgres", "redis"):
        supervisor.start(name)
    for _ in interruption.poll(LIMIT):
        states = supervisor.states()
        if all(probe(platform, name, states[name], 0) is None for name in ("postgres", "redis")):
            return platform, supervisor
    raise AssertionError("the stores did not start")


@contextmanager
def refused(reason: str) -> Iterator[None]:
    with pytest.raises(psycopg.OperationalError, match=reason):
        yield


def test_the_stores_start_serve_and_stop(home: Home, view: View) -> None:
    platform, supervisor = stores(home)
    passwords = platform.credentials.passwords
    prepare_database(home, platform.credentials)
    prepare_database(home, platform.credentials)

    with psycopg.connect(conninfo(home, CONTROL_ROLE, passwords[CONTROL_ROLE])) as connection:
        connection.execute("CREATE TABLE kept (text text)")
        connection.execute("INSERT INTO kept VALUES ('still here')")
    with psycopg.connect(conninfo(home, JOBS_ROLE, passwords[JOBS_ROLE]), autocommit=True) as connection:
        connection.execute("INSERT INTO kept VALUES ('a member of control')")
        connection.execute("CREATE ROLE site_1 LOGIN PASSWORD 'x'")
        connection.execute("GRANT site_1 TO tenantry_jobs")
        connection.execute("CREATE DATABASE site_1 OWNER site_1")
        connection.execute("CREATE ROLE site_2 LOGIN PASSWORD 'x'")
        connection.execute("GRANT site_2 TO tenantry_jobs")
        connection.execute("CREATE DATABASE site_2 OWNER site_2")
        connection.execute("CREATE ROLE site_1_b LOGIN PASSWORD 'x' IN ROLE site_1")
        may = "SELECT pg_has_role('pg_read_all_stats', 'USAGE'), pg_has_role('pg_signal_backend', 'USAGE')"
        assert connection.execute(may).fetchone() == (True, True)
    with psycopg.connect(conninfo(home, NODE_ROLE, passwords[NODE_ROLE])) as connection, pytest.raises(psycopg.Error):
        connection.execute("SELECT * FROM kept")

    with psycopg.connect(conninfo(home, NODE_ROLE, passwords[NODE_ROLE])) as connection, pytest.raises(psycopg.Error):
        connection.execute("SELECT lo_create(0)")

    psycopg.connect(conninfo(home, "site_1", "x", "site_1")).close()
    psycopg.connect(conninfo(home, "site_1_b", "x", "site_1")).close()
    with refused("no pg_hba.conf entry"):
        psycopg.connect(conninfo(home, "site_1_b", "x", "site_2"))
    with refused("password authentication failed"):
        psycopg.connect(conninfo(home, "site_1", "wrong", "site_1"))
    for database in ("site_2", "postgres", "template1"):
        with refused("no pg_hba.conf entry"):
            psycopg.connect(conninfo(home, "site_1", "x", database))
    with refused("permission denied"):
        psycopg.connect(conninfo(home, "site_1", "x", "tenantry"))

    with pytest.raises(redis.AuthenticationError):
        redis.Redis(unix_socket_path=str(redis_socket(home))).ping()

    if os.geteuid() == 0:
        states = supervisor.states()
        owners = {name: Path(f"/proc/{states[name].pid}").stat().st_uid for name in ("postgres", "redis")}
        assert 0 not in owners.values()

    stop_platform(home, platform.config, view, supervisor)
    assert find_processes(home, platform.config) == []
    assert not answers(home.supervisor_socket)

    platform, supervisor = stores(home)
    with psycopg.connect(conninfo(home, CONTROL_ROLE, passwords[CONTROL_ROLE])) as connection:
        assert connection.execute("SELECT count(*) FROM kept").fetchone() == (2,)
    stop_platform(home, platform.config, view, supervisor)


def test_a_killed_supervisor_leaves_orphans_that_are_found_and_ended(place: Path, view: View) -> None:
    home, other = make_home(place / "a"), make_home(place / "b")
    platform, supervisor = stores(home)
    neighbour, neighbours_supervisor = stores(other)
    pid = find_supervisor(home)
    assert pid is not None
    postgres = supervisor.states()["postgres"].pid

    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not supervisor.alive)
    assert read_process(postgres)
    assert find_supervisor(home) is None
    # The shell of a person who works in the home is not the platform's.
    person = subprocess.Popen(["/bin/sleep", "60"], cwd=home.root, env={**os.environ, "TENANTRY_HOME": str(home.root)})
    try:
        clear_remains(home, platform.config, view)
        assert person.poll() is None
    finally:
        person.kill()
        person.wait()
    assert read_process(postgres) is None
    assert find_processes(home, platform.config) == []

    states = neighbours_supervisor.states()
    assert {name: probe(neighbour, name, states[name], 0) for name in ("postgres", "redis")} == {
        "postgres": None,
        "redis": None,
    }
    platform, supervisor = stores(home)
    stop_platform(home, platform.config, view, supervisor)
    stop_platform(other, neighbour.config, view, neighbours_supervisor)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes mount namespaces")
def test_a_home_of_the_same_path_in_a_container_is_another(home: Home) -> None:
    hide = f"mount -t tmpfs none {home.root.parent} && mkdir {home.root} && exec sleep 600"
    argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", hide]
    environment = {**os.environ, "TENANTRY_SUPERVISED": str(home.root)}
    inside = subprocess.Popen(argv, env=environment, stdin=subprocess.DEVNULL, start_new_session=True)
    outside = subprocess.Popen(["sleep", "600"], env=environment, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        wait_for(lambda: inside.poll() is not None or Path(f"/proc/{inside.pid}/comm").read_text() == "sleep\n")
        if inside.poll() is not None:
            pytest.skip("mounting is not allowed here")
        assert [process.pid for process in find_processes(home, None)] == [outside.pid]
    finally:
        for process in (inside, outside):
            process.kill()
            process.wait()


def test_lock_files_from_before_a_reboot(home: Home, view: View) -> None:
    platform, supervisor = stores(home)
    stop_platform(home, platform.config, view, supervisor)
    # The number in the lock file now belongs to a program that lives: this one.
    stale = data_directory(home) / "postmaster.pid"
    stale.write_text(f"{os.getpid()}\n{data_directory(home)}\n1\n5432\n\n\n0 0\nready\n")
    clear_remains(home, platform.config, view)
    assert not stale.exists()
    platform, supervisor = stores(home)
    stop_platform(home, platform.config, view, supervisor)


def test_an_interrupted_initdb_leaves_no_cluster(home: Home) -> None:
    interruption = Interruption()
    interruption.asked = True
    with pytest.raises(Interrupted):
        prepare_postgres(home, keep_credentials(home), interruption)
    assert not data_directory(home).exists()
    assert not list((home.root / "postgres").glob("password*"))
    interruption.asked = False
    prepare_postgres(home, keep_credentials(home), interruption)
    assert (data_directory(home) / "PG_VERSION").exists()


def test_a_cluster_of_a_version_that_is_not_installed(home: Home) -> None:
    data_directory(home).mkdir()
    (data_directory(home) / "PG_VERSION").write_text("9\n")
    with pytest.raises(ToolMissing, match=r"made by PostgreSQL 9.*apt-get install postgresql-9"):
        prepare_postgres(home, keep_credentials(home), Interruption())


def test_a_process_that_ignores_the_stop_signal_is_killed_with_its_children(home: Home, view: View) -> None:
    code = "import signal, subprocess, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    code += "subprocess.Popen(['sleep', '600']); print('on', flush=True); time.sleep(600)"
    programs = [Program("agent", [sys.executable, "-c", code], stop_wait_seconds=1)]
    supervisor = start_supervisor(home, programs, Interruption())
    supervisor.start("agent")
    wait_for(lambda: home.log("agent").exists() and "on" in home.log("agent").read_text())
    assert len(find_processes(home, None)) == 3
    stop_platform(home, None, view, supervisor)
    assert find_processes(home, None) == []


def test_a_process_that_dies_is_started_again(home: Home, view: View) -> None:
    supervisor = start_supervisor(home, [Program("agent", ["/bin/sleep", "600"])], Interruption())
    supervisor.start("agent")
    wait_for(lambda: supervisor.states()["agent"].name == "RUNNING")
    first = supervisor.states()["agent"].pid
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: supervisor.states()["agent"].pid not in (0, first))
    stop_platform(home, None, view, supervisor)


def test_a_supervisor_that_cannot_start_says_why(home: Home) -> None:
    with pytest.raises(ComponentFailed) as caught:
        start_supervisor(home, [Program("bad", ["/bin/true"], stop_signal="NONSENSE")], Interruption())
    assert "NONSENSE" in caught.value.log
    assert find_processes(home, None) == []


def test_a_running_supervisord_takes_up_a_program_of_a_newer_release(home: Home, view: View) -> None:
    known = Program("old", ["/bin/sleep", "60"])
    young = Program("young", ["/bin/sh", "-c", "trap 'echo hung up; exit' HUP; while :; do sleep 0.05; done"])
    supervisor = start_supervisor(home, [known], Interruption())
    try:
        supervisor.start("old")
        wait_for(lambda: supervisor.states()["old"].name == "RUNNING")
        pid = supervisor.states()["old"].pid
        start = Start(home, Config(1, "127.0.0.1", 1, 2, None, "node"), view, Interruption(), supervisor)
        assert not start._supervise([known, young])
        supervisor.start("young")
        wait_for(lambda: supervisor.states()["young"].name == "RUNNING")
        assert supervisor.states()["old"].pid == pid
        start._renew(["young"])
        wait_for(lambda: "hung up" in home.log("young").read_text())
    finally:
        stop_platform(home, None, view, supervisor)
