"""PostgreSQL servers on hosts of the lab, with control's real schema, as they live, hang, move and are restored."""

import os
import pwd
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from tenantry.testing.control import DATABASE, create_control_database, create_template, point_django_at, prepare_django
from tenantry.testing.postgres import FAST, PORT, SUPERUSER, PostgresServer, find_postgres_bin, start_postgres

from .network import Host

TOOL_SECONDS = 60.0
START_SECONDS = 30.0
# Who may log in from other hosts. The hosts are reached by nobody but the tests.
ACCESS = "host all all all trust\nhost replication all all trust\n"
# With the tests' asynchronous commits a standby would lack what was committed just before.
SETTINGS = {"listen_addresses": "*", "max_connections": "100", "wal_level": "replica", "synchronous_commit": "local"}


def make_golden(directory: Path) -> None:
    """Put the data directory of a stopped server with control's migrated template database at `directory`."""
    prepare_django()
    server = start_postgres()
    try:
        create_template(server)
        server.halt()
        subprocess.run(["cp", "-a", str(server.directory / "data"), str(directory)], check=True, timeout=TOOL_SECONDS)
    finally:
        shutil.rmtree(server.directory, ignore_errors=True)
    with (directory / "pg_hba.conf").open("a") as file:
        file.write(ACCESS)


class HostedPostgres(PostgresServer):
    """A server on a host: hosts reach it by its address, the test by its socket, which no weather reaches."""

    def __init__(self, host: Host, directory: Path, data: Path | None = None) -> None:
        """Start it in the new `directory`, with a copy of `data`; without one, `directory` has data already."""
        self.location = host
        if data is not None:
            directory.mkdir()
            subprocess.run(["cp", "-a", str(data), str(directory / "data")], check=True, timeout=TOOL_SECONDS)
        _give(directory)
        options = [f"-c{name}={value}" for name, value in (FAST | SETTINGS).items()]
        command = [*host.enter, *_as_postgres(), str(find_postgres_bin() / "postgres"), "-D", str(directory / "data")]
        super().__init__(directory, _nobody(), [*command, "-k", str(directory), f"-p{PORT}", *options])
        self.resume()

    def resume(self) -> None:
        super().resume()
        self.location.started.append(self.process)

    def dsn_for(self, role: str, *others: Host) -> str:
        """Return the connection string of a node; `others` are hosts that may have the database instead."""
        hosts = ",".join(host.address for host in (self.location, *others))
        choose = " target_session_attrs=read-write" if others else ""
        return f"host={hosts} port={PORT} dbname={DATABASE} user={role}{choose}"

    def use(self) -> None:
        """Give the server a fresh control database, and control in this process this server."""
        create_control_database(self)

    def take_over(self) -> None:
        """Become the server of control in this process."""
        point_django_at(self, DATABASE)

    def freeze(self) -> None:
        """Stop the processes where they are: connections stay open, and nothing answers."""
        os.kill(self.process.pid, signal.SIGSTOP)
        for pid in _children(self.process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Undo `freeze`."""
        for pid in [*_children(self.process.pid), self.process.pid]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def crash(self) -> None:
        """End the server as a power failure does, its sockets without a word."""
        pids = [self.process.pid, *_children(self.process.pid)]
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(TOOL_SECONDS)
        (self.directory / "data" / "postmaster.pid").unlink(missing_ok=True)

    def replica(self, host: Host, directory: Path) -> "HostedPostgres":
        """Return a standby of this server on another host, streaming."""
        directory.mkdir()
        _give(directory)
        options = ["-U", SUPERUSER, "-D", str(directory / "data"), "-R", "-X", "stream", "-c", "fast"]
        source = ["-h", self.location.address, "-p", str(PORT)]
        _run([*host.enter, *_as_postgres(), str(find_postgres_bin() / "pg_basebackup"), *source, *options])
        made = HostedPostgres(host, directory)
        made.wait_for("SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'")
        return made

    def promote(self) -> None:
        """Make this standby the server that takes writes."""
        with self.connect() as connection:
            connection.execute("SELECT pg_promote()")

    def caught_up_with(self, primary: "HostedPostgres") -> None:
        """Wait until this standby has all that the primary has written."""
        with primary.connect() as connection:
            row = connection.execute("SELECT pg_current_wal_lsn()::text").fetchone()
        assert row is not None
        self.wait_for(f"SELECT (pg_last_wal_replay_lsn() >= '{row[0]}'::pg_lsn)::int")

    def wait_for(self, query: str, seconds: float = START_SECONDS) -> None:
        """Wait until `query` answers something but 0."""
        deadline = time.monotonic() + seconds
        while True:
            with self.connect() as connection:
                row = connection.execute(query).fetchone()  # type: ignore[call-overload]
            if row is not None and row[0]:
                return
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {seconds} s: {query}")
            time.sleep(0.02)

    def backup(self, file: Path) -> None:
        """Write what pg_dump says of the control database."""
        _run(self._tool("pg_dump", "-Fc", "-f", str(file), DATABASE))

    def restore(self, file: Path) -> None:
        """Put a database of the same name, made from `file`, in place of the control database."""
        from django.db import connections

        connections.close_all()
        with self.connect() as connection:
            roles = connection.execute(
                "SELECT r.rolname FROM pg_roles r WHERE r.rolname LIKE 'tenantry_node%' AND r.rolcanlogin"
            ).fetchall()
        self.drop_database(DATABASE)
        self.create_database(DATABASE, template="template0", owner="tenantry_control")
        _run(self._tool("pg_restore", "-d", DATABASE, str(file)))
        with self.connect() as connection:
            connection.execute(f"REVOKE ALL ON DATABASE {DATABASE} FROM PUBLIC")
            for (role,) in roles:
                connection.execute(f'GRANT CONNECT ON DATABASE {DATABASE} TO "{role}"')  # type: ignore[call-overload]

    def _tool(self, name: str, *arguments: str) -> list[str]:
        return [str(find_postgres_bin() / name), "-h", self.host, "-p", str(PORT), "-U", SUPERUSER, *arguments]


def _as_postgres() -> list[str]:
    account = pwd.getpwnam("postgres")
    return ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]


def _give(directory: Path) -> None:
    shutil.chown(directory, "postgres", "postgres")
    directory.chmod(0o755)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", timeout=TOOL_SECONDS, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found += [int(child) for child in path.read_text().split()]
    return found


def _nobody() -> "subprocess.Popen[bytes]":
    """Return a process that has ended: what stands for a server's before its first start."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process
