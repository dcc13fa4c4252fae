"""The database as the agent sees it: one connection at a time per line, and the functions of `agent_v1`."""

import asyncio
from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from tenantry.node.errors import StoreUnavailable
from tenantry.node.gate import ConnectGate
from tenantry.node.servers import Servers, Timeline

# A hung server is noticed after the first of these, which a small answer never needs. A server that is merely slow
# gets longer each time: giving up and asking again would be what keeps it slow.
ANSWER_SECONDS = 4.0
FULL_ANSWER_SECONDS = 10.0  # 10,000 sites are answered in under a second
ANSWER_SECONDS_MAX = 60.0
# A thousand nodes that log in at once wait for each other. Who gives up too early has the server make a connection for
# nobody, and comes again: that way none gets in. After 10 s TCP's own attempts are at most 4 s apart.
CONNECT_SECONDS = 3
CONNECT_SECONDS_MAX = 10
PROGRAM = "tenantry-agent"
ECHO_CHANNEL = "tenantry_echo"
ALIVE_SECONDS = 10  # an agent that lives has used its connection since
_CONNECT: Mapping[str, Any] = {
    "autocommit": True,
    "prepare_threshold": None,  # so that the connection may go through PgBouncer
    # A half-open connection is noticed after 4 s, where defaults take hours (TCP only).
    "keepalives_idle": 2,
    "keepalives_interval": 1,
    "keepalives_count": 2,
    "tcp_user_timeout": 4000,
}


class Line:
    """One connection to the database, opened when needed, dropped when it does not answer in time.

    The lines of one agent share `servers` (or a connection string), and `gate`, which counts every attempt.
    """

    def __init__(self, servers: Servers | str, gate: ConnectGate | None = None, *, name: str = PROGRAM) -> None:
        self._servers = Servers(servers) if isinstance(servers, str) else servers
        self._gate = gate or ConnectGate()
        self._name = name
        self._connection: psycopg.AsyncConnection[tuple[Any, ...]] | None = None
        self._server = 0  # which the connection is to
        self._lock = asyncio.Lock()
        self._timeouts = 0

    async def connection(self) -> psycopg.AsyncConnection[tuple[Any, ...]]:
        """Return the open connection; `StoreUnavailable` when there is none to be had."""
        if self._connection is None or self._connection.closed:
            self._connection = await self._connect()
            self._timeouts = 0
        return self._connection

    async def _connect(self) -> psycopg.AsyncConnection[tuple[Any, ...]]:
        """Try each address of each server until one lets us in; that server is the one in use from then on."""
        seconds = min(CONNECT_SECONDS * 2 ** min(self._timeouts, 8), CONNECT_SECONDS_MAX)
        failures: list[Exception] = []
        for server in self._servers.in_order():
            try:
                for parameters in await self._servers.addresses(server):
                    await self._gate.turn()
                    try:
                        connection = await psycopg.AsyncConnection.connect(
                            **{**parameters, **_CONNECT}, application_name=self._name, connect_timeout=seconds
                        )
                    except psycopg.Error as error:
                        failures.append(error)
                    else:
                        self._server = server
                        self._servers.use(server)
                        return connection
            except OSError as error:  # its name cannot be resolved
                failures.append(error)
        self._timeouts += any(isinstance(error, psycopg.errors.ConnectionTimeout) for error in failures)
        words = "; ".join(dict.fromkeys(map(_first_line, failures)))
        raise StoreUnavailable(f"no connection to PostgreSQL: {words}") from failures[-1]

    async def execute(self, query: str, parameters: tuple[Any, ...] = (), *, seconds: float = ANSWER_SECONDS) -> Any:
        """Return the first column of the first row, None without rows. One call at a time."""
        async with self._lock:
            if self._connection is not None and self._server != self._servers.current:
                self.drop()
                raise StoreUnavailable(f"the agent goes to another server: {self._servers.name(self._servers.current)}")
            connection = await self.connection()
            task = asyncio.create_task(_fetch(connection, query, parameters))
            try:
                # Not wait_for: it cancels over the connection, which a hung server does not answer either.
                done, _ = await asyncio.wait({task}, timeout=seconds)
                if done:
                    return task.result()
            except psycopg.Error as error:
                self.drop()
                raise StoreUnavailable(f"PostgreSQL: {_first_line(error)}") from error
            except BaseException:
                self.drop()
                task.cancel()
                raise
            self.drop()
            task.cancel()
            raise StoreUnavailable(f"PostgreSQL did not answer within {seconds:.0f} s")

    def drop(self) -> None:
        """Close the connection without asking the server."""
        if self._connection is not None:
            self._connection.pgconn.finish()
            self._connection = None


class Store:
    """The functions of `agent_v1`. `StoreUnavailable` whenever the database does not answer as agreed."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._unanswered = 0

    async def desired(self, since: int) -> Any:
        seconds = ANSWER_SECONDS if since else FULL_ANSWER_SECONDS
        return await self._ask("SELECT agent_v1.desired(%s)", (since,), seconds)

    async def report(self, report: Mapping[str, Any]) -> None:
        await self._ask("SELECT agent_v1.report(%s)", (Jsonb(storable(report)),), ANSWER_SECONDS)

    async def echo(self) -> None:
        """Notify everybody who tests whether notifications reach them."""
        await self._ask("SELECT pg_notify(%s, '')", (ECHO_CHANNEL,), ANSWER_SECONDS)

    async def others_alive(self, name: str, own: str) -> int:
        """Return how many other agents of this role work under application names that begin with `name`."""
        query = """
            SELECT count(DISTINCT application_name) FROM pg_stat_activity
            WHERE usename = session_user AND datname = current_database() AND starts_with(application_name, %s)
              AND application_name <> %s AND state_change > clock_timestamp() - make_interval(secs => %s)"""
        return int(await self._ask(query, (name, own, ALIVE_SECONDS), ANSWER_SECONDS))

    async def timeline(self) -> Timeline:
        """Return where the server stands in the history of its database."""
        query = """
            SELECT jsonb_build_array(system_identifier::text, left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))
            FROM pg_control_system()"""
        system, timeline = await self._ask(query, (), ANSWER_SECONDS)
        return Timeline(str(system), str(timeline))

    def close(self) -> None:
        self._line.drop()

    async def _ask(self, query: str, parameters: tuple[Any, ...], seconds: float) -> Any:
        try:
            answer = await self._line.execute(
                query, parameters, seconds=min(seconds * 2.0 ** min(self._unanswered, 8), ANSWER_SECONDS_MAX)
            )
        except StoreUnavailable:
            self._unanswered += 1
            raise
        self._unanswered = 0
        return answer


async def _fetch(connection: psycopg.AsyncConnection[Any], query: str, parameters: tuple[Any, ...]) -> Any:
    cursor = await connection.execute(query, parameters)
    if cursor.description is None:
        return None
    row = await cursor.fetchone()
    return None if row is None else row[0]


def storable(value: Any) -> Any:
    """Return a document with every text as PostgreSQL can keep it: names of files are any bytes, logs too."""
    if isinstance(value, str):
        return value.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "backslashreplace").decode()
    if isinstance(value, Mapping):
        return {storable(name): storable(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [storable(one) for one in value]
    return value


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
