"""A PostgreSQL with the platform's access rules, a Redis with an access list, homes that other users can pass."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tenantry.control.data.cache import CacheServer
from tenantry.control.data.server import ServerAddress, TenantServer
from tenantry.testing.fixtures import control_database, control_template
from tenantry.testing.postgres import PORT, PostgresServer, find_postgres_bin, start_postgres

__all__ = ["control_database", "control_template"]

ADMIN = "jobs_admin"
ADMIN_PASSWORD = "administrates"
ACCESS_RULES = f"""
local all postgres trust
local all tenantry_control,tenantry_jobs,tenantry_node_1 trust
local all {ADMIN} scram-sha-256
local control +tenantry_nodes scram-sha-256
local samerole all scram-sha-256
"""


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A server of this test process alone, where a tenant can reach its own database only."""
    server = start_postgres()
    try:
        server.directory.chmod(0o711)  # tenants' processes run as other users
        with server.connect() as connection:
            connection.execute(f"CREATE ROLE {ADMIN} LOGIN CREATEROLE CREATEDB PASSWORD '{ADMIN_PASSWORD}'")
            connection.execute(f"GRANT pg_read_all_stats, pg_signal_backend TO {ADMIN}")
            (server.directory / "data" / "pg_hba.conf").write_text(ACCESS_RULES)
            connection.execute("SELECT pg_reload_conf()")
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def tenant_server(postgres_server: PostgresServer) -> Iterator[TenantServer]:
    binaries = find_postgres_bin()
    server = TenantServer(
        ServerAddress(postgres_server.host, PORT, "postgres", ADMIN, ADMIN_PASSWORD, binaries=binaries)
    )
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def cache_server() -> Iterator[CacheServer]:
    directory = Path(tempfile.mkdtemp(prefix="tnt-redis-", dir="/tmp"))
    directory.chmod(0o711)
    socket = directory / "redis.sock"
    acl = directory / "users.acl"
    acl.write_text("user default off\nuser admin on >administrates ~* &* +@all\n")
    settings = {
        "port": "0",
        "unixsocket": socket,
        "unixsocketperm": "777",
        "save": "",
        "aclfile": acl,
        "dir": directory,
    }
    process = subprocess.Popen(
        ["redis-server", *(word for name, value in settings.items() for word in (f"--{name}", str(value)))],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    server = CacheServer(str(socket), "admin", "administrates")
    try:
        _wait_for(server)
        yield server
    finally:
        server.close()
        process.terminate()
        process.wait(10)
        shutil.rmtree(directory, ignore_errors=True)


def _wait_for(server: CacheServer) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            server.users()
            return
        except redis.ConnectionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


@pytest.fixture
def home() -> Iterator[Path]:
    """A platform's home that other users can pass through; pytest's own directories are closed to them."""
    directory = Path(tempfile.mkdtemp(prefix="tnt-home-", dir="/tmp"))
    directory.chmod(0o711)
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


@pytest.fixture(scope="session")
def uid_base() -> int | None:
    """As root, tenants get users of their own, as on a real machine; each test process has a range."""
    return 1_900_000_000 + os.getpid() % 1_000 * 100_000 if os.geteuid() == 0 else None
