"""`bin/bench changelog`: many writers, rollbacks and compaction, and readers that must miss nothing.

Checked in full, not by samples: every committed change was read by every follower, in order, without gaps; every
answer an agent got holds exactly the sites that changed between its two revisions, as they were at the second.
"""

import multiprocessing
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import psycopg

from bench.database import Bench, control_database, control_dsn
from bench.followers import Answered, Goal, Log, follow_log, run_agents
from bench.results import Row, Table
from bench.writers import Written, split, write

SITES = 200
WRITER_PROCESSES = 4
FOLLOWERS = 3
AGENT_PAUSES = [0.0, 0.0, 0.02, 0.2, 3.0]  # the last one falls behind the tail again and again
COMPACT_EVERY_SECONDS = 1.0
COMPACT_KEEPS_SECONDS = 0.5
COMPACT_KEEPS_ROWS = 500  # and all that a follower has not read yet, so that none is overtaken
_PROCESSES = multiprocessing.get_context("spawn")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the run showed. Everything from `missed` on must be 0."""

    changes: int
    seconds: float
    rolled_back: int
    cut_off: int
    busy: int
    followers: int
    agents: int
    answers: int
    full_answers: int
    compactions: int
    compacted: int
    missed: int
    out_of_order: int
    gaps: int
    wrong_answers: int

    @property
    def failures(self) -> int:
        return self.missed + self.out_of_order + self.gaps + self.wrong_answers


# What most outboxes do: the number comes from a sequence, and the rows become visible in the order of the commits.
NAIVE = """
CREATE SEQUENCE naive_revision;
SELECT setval('naive_revision', (SELECT revision FROM platform_state));
CREATE OR REPLACE FUNCTION changelog_append(p_type text, p_site text, p_project text, p_actor text, p_metadata jsonb)
RETURNS bigint LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
    v_revision bigint := nextval('naive_revision');
BEGIN
    INSERT INTO change (revision, epoch, type, site_slug, project, actor, metadata, created_at)
    SELECT v_revision, epoch, p_type, p_site, p_project, p_actor, p_metadata, clock_timestamp() FROM platform_state;
    RETURN v_revision;
END
$$
"""


def measure(writers: int, changes: int) -> Table:
    """Run it, return its table."""
    outcome, naive = run(writers, changes), run_naive(writers, min(changes, 2_000))
    rows = [_row(f"{writers} writers", outcome), _row("numbers from a sequence instead", naive)]
    verdict = (
        f"{outcome.rolled_back:,} rolled back, {outcome.cut_off:,} cut off before the commit, {outcome.busy:,} refused "
        f"as busy; {outcome.followers} followers of the log; {outcome.agents} agents got {outcome.answers:,} answers "
        f"({outcome.full_answers:,} full); {outcome.compactions:,} compactions took {outcome.compacted:,} changes away."
    )
    return Table("changelog", "The change log under concurrent writers", tuple(rows[0].values), rows, verdict)


def _row(name: str, outcome: Outcome) -> Row:
    values = {
        "changes": outcome.changes,
        "changes/s": round(outcome.changes / outcome.seconds),
        "missed": outcome.missed,
        "out of order": outcome.out_of_order,
        "gaps": outcome.gaps,
        "wrong answers": outcome.wrong_answers,
    }
    return Row(name, values)


def run(writers: int, changes: int) -> Outcome:
    """Write `changes` changes with `writers` writers while followers and agents read; returns what was found."""
    with control_database(sites=SITES, nodes=len(AGENT_PAUSES), max_connections="300", autovacuum="on") as bench:
        return _run(bench, writers, changes, AGENT_PAUSES)


def run_naive(writers: int, changes: int) -> Outcome:
    """The comparator: followers of a log numbered by a sequence. No compaction, no agents' answers to judge."""
    with control_database(sites=SITES, nodes=0, max_connections="300", autovacuum="on") as bench:
        with psycopg.connect(control_dsn(bench), autocommit=True) as connection:
            connection.execute(NAIVE)
        return _run(bench, writers, changes, [])


def _run(bench: Bench, writers: int, changes: int, pauses: list[float]) -> Outcome:
    dsn = control_dsn(bench)
    first = _head(dsn)
    goal = Goal()
    here, there = _PROCESSES.Pipe()
    dsns = [bench.node_dsn(number) for number in range(1, len(pauses) + 1)]
    agents = _PROCESSES.Process(target=run_agents, args=(dsns, pauses, there))
    agents.start()
    logs = [Log(first) for _ in range(FOLLOWERS)]
    compactor = Compactor(dsn, logs)
    with ThreadPoolExecutor(FOLLOWERS) as pool:
        following = [pool.submit(follow_log, dsn, goal, log) for log in logs]
        try:
            _expect(here, agents)  # they have read once
            if pauses:
                compactor.start()
            written = _write(dsn, bench.site_slugs, writers, changes)
            goal.set(_head(dsn))
            here.send(_head(dsn))
            told: list[list[Answered]] = _expect(here, agents)
        finally:
            goal.give_up()
            compactor.stop()
            agents.kill()
        for follower in following:
            follower.result()
    return _judge(first, written, logs, told, compactor)


def _expect(pipe: Connection, process: Any) -> Any:
    while not pipe.poll(1.0):
        if not process.is_alive():
            raise RuntimeError(f"the agents' process ended with {process.exitcode}")
    return pipe.recv()


def _write(dsn: str, slugs: tuple[str, ...], writers: int, changes: int) -> Written:
    each = -(-changes // writers)
    total = Written()
    with ProcessPoolExecutor(WRITER_PROCESSES, mp_context=_PROCESSES) as pool:
        parts = [pool.submit(write, dsn, slugs, part, each) for part in split(writers, WRITER_PROCESSES)]
        for part in parts:
            total.add(part.result())
    return total


class Compactor(threading.Thread):
    """Takes old changes away all the time, from the front of the log that others read and append to."""

    def __init__(self, dsn: str, logs: list[Log]) -> None:
        super().__init__(name="compactor")
        self._dsn = dsn
        self._logs = logs
        self._stopped = threading.Event()
        self._error: Exception | None = None
        self.runs = 0
        self.removed = 0

    def run(self) -> None:
        try:
            with psycopg.connect(self._dsn, autocommit=True) as connection:
                while not self._stopped.wait(COMPACT_EVERY_SECONDS):
                    self._compact(connection)
        except psycopg.Error as error:
            self._error = error

    def _compact(self, connection: "psycopg.Connection[Any]") -> None:
        unread = _head(self._dsn) - min(log.revision for log in self._logs)
        connection.execute(
            "SELECT changelog_compact(clock_timestamp() - make_interval(secs => %s), %s)",
            (COMPACT_KEEPS_SECONDS, max(COMPACT_KEEPS_ROWS, unread)),
        )
        gone = connection.execute("SELECT max(revision) - count(*) FROM change").fetchone()
        assert gone is not None
        self.removed = int(gone[0])
        self.runs += 1

    def stop(self) -> None:
        """End it; raises what went wrong in it."""
        self._stopped.set()
        if self.ident is not None:
            self.join()
        if self._error is not None:
            raise self._error


def _head(dsn: str) -> int:
    with psycopg.connect(dsn) as connection:
        row = connection.execute("SELECT coalesce(max(revision), 0) FROM change").fetchone()
    assert row is not None
    return int(row[0])


def _judge(first: int, written: Written, logs: list[Log], told: list[list[Answered]], compactor: Compactor) -> Outcome:
    committed = sorted(written.committed)
    revisions = [revision for revision, _, _ in committed]
    expected = list(range(first + 1, first + 1 + len(committed)))
    missed = out_of_order = 0
    for log in logs:
        read = [(revision, writer, count) for revision, writer, count, *_ in log.changes]
        missed += len(set(committed) - set(read))
        out_of_order += _turned_round(read)
    wrong = sum(_wrong_answers(logs[0], answers) for answers in told)
    missed += sum(not answers or answers[-1].revision < expected[-1] for answers in told)
    return Outcome(
        changes=len(committed),
        seconds=written.ended - written.started,
        rolled_back=written.rolled_back,
        cut_off=written.cut_off,
        busy=written.busy,
        followers=len(logs),
        agents=len(told),
        answers=sum(map(len, told)),
        full_answers=sum(answer.full for answers in told for answer in answers),
        compactions=compactor.runs,
        compacted=compactor.removed,
        missed=missed,
        out_of_order=out_of_order,
        gaps=sum(log.gaps for log in logs) + (revisions != expected),
        wrong_answers=wrong,
    )


def _turned_round(read: list[tuple[int, int, int]]) -> int:
    """Return how often a change came before one that its own writer, or the log, has before it."""
    last_revision, last_count, wrong = 0, dict[int, int](), 0
    for revision, writer, count in read:
        wrong += revision <= last_revision or count <= last_count.get(writer, 0)
        last_revision, last_count[writer] = revision, count
    return wrong


def _wrong_answers(log: Log, answers: list[Answered]) -> int:
    """Return how many answers differ from what the log says that the sites were at their revision."""
    wrong = 0
    state: dict[str, tuple[int, str, int]] = {}
    changes = iter(log.changes)
    pending = next(changes, None)
    for answer in answers:
        touched = dict[str, tuple[int, str, int]]()
        deleted = dict[str, int]()
        while pending is not None and pending[0] <= answer.revision:
            revision, _, _, slug, kind, generation = pending
            touched[slug] = (revision, kind, generation)
            if kind == "site.deleted":
                deleted[slug] = revision
            pending = next(changes, None)
        state |= touched
        wrong += not (_is_right_full(answer, state) if answer.full else _is_right(answer, touched))
    return wrong


def _is_right(answer: Answered, touched: dict[str, tuple[int, str, int]]) -> bool:
    return answer.sites == {slug: _said(*state) for slug, state in touched.items()}


def _is_right_full(answer: Answered, state: dict[str, tuple[int, str, int]]) -> bool:
    """A full answer also lists sites that were never changed."""
    changed = {slug: said for slug, said in answer.sites.items() if slug in state}
    return changed == {slug: _said(*known) for slug, known in state.items() if known[1] != "site.deleted"}


def _said(revision: int, kind: str, generation: int) -> tuple[int, bool, int]:
    return (revision, False, 0) if kind == "site.deleted" else (revision, True, generation)
