"""Writers of the change log: transactions as control's services make them, some cut off, and what they committed."""

import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import psycopg
from psycopg.errors import LockNotAvailable
from psycopg.types.json import Jsonb

WORK_SECONDS = 0.01  # at most, between locking the site's row and appending
HOLD_SECONDS = 0.002  # at most, between appending and the end, while every other writer waits
HELD_PART = 0.1  # of the transactions
ROLLED_BACK_PART = 0.2
CUT_OFF_PART = 0.01  # the connection is gone before the commit
DELETED_PART = 0.03


class _RolledBack(Exception):
    """Thrown into a transaction to end it."""


@dataclass(slots=True)
class Written:
    """What writers did. `committed`: (revision, writer, its count) of every commit they saw succeed."""

    committed: list[tuple[int, int, int]] = field(default_factory=list)
    rolled_back: int = 0
    cut_off: int = 0
    busy: int = 0  # a lock was not had within 5 s: the service would answer «try again»
    started: float = float("inf")
    ended: float = float("-inf")

    def add(self, other: "Written") -> None:
        self.committed += other.committed
        self.rolled_back += other.rolled_back
        self.cut_off += other.cut_off
        self.busy += other.busy
        self.started = min(self.started, other.started)
        self.ended = max(self.ended, other.ended)


def write(dsn: str, slugs: tuple[str, ...], writers: range, changes_each: int) -> Written:
    """Let the writers of this process make their changes, a thread and a connection for each."""
    total = Written()
    with ThreadPoolExecutor(len(writers)) as pool:
        for written in pool.map(lambda writer: _Writer(dsn, slugs, writer).run(changes_each), writers):
            total.add(written)
    return total


class _Writer:
    def __init__(self, dsn: str, slugs: tuple[str, ...], number: int) -> None:
        self._dsn = dsn
        self._slugs = slugs
        self._number = number
        self._random = random.Random(number)
        self._written = Written()
        self._connection = self._connect()

    def run(self, changes: int) -> Written:
        self._written.started = time.monotonic()
        while len(self._written.committed) < changes:
            try:
                self._change(len(self._written.committed) + 1)
            except _RolledBack:
                self._written.rolled_back += 1
            except LockNotAvailable:
                self._written.busy += 1
            if self._connection.closed:
                self._written.cut_off += 1
                self._connection = self._connect()
        self._written.ended = time.monotonic()
        self._connection.close()
        return self._written

    def _connect(self) -> psycopg.Connection:
        return psycopg.connect(self._dsn, autocommit=True)

    def _change(self, count: int) -> None:
        """One act, as `changelog.services.act` makes it: the row's lock, the work, the change row, the commit."""
        chance = self._random
        fate = chance.random()
        slug = chance.choice(self._slugs)
        try:
            with self._connection.transaction():
                self._connection.execute("SELECT set_config('lock_timeout', '5000ms', true)")
                kind, metadata = self._update(slug)
                time.sleep(chance.random() * WORK_SECONDS)
                row = self._connection.execute(
                    "SELECT changelog_append(%s, %s, NULL, %s, %s)",
                    (kind, slug, f"writer {self._number}", Jsonb(metadata | {"count": count})),
                ).fetchone()
                if chance.random() < HELD_PART:
                    time.sleep(chance.random() * HOLD_SECONDS)
                if fate < CUT_OFF_PART:
                    self._connection.close()
                    return
                if fate < CUT_OFF_PART + ROLLED_BACK_PART:
                    raise _RolledBack
        except psycopg.OperationalError:
            if not self._connection.closed:
                raise
            return
        assert row is not None
        self._written.committed.append((int(row[0]), self._number, count))

    def _update(self, slug: str) -> tuple[str, dict[str, object]]:
        """Lock the site's row and change it; returns what the change row says of it."""
        row = self._connection.execute("SELECT status FROM site WHERE slug = %s FOR UPDATE", (slug,)).fetchone()
        assert row is not None
        if row[0] != "ready":
            kind, status = "site.provisioned", "ready"
        elif self._random.random() < DELETED_PART:
            kind, status = "site.deleted", "deleting"
        else:
            kind, status = "site.updated", "ready"
        changed = self._connection.execute(
            "UPDATE site SET status = %s, generation = generation + 1 WHERE slug = %s RETURNING generation",
            (status, slug),
        ).fetchone()
        assert changed is not None
        return kind, {"generation": changed[0]}


def split(writers: int, processes: int) -> Iterator[range]:
    """Deal the writers out to processes."""
    each = -(-writers // processes)
    for first in range(0, writers, each):
        yield range(first, min(first + each, writers))
