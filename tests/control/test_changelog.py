"""The change log: gap-free, in commit order, append-only, told to everybody who listens."""

import json
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from django.db import DatabaseError, transaction

from tenantry.control.changelog import queries
from tenantry.control.changelog import services as changelog
from tenantry.control.changelog.models import Change, PlatformState
from tenantry.control.changelog.services import ChangeType, act, append
from tenantry.control.errors import Busy
from tenantry.control.fleet.models import Node
from tenantry.testing.control import CONTROL_ROLE, ControlDatabase

WRITERS = 16
CHANGES_EACH = 125
LIMIT_BYTES = 7_900


@contextmanager
def listening(database: ControlDatabase) -> Iterator["psycopg.Connection[Any]"]:
    with psycopg.connect(database.dsn(), autocommit=True) as connection:
        connection.execute("LISTEN tenantry")
        yield connection


def test_concurrent_writers_leave_no_gap_and_a_reader_misses_nothing(control_database: ControlDatabase) -> None:
    _, before = queries.head()
    done = threading.Event()
    committed: list[int] = []
    lock = threading.Lock()

    def write(seed: int) -> None:
        chance = random.Random(seed)
        with psycopg.connect(control_database.dsn()) as connection:
            for _ in range(CHANGES_EACH):
                row = connection.execute(
                    "SELECT changelog_append('site.updated', NULL, NULL, %s, '{}')", [f"writer {seed}"]
                ).fetchone()
                assert row is not None
                if chance.random() < 0.3:
                    connection.rollback()
                    continue
                connection.commit()
                with lock:
                    committed.append(row[0])

    seen: list[int] = []

    def read() -> None:
        last = before
        with psycopg.connect(control_database.dsn(), autocommit=True) as connection:
            while True:
                final = done.is_set()
                for (revision,) in connection.execute(
                    "SELECT revision FROM change WHERE revision > %s ORDER BY revision", [last]
                ):
                    seen.append(revision)
                    last = revision
                if final:
                    return

    reader = threading.Thread(target=read)
    writers = [threading.Thread(target=write, args=[seed]) for seed in range(WRITERS)]
    for thread in [reader, *writers]:
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    reader.join()

    expected = list(range(before + 1, before + 1 + len(committed)))
    assert sorted(committed) == expected
    assert seen == expected
    assert queries.head()[1] == expected[-1]


def append_and_fail() -> None:
    with act():
        append(ChangeType.USER_CREATED, actor="admin")
        raise RuntimeError


def test_a_change_is_notified_with_its_facts_when_it_commits(control_database: ControlDatabase) -> None:
    with listening(control_database) as connection:
        with act():
            revision = append(ChangeType.USER_CREATED, actor="admin", metadata={"user": "eva"})
        with pytest.raises(RuntimeError):
            append_and_fail()
        hints = [json.loads(note.payload) for note in connection.notifies(timeout=2, stop_after=1)]
        assert list(connection.notifies(timeout=0)) == []
    (hint,) = hints
    assert hint["revision"] == revision
    assert hint["type"] == "user.created"
    assert hint["epoch"] == str(queries.head()[0])
    assert hint["metadata"] == {"user": "eva"}
    assert hint["timestamp"]
    assert hint["site"] is None


@pytest.mark.parametrize("letter", ["a", "ü", '"', "\\"])
def test_metadata_too_large_for_a_notification_is_left_out_and_marked(
    control_database: ControlDatabase, letter: str
) -> None:
    large = letter * LIMIT_BYTES
    with listening(control_database) as connection:
        with act():
            revision = append(ChangeType.USER_CREATED, actor="admin", metadata={"large": large})
        (note,) = connection.notifies(timeout=2, stop_after=1)
    hint = json.loads(note.payload)
    assert hint["metadata_omitted"] is True
    assert "metadata" not in hint
    assert Change.objects.get(revision=revision).metadata == {"large": large}


@pytest.mark.parametrize("size", range(LIMIT_BYTES - 400, LIMIT_BYTES + 100, 50))
def test_every_size_around_the_limit_can_be_notified(control_database: ControlDatabase, size: int) -> None:
    with listening(control_database) as connection:
        with act():
            append(ChangeType.USER_CREATED, actor="admin", metadata={"text": "x" * size})
        (note,) = connection.notifies(timeout=2, stop_after=1)
    assert len(note.payload.encode()) <= LIMIT_BYTES
    assert ("metadata" in json.loads(note.payload)) != ("metadata_omitted" in json.loads(note.payload))


def test_the_log_cannot_be_rewritten(control_database: ControlDatabase) -> None:
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
        Change.objects.update(actor="somebody else")


def test_there_is_one_counter(control_database: ControlDatabase) -> None:
    with pytest.raises(DatabaseError), transaction.atomic():
        PlatformState.objects.create(singleton=False)


def test_a_writer_that_hangs_makes_others_busy_not_hang(
    control_database: ControlDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    with control_database.server.connect(control_database.name) as superuser:
        superuser.execute("ALTER FUNCTION changelog_append SET lock_timeout = '50ms'")
    with psycopg.connect(control_database.dsn(CONTROL_ROLE)) as other:
        other.execute("UPDATE platform_state SET revision = revision")
        with pytest.raises(Busy), act():
            append(ChangeType.USER_CREATED, actor="admin")


def test_waiting_for_a_row_is_bounded_too(control_database: ControlDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changelog, "LOCK_TIMEOUT_MS", 50)
    with psycopg.connect(control_database.dsn(CONTROL_ROLE)) as other:
        other.execute("UPDATE node SET name = name")
        with pytest.raises(Busy), act():
            list(Node.objects.select_for_update())
