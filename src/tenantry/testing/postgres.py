"""A real PostgreSQL server for tests: its own directory, unix socket only, gone when the test process is."""

import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from psycopg import sql

START_TIMEOUT_SECONDS = 30.0
STOP_TIMEOUT_SECONDS = 20.0
SUPERUSER = "postgres"
BIN_VARIABLE = "TENANTRY_TEST_PG_BIN"
PORT = 5432  # part of the socket's name only

# Data of a test is thrown away: nothing has to survive a crash.
FAST = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "listen_addresses": "",
    "shared_buffers": "32MB",
    "max_connections": "200",
    "max_wal_size": "256MB",
    "autovacuum": "off",
}


class PostgresUnavailable(Exception):
    """No server could be found or started; the message has the server's own words."""


def find_postgres_bin() -> Path:
    """Return the directory of PostgreSQL's programs: that of TENANTRY_TEST_PG_BIN, or the newest on this machine."""
    if chosen := os.environ.get(BIN_VARIABLE):
        if not os.access(Path(chosen) / "postgres", os.X_OK):
            raise PostgresUnavailable(f"{BIN_VARIABLE}: there is no program «postgres» in {chosen}.")
        return Path(chosen)
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/postgres"),
        key=lambda path: int(re.sub(r"\D", "", path.parts[-3]) or 0),
    )
    if found:
        return found[-1].parent
    on_path = shutil.which("postgres")
    if on_path:
        return Path(on_path).parent
    raise PostgresUnavailable("No PostgreSQL server was found. Install the distribution's package «postgresql».")


def has_postgres() -> bool:
    """Whether a server can be started here: what tests ask that are skipped elsewhere."""
    try:
        return (find_postgres_bin() / "initdb").exists()
    except PostgresUnavailable:
        return False


@dataclass
class PostgresServer:
    """A running server. `directory` is short, because the path of a unix socket ends at 107 bytes."""

    directory: Path
    process: "subprocess.Popen[bytes]" = field(repr=False)
    command: list[str] = field(repr=False, default_factory=list)

    @property
    def log(self) -> Path:
        return self.directory / "log"

    @property
    def host(self) -> str:
        return str(self.directory)

    def dsn(self, database: str = "postgres", user: str = SUPERUSER) -> str:
        """Return a connection string; every role may log in without a password."""
        return f"host={self.directory} port={PORT} dbname={database} user={user}"

    def connect(self, database: str = "postgres", user: str = SUPERUSER) -> "psycopg.Connection[tuple[object, ...]]":
        """Return a new autocommit connection."""
        return psycopg.connect(self.dsn(database, user), autocommit=True)

    def create_database(self, name: str, *, template: str = "template1", owner: str = SUPERUSER) -> None:
        with self.connect() as connection:
            connection.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {} OWNER {}").format(
                    sql.Identifier(name), sql.Identifier(template), sql.Identifier(owner)
                )
            )

    def drop_database(self, name: str) -> None:
        with self.connect() as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def halt(self) -> None:
        """Stop the server; its data stay for `resume`."""
        self.process.send_signal(signal.SIGINT)  # fast shutdown
        try:
            self.process.wait(STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait(STOP_TIMEOUT_SECONDS)

    def resume(self) -> None:
        """Start the server again that was halted; returns when it takes connections."""
        self.process = _launch(self.command, self.directory)
        _wait_until_ready(self)

    def stop(self) -> None:
        """Stop the server and remove its directory."""
        self.halt()
        shutil.rmtree(self.directory, ignore_errors=True)


def start_postgres(**settings: str) -> PostgresServer:
    """Start a new, empty server; as root it runs as the system's user «postgres». Raises `PostgresUnavailable`.

    `settings` override those of FAST: a measurement wants more connections, or writes that last.
    """
    binaries = find_postgres_bin()
    directory = Path(tempfile.mkdtemp(prefix="tnt-pg-", dir="/tmp"))
    prefix = ["setpriv", "--pdeathsig", "INT"]
    if os.geteuid() == 0:
        account = pwd.getpwnam("postgres")
        os.chown(directory, account.pw_uid, account.pw_gid)
        prefix += [f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
    data = directory / "data"
    options = ["--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"]
    made = subprocess.run(
        [*prefix, str(binaries / "initdb"), "-D", str(data), "-U", SUPERUSER, *options],
        capture_output=True,
        text=True,
        cwd="/",
        timeout=START_TIMEOUT_SECONDS,
        check=False,
    )
    if made.returncode:
        shutil.rmtree(directory, ignore_errors=True)
        raise PostgresUnavailable(made.stderr.strip())
    options = [f"-c{name}={value}" for name, value in (FAST | settings).items()]
    command = [*prefix, str(binaries / "postgres"), "-D", str(data), "-k", str(directory), f"-p{PORT}", *options]
    server = PostgresServer(directory, _launch(command, directory), command)
    _wait_until_ready(server)
    return server


def _launch(command: list[str], directory: Path) -> "subprocess.Popen[bytes]":
    with (directory / "log").open("ab") as output:
        return subprocess.Popen(
            command,
            stdout=output,
            stderr=output,
            cwd="/",
            start_new_session=True,  # a Ctrl-C of the test run is for pytest, which then stops this server
        )


def _wait_until_ready(server: PostgresServer) -> None:
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while True:
        try:
            server.connect().close()
            return
        except psycopg.OperationalError as error:
            if server.process.poll() is not None or time.monotonic() > deadline:
                words = server.log.read_text(errors="replace")[-2000:]
                server.stop()
                raise PostgresUnavailable(words) from error
            time.sleep(0.02)
