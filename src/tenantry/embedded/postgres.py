"""The embedded PostgreSQL: its own data directory, a unix socket, three roles and one database.

A cluster appears by rename, so an interrupted initdb leaves nothing that looks like one.
"""

import os
import pwd
import shutil
from datetime import timedelta
from pathlib import Path
from typing import LiteralString

import psycopg
from psycopg import sql

from tenantry.embedded.certificates import Certificates
from tenantry.embedded.config import Config
from tenantry.embedded.credentials import (
    CONTROL_ROLE,
    DATABASE,
    JOBS_ROLE,
    NODE_ROLE,
    NODES_ROLE,
    SOCKET_PORT,
    SUPERUSER,
    Credentials,
    conninfo,
    socket_directory,
)
from tenantry.embedded.errors import ToolMissing
from tenantry.embedded.files import make_directory, write_file
from tenantry.embedded.home import Home
from tenantry.embedded.programs import need_postgres, need_program
from tenantry.embedded.signals import Interruption, run_command

_INITDB_LIMIT = timedelta(minutes=2)
_CONNECT_SECONDS = 3
_ROLES_ARE_GIVEN = 160_000
_LARGE_OBJECTS = ("lo_creat(integer)", "lo_create(oid)", "lo_from_bytea(oid, bytea)")

# The roles of a site may enter the database of its name and no other (the other logins are members of the role of that
# name, which the tenants' roles cannot give away); the two roles that serve them all may enter any.
_HBA = f"""local {DATABASE} all scram-sha-256
local samerole all scram-sha-256
local all {JOBS_ROLE},{SUPERUSER} scram-sha-256
"""
# Of the cluster: never without TLS, and never the roles that may do everything. Control runs on nodes too.
_HBA_CLUSTER = f"""hostssl all {JOBS_ROLE},{SUPERUSER} all reject
hostssl {DATABASE} +{NODES_ROLE},{CONTROL_ROLE} all scram-sha-256
hostssl samerole all all scram-sha-256
"""


def data_directory(home: Home) -> Path:
    """Return the cluster's directory."""
    return home.root / "postgres" / "data"


def prepare_postgres(
    home: Home,
    credentials: Credentials,
    interruption: Interruption,
    config: Config | None = None,
    certificates: Certificates | None = None,
) -> Path:
    """Make the cluster if there is none and write its configuration; return the directory of the server's programs.

    Raises `ToolMissing` when no PostgreSQL fits (an existing cluster needs its own major version).
    """
    owner = _server_user()
    data = data_directory(home)
    existing = data / "PG_VERSION"
    major, programs = need_postgres(int(existing.read_text()) if existing.exists() else None)
    make_directory(socket_directory(home), 0o755, owner)
    if not existing.exists():
        _make_cluster(home, programs, credentials, interruption, owner)
    write_file(home.etc / "pg_hba.conf", _HBA + (_HBA_CLUSTER if certificates else ""))
    write_file(home.etc / "postgresql.conf", render_settings(home, major, config, certificates))
    _keep_socket_name(home, config.postgres_port if config and certificates else SOCKET_PORT)
    return programs


def _keep_socket_name(home: Home, port: int) -> None:
    """Let the socket be found under its usual name: the server names it after its port, sites know the name."""
    usual = socket_directory(home) / f".s.PGSQL.{SOCKET_PORT}"
    if port == SOCKET_PORT:
        if usual.is_symlink():
            usual.unlink()
    elif not usual.is_symlink() or usual.readlink() != Path(f".s.PGSQL.{port}"):
        usual.unlink(missing_ok=True)
        usual.symlink_to(f".s.PGSQL.{port}")


def render_settings(
    home: Home, major: int, config: Config | None = None, certificates: Certificates | None = None
) -> str:
    """Return postgresql.conf. The home's path has no character that would need quoting."""
    cluster = {}
    if config and certificates:
        cluster = {
            "listen_addresses": f"'{config.cluster_address}'",
            "port": str(config.postgres_port),
            "ssl": "on",
            "ssl_cert_file": f"'{certificates.chain}'",
            "ssl_key_file": f"'{certificates.postgres_key}'",
        }
    settings = {
        "data_directory": f"'{data_directory(home)}'",
        "hba_file": f"'{home.etc / 'pg_hba.conf'}'",
        "listen_addresses": "''",
        "port": str(SOCKET_PORT),
        "unix_socket_directories": f"'{socket_directory(home)}'",
        # Every site's user connects; who gets in is pg_hba.conf's and the passwords' affair.
        "unix_socket_permissions": "0777",
        "max_connections": "500",  # a site's role has at most 20: more of them than 20 sites can hold
        # One table for all: 77,000 locks. The jobs worker ends a tenant's connection that holds 20,000.
        "max_locks_per_transaction": "256",
        "shared_buffers": "128MB",
        "max_wal_size": "1GB",
        "password_encryption": "scram-sha-256",
        "cluster_name": "tenantry",
        "logging_collector": "off",
        "log_line_prefix": "'%m [%p] %q%u@%d '",
        "log_timezone": "UTC",
        "timezone": "UTC",
        "lc_messages": "C",
        **cluster,
    }
    if major >= 16:
        # Before 16 a role with CREATEROLE could act on every role; since then it must be given those it makes.
        settings["createrole_self_grant"] = "'set, inherit'"
    return "".join(f"{name} = {value}\n" for name, value in settings.items())


def postgres_command(home: Home, programs: Path) -> list[str]:
    """Return the server's command line; as root it becomes the user postgres first, for the server refuses root."""
    server = [str(programs / "postgres"), "-D", str(data_directory(home))]
    return [*_as_server_user(), *server, "-c", f"config_file={home.etc / 'postgresql.conf'}"]


def probe_postgres(home: Home, credentials: Credentials) -> str | None:
    """Return None when the server answers SQL, else why not."""
    try:
        with _connect(home, credentials, "postgres") as connection:
            connection.execute("SELECT 1")
    except psycopg.Error as error:
        return str(error).strip().splitlines()[-1]
    return None


def prepare_database(home: Home, credentials: Credentials) -> None:
    """Make the roles and the platform's database, or set right what differs. Idempotent."""
    with _connect(home, credentials, "postgres") as connection:
        for role, rights in (
            (CONTROL_ROLE, "NOCREATEROLE NOCREATEDB"),
            (JOBS_ROLE, "CREATEROLE CREATEDB"),
            (NODE_ROLE, "NOCREATEROLE NOCREATEDB"),
        ):
            known = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role]).fetchone()
            connection.execute(
                sql.SQL("{} ROLE {} LOGIN NOSUPERUSER {} PASSWORD {}").format(
                    sql.SQL("ALTER" if known else "CREATE"),
                    sql.Identifier(role),
                    sql.SQL(rights),
                    sql.Literal(credentials.passwords[role]),
                )
            )
        connection.execute(_of("GRANT {} TO {}", CONTROL_ROLE, JOBS_ROLE))
        # It sees what the tenants' connections do, and may end them, without being a member of all their roles.
        connection.execute(_of("GRANT pg_read_all_stats, pg_signal_backend TO {}", JOBS_ROLE))
        _prepare_nodes_role(connection)
        if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone():
            connection.execute(_of("CREATE DATABASE {} OWNER {}", DATABASE, CONTROL_ROLE))
        for name in (DATABASE, "postgres", "template1"):
            connection.execute(_of("REVOKE ALL ON DATABASE {} FROM PUBLIC", name))
        connection.execute(
            _of("GRANT CONNECT ON DATABASE {} TO {}, {}, {}", DATABASE, JOBS_ROLE, NODE_ROLE, NODES_ROLE)
        )
    with _connect(home, credentials, DATABASE) as connection:
        # Anybody who may connect may make large objects, without end: nodes, too. The platform has none.
        connection.execute(f"REVOKE EXECUTE ON FUNCTION {', '.join(_LARGE_OBJECTS)} FROM PUBLIC")


def _prepare_nodes_role(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    """Make the group that every node's role belongs to; the jobs worker puts them in."""
    if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [NODES_ROLE]).fetchone():
        connection.execute(_of("CREATE ROLE {} NOLOGIN", NODES_ROLE))
    connection.execute(_of("GRANT {} TO {}", NODES_ROLE, NODE_ROLE))
    if connection.info.server_version >= _ROLES_ARE_GIVEN:
        # Before, CREATEROLE was enough to put a role into any group, and to drop any.
        for role in (NODES_ROLE, NODE_ROLE):
            connection.execute(_of("GRANT {} TO {} WITH ADMIN TRUE, INHERIT FALSE, SET FALSE", role, JOBS_ROLE))


def reload_postgres(home: Home, credentials: Credentials) -> None:
    """Let a running server read its certificate anew."""
    with _connect(home, credentials, "postgres") as connection:
        connection.execute("SELECT pg_reload_conf()")


def worker_is_alive(home: Home, credentials: Credentials, since: float) -> bool:
    """Whether a jobs worker has beaten its heart after `since` (seconds of the epoch)."""
    query = "SELECT 1 FROM procrastinate_workers WHERE last_heartbeat >= to_timestamp(%s)"
    try:
        with _connect(home, credentials, DATABASE) as connection:
            return connection.execute(query, [since]).fetchone() is not None
    except psycopg.Error:
        return False


def _connect(home: Home, credentials: Credentials, database: str) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(
        conninfo(home, SUPERUSER, credentials.passwords[SUPERUSER], database),
        autocommit=True,
        connect_timeout=_CONNECT_SECONDS,
        application_name="tenantry-embedded",
    )


def _of(statement: LiteralString, *names: str) -> sql.Composed:
    return sql.SQL(statement).format(*(sql.Identifier(name) for name in names))


def _make_cluster(
    home: Home, programs: Path, credentials: Credentials, interruption: Interruption, owner: tuple[int, int] | None
) -> None:
    unfinished = home.root / "postgres" / "data.new"
    shutil.rmtree(unfinished, ignore_errors=True)
    make_directory(unfinished, 0o700, owner)
    # initdb reads the password from a real file, which its user must be able to read.
    password = home.root / "postgres" / "password.new"
    write_file(password, credentials.passwords[SUPERUSER] + "\n", 0o600)
    if owner is not None:
        os.chown(password, *owner)
    command = [
        *_as_server_user(),
        str(programs / "initdb"),
        *("-D", str(unfinished), "-U", SUPERUSER, f"--pwfile={password}", "--auth=scram-sha-256"),
        *("--encoding=UTF8", "--locale=C.UTF-8", "--no-instructions"),
    ]
    try:
        run_command(interruption, command, what="initdb", limit=_INITDB_LIMIT, directory=home.root / "postgres")
        unfinished.rename(data_directory(home))
    finally:
        password.unlink(missing_ok=True)


def _server_user() -> tuple[int, int] | None:
    """Return the user the server runs as when we are root, None when it is ourselves."""
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam("postgres")
    except KeyError:
        raise ToolMissing(
            "There is no user postgres, which PostgreSQL runs as when the platform is started by root. "
            "Install the distribution's package (apt-get install postgresql), or run as an ordinary user."
        ) from None
    return entry.pw_uid, entry.pw_gid


def _as_server_user() -> list[str]:
    if os.geteuid() != 0:
        return []
    return [str(need_program("setpriv", "util-linux")), "--reuid=postgres", "--regid=postgres", "--init-groups"]
