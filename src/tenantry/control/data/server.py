"""The tenants' PostgreSQL server, seen by the role that makes and drops databases."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import LiteralString

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg_pool import ConnectionPool

from tenantry.spec.environment import DatabaseAccess

POOL_MAX = 6  # as many as jobs run at once, and a little
CONNECT_TIMEOUT_SECONDS = 5

# What a connection inside a tenant's database begins with. The owner of a database may choose settings for whoever
# connects (ALTER DATABASE … SET); those of the connection itself come first.
_GUARDED = " ".join(
    f"-c {name}={value}"
    for name, value in {
        "search_path": "pg_catalog,pg_temp",
        "role": "none",
        "default_transaction_read_only": "off",
        "default_transaction_isolation": "read\\ committed",
        "statement_timeout": "0",
        "lock_timeout": "0",
        "idle_in_transaction_session_timeout": "0",
        "idle_session_timeout": "0",
    }.items()
)

AdminConnection = psycopg.Connection[tuple[object, ...]]


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """How to reach the server. `database` is one that `user` may always connect to.

    `user` has CREATEROLE and CREATEDB, and belongs to pg_read_all_stats and pg_signal_backend: it sees what tenants'
    connections do, and may end them.
    """

    host: str
    port: int
    database: str
    user: str
    password: str = field(repr=False)
    binaries: Path | None = None  # directory of pg_dump; None: found on PATH


class TenantServer:
    """Connections to the server: a pool for statements about roles and databases, and single ones into a database."""

    def __init__(self, address: ServerAddress) -> None:
        self.address = address
        self._pool = ConnectionPool(
            self._conninfo(address.database),
            connection_class=AdminConnection,
            kwargs={"autocommit": True},  # CREATE DATABASE runs in no transaction
            min_size=1,
            max_size=POOL_MAX,
            check=ConnectionPool.check_connection,
            open=False,
        )

    def open(self) -> None:
        """Start connecting; the first statement then finds a warm connection. Optional."""
        self._pool.open()

    def close(self) -> None:
        self._pool.close()

    @contextmanager
    def admin(self) -> Iterator[AdminConnection]:
        """Lend an autocommit connection as the administrating role."""
        self._pool.open()
        with self._pool.connection(timeout=CONNECT_TIMEOUT_SECONDS * 2) as connection:
            yield connection

    @contextmanager
    def inside(self, database: str) -> Iterator[AdminConnection]:
        """Connect to `database` as the administrating role, autocommit; its owner's settings have no effect."""
        with psycopg.connect(self._conninfo(database, options=_GUARDED), autocommit=True) as connection:
            yield connection

    def access(self, database: str, password: str, user: str | None = None) -> DatabaseAccess:
        """How `user` reaches a database; left out, it is the role named like it."""
        return DatabaseAccess(self.address.host, self.address.port, database, user or database, password)

    def _conninfo(self, database: str, **more: str) -> str:
        return make_conninfo(
            host=self.address.host,
            port=self.address.port,
            dbname=database,
            user=self.address.user,
            password=self.address.password,
            connect_timeout=CONNECT_TIMEOUT_SECONDS,
            application_name="tenantry-jobs",
            **more,
        )


def execute(connection: AdminConnection, statement: LiteralString, *names: str) -> None:
    """Run `statement` with `names` as its quoted identifiers, in order."""
    connection.execute(sql.SQL(statement).format(*(sql.Identifier(name) for name in names)))


def random_password() -> str:
    """Return 43 url-safe characters (256 bits)."""
    return secrets.token_urlsafe(32)
