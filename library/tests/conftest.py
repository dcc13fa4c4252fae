"""Real servers for the library's tests: a Redis with one user per site, a PostgreSQL with one database per site."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest

PASSWORD = "p@ss/w:rd+%20?#&"  # every character that an address gives a meaning to
# What a site's user may do; the platform grants no less.
SITE_RIGHTS = (
    "resetchannels -@all +get +set +del +exists +expire +persist +incrby +mget +mset +multi +exec +ping +auth +hello"
)


@dataclass(frozen=True)
class RedisServer:
    socket: Path

    def address(self, slug: str) -> str:
        return f"unix://site_{slug}:{quote(PASSWORD, safe='')}@{quote(str(self.socket))}?db=0"


@dataclass(frozen=True)
class PostgresServer:
    """`directory` holds the socket; the role and database `site_17` belong together."""

    directory: Path
    port: int = 5433

    def environment(self) -> dict[str, str]:
        return {
            "PGHOST": str(self.directory),
            "PGPORT": str(self.port),
            "PGDATABASE": "site_17",
            "PGUSER": "site_17",
            "PGPASSWORD": PASSWORD,
        }


@pytest.fixture(scope="session")
def short_directory() -> Iterator[Path]:
    """A directory with a short path (unix sockets end at 107 bytes), upper case letters and a space in it."""
    root = Path(tempfile.mkdtemp(prefix="tnt-"))
    root.chmod(0o755)
    directory = root / "A b"
    directory.mkdir(mode=0o755)
    yield directory
    shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(scope="session")
def redis_server(short_directory: Path) -> Iterator[RedisServer]:
    directory = short_directory / "redis"
    directory.mkdir()
    socket = directory / "Redis.sock"
    acl = directory / "users.acl"
    users = [f"user site_{slug} on >{PASSWORD} ~{slug}:* {SITE_RIGHTS}" for slug in ("blog", "shop")]
    acl.write_text("\n".join(["user default on nopass ~* &* +@all", *users]) + "\n")
    arguments = [
        "--port",
        "0",
        "--unixsocket",
        str(socket),
        "--save",
        "",
        "--aclfile",
        str(acl),
        "--dir",
        str(directory),
    ]
    process = subprocess.Popen(["redis-server", *arguments], stdout=subprocess.DEVNULL)
    try:
        wait_until(socket.exists, process)
        yield RedisServer(socket)
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(scope="session")
def postgres_server(short_directory: Path) -> Iterator[PostgresServer]:
    binaries = next((path.parent for path in sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))[-1:]), None)
    if binaries is None:
        found = shutil.which("initdb")
        if found is None:
            pytest.skip("PostgreSQL's initdb is not installed")
        binaries = Path(found).parent
    directory = short_directory / "Postgres"
    directory.mkdir()
    data = directory / "data"
    # PostgreSQL refuses to run as root.
    become: list[str] = []
    if os.geteuid() == 0:
        shutil.chown(directory, "postgres", "postgres")
        become = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    server = PostgresServer(directory)
    quiet = ["-c", "fsync=off", "-c", "listen_addresses=", "-c", f"unix_socket_directories={directory}"]
    run([*become, binaries / "initdb", "-D", data, "-U", "super", "-A", "trust", "--no-sync", "-E", "UTF8"])
    hba = "local all super trust\nlocal all all scram-sha-256\n"
    (data / "pg_hba.conf").write_text(hba)
    process = subprocess.Popen(
        [*become, str(binaries / "postgres"), "-D", str(data), "-p", str(server.port), *quiet],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=directory,
    )
    psql = [binaries / "psql", "-h", directory, "-p", str(server.port), "-U", "super", "-d", "postgres", "-qAt", "-c"]
    try:
        wait_until(lambda: subprocess.run([*psql, "select 1"], capture_output=True).returncode == 0, process)
        run([*psql, f"create role site_17 login createdb password '{PASSWORD}'"])
        run([*psql, "create database site_17 owner site_17"])
        yield server
    finally:
        process.terminate()
        process.wait(20)


def run(command: list[str | Path]) -> None:
    subprocess.run([str(part) for part in command], check=True, capture_output=True, timeout=60, cwd="/")


def wait_until(ready: object, process: "subprocess.Popen[bytes]") -> None:
    assert callable(ready)
    deadline = time.monotonic() + 20
    while not ready():
        assert process.poll() is None, f"the server ended with {process.returncode}"
        assert time.monotonic() < deadline, "the server did not start within 20 s"
        time.sleep(0.02)
