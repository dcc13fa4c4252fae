"""The database as the agent sees it (`agent_v1`), and the last state it accepted from it, on disk."""

import asyncio
import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from tenantry.node.desired import Entry, parse_entry
from tenantry.node.effects.files import remove, sync, write_file
from tenantry.node.errors import StoreUnavailable
from tenantry.spec.errors import InvalidDocument
from tenantry.spec.names import Slug

logger = logging.getLogger(__name__)

ANSWER_SECONDS = 10.0  # 10,000 sites are answered in under a second
_CONNECT: Mapping[str, Any] = {
    "autocommit": True,
    "connect_timeout": 3,
    "application_name": "tenantry-agent",
    "prepare_threshold": None,  # so that the connection may go through PgBouncer
    # A half-open connection is noticed after 3 s, where defaults take hours (TCP only).
    "keepalives_idle": 2,
    "keepalives_interval": 1,
    "keepalives_count": 3,
    "tcp_user_timeout": 4000,
}


class Line:
    """One connection to the database, opened when needed, dropped when it does not answer in time."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._connection: psycopg.AsyncConnection[tuple[Any, ...]] | None = None
        self._lock = asyncio.Lock()

    async def connection(self) -> psycopg.AsyncConnection[tuple[Any, ...]]:
        """Return the open connection; `StoreUnavailable` when there is none to be had."""
        if self._connection is None or self._connection.closed:
            try:
                self._connection = await psycopg.AsyncConnection.connect(self._dsn, **_CONNECT)
            except psycopg.Error as error:
                raise StoreUnavailable(f"no connection to PostgreSQL: {_first_line(error)}") from error
        return self._connection

    async def execute(self, query: str, parameters: tuple[Any, ...] = (), *, seconds: float = ANSWER_SECONDS) -> Any:
        """Return the first column of the first row, None without rows. One call at a time."""
        async with self._lock:
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

    async def desired(self, since: int) -> Any:
        return await self._line.execute("SELECT agent_v1.desired(%s)", (since,))

    async def report(self, report: Mapping[str, Any]) -> None:
        await self._line.execute("SELECT agent_v1.report(%s)", (Jsonb(report),))

    def close(self) -> None:
        self._line.drop()


@dataclass(frozen=True, slots=True)
class Remembered:
    """The state on disk: complete up to `revision` of `epoch`."""

    epoch: str
    revision: int
    entries: tuple[Entry, ...]


class LastKnown:
    """The last accepted desired state on disk: `state/sites/<slug>.json` and, written last, `state/head.json`.

    An interruption leaves newer sites under an older head: what lies between is read from the database again.
    """

    def __init__(self, directory: Path) -> None:
        self._sites = directory / "sites"
        self._head = directory / "head.json"

    def load(self) -> Remembered | None:
        """Return what is remembered; None when nothing is. A damaged file of a site is left out and logged."""
        try:
            head = json.loads(self._head.read_bytes())
            epoch, revision = str(head["epoch"]), int(head["revision"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.warning("%s is damaged and not used: %r", self._head, error)
            return None
        return Remembered(epoch, revision, tuple(self._load_sites()))

    def load_site(self, slug: Slug) -> Entry | None:
        """Return one remembered site."""
        try:
            return parse_entry(json.loads((self._sites / f"{slug}.json").read_bytes()))
        except (OSError, ValueError, InvalidDocument):
            return None

    def save(self, epoch: str, revision: int, entries: Iterable[Entry]) -> None:
        """Remember changed entries, then the head. Durable when it returns."""
        written = []
        for entry in entries:
            path = self._sites / f"{entry.slug}.json"
            if entry.document is not None:
                content = json.dumps(entry.document, separators=(",", ":")).encode()
                if write_file(path, content, mode=0o600):
                    written.append(path)
            elif entry.problem is None:
                remove(path)
        for path in written:
            sync(path)
        if written:
            sync(self._sites)
        head = json.dumps({"version": 1, "epoch": epoch, "revision": revision}).encode()
        write_file(self._head, head, mode=0o600, durable=True)

    def _load_sites(self) -> Iterable[Entry]:
        for path in sorted(self._sites.glob("*.json")):
            try:
                yield parse_entry(json.loads(path.read_bytes()))
            except (OSError, ValueError, InvalidDocument) as error:
                logger.warning("%s is damaged and not used: %r", path, error)


async def _fetch(connection: psycopg.AsyncConnection[Any], query: str, parameters: tuple[Any, ...]) -> Any:
    cursor = await connection.execute(query, parameters)
    if cursor.description is None:
        return None
    row = await cursor.fetchone()
    return None if row is None else row[0]


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
