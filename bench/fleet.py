"""`bin/bench fleet`: a thousand simulated agents on one PostgreSQL: one change, idleness, a restart of the server."""

import math
import multiprocessing
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from bench.agents import run_agents
from bench.database import Bench, control_database, control_dsn
from bench.doorman import Doorman, most_within
from bench.results import Row, Table

SITES = 100
AGENTS_PER_PROCESS = 250
START_SECONDS_PER_AGENT = 0.02
CHANGES = 20
SETTLE_SECONDS = 12.0  # backends count what they did up to 10 s later
ANSWER_SECONDS = 120.0  # for all agents to get somewhere; beyond, something is broken
STOPPED_SECONDS = 15.0  # long enough for the pauses between attempts to have grown to their longest
_PROCESSES = multiprocessing.get_context("spawn")
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Idle:
    """What PostgreSQL does for agents to which nothing happens."""

    cpu_seconds_per_minute: float
    transactions_per_second: float
    memory_mb: float
    processes: int


@dataclass(frozen=True, slots=True)
class Restart:
    """How agents come back. `most_per_second`: connection attempts of any one agent within any second."""

    most_per_second: int
    attempts_per_agent_second: float
    back_seconds: float
    caught_up_seconds: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """Seconds, one for each agent and change, sorted."""

    agents: int
    applied: list[float]
    reported: list[float]
    cpu_seconds_per_change: float
    idle: Idle
    restart: Restart


def measure(agents: int) -> Table:
    """Run it, return its table."""
    outcome = run(agents, changes=CHANGES, idle_seconds=60.0)
    idle, restart = outcome.idle, outcome.restart
    values = {
        "applied p50 s": percentile(outcome.applied, 0.5),
        "p99": percentile(outcome.applied, 0.99),
        "max": outcome.applied[-1],
        "reported p99": percentile(outcome.reported, 0.99),
        "CPU s/change": outcome.cpu_seconds_per_change,
        "idle CPU s/min": idle.cpu_seconds_per_minute,
        "idle transactions/s": idle.transactions_per_second,
        "memory MB": idle.memory_mb,
    }
    verdict = (
        f"One change at a time to one of {SITES} sites; every agent reads it and reports. Idle: {idle.processes} "
        f"processes of PostgreSQL. Stopped for {STOPPED_SECONDS:.0f} s: no agent made more than "
        f"{restart.most_per_second} attempts within any second ({restart.attempts_per_agent_second:.2f} a second on "
        f"average); all listened again {restart.back_seconds:.1f} s after it was back, and had caught up with a change "
        f"made at once after {restart.caught_up_seconds:.1f} s."
    )
    measured = [{"applied": seconds} for seconds in outcome.applied[:: max(1, len(outcome.applied) // 1000)]]
    return Table(
        "fleet", "Agents on one PostgreSQL", tuple(values), [Row(f"{agents} agents", values, measured)], verdict
    )


def percentile(ordered: list[float], part: float) -> float:
    """Return the value that `part` of the sorted values do not exceed."""
    return ordered[math.ceil(part * len(ordered)) - 1]


def run(agents: int, *, changes: int, idle_seconds: float) -> Outcome:
    """Start `agents` agents, make changes, do nothing for a while, restart the server."""
    settings = {
        "max_connections": str(3 * agents + 50),  # two for each, and those whose end the server has not noticed
        "autovacuum": "on",
        "log_connections": "on",
        "log_line_prefix": "%n %p ",
    }
    with control_database(sites=SITES, nodes=agents, **settings) as bench, _fleet(bench, agents) as fleet:
        fleet.wait("reported", _change(bench, 0)[1])  # all are there
        _say(f"{agents} agents have reported")
        _age(bench)
        applied, reported, cpu = [], [], list[float]()
        postmaster = bench.server.process.pid
        for number in range(changes):
            cpu.append(-_cpu_seconds(postmaster))
            committed, revision = _change(bench, number)
            reported += [moment - committed for moment in fleet.wait("reported", revision)]
            applied += [moment - committed for moment in fleet.wait("applied", revision)]
            time.sleep(1.0)
            cpu[-1] += _cpu_seconds(postmaster)
        half = percentile(sorted(applied), 0.5)
        _say(f"applied: p50 {half:.2f}, max {max(applied):.2f} s; reported: max {max(reported):.2f} s")
        _say(f"PostgreSQL's processor time for a change: {sum(cpu) / len(cpu):.2f} s")
        time.sleep(SETTLE_SECONDS)
        idle = _measure_idle(bench, idle_seconds)
        _say(str(idle))
        restart = _restart(bench, fleet)
        _say(str(restart))
    return Outcome(agents, sorted(applied), sorted(reported), sum(cpu) / changes, idle, restart)


def _age(bench: Bench) -> None:
    """Let the tables be as after a while: autovacuum would look at new ones amid it all, and plans be made anew."""
    with bench.server.connect(bench.database.name) as connection:
        connection.execute("VACUUM ANALYZE")
    time.sleep(1.0)  # every agent's heartbeat and next answer use the new plans
    _change(bench, 0)
    time.sleep(SETTLE_SECONDS)


def _say(text: str) -> None:
    """A run takes minutes, and one that fails in its last part has measured the others all the same."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


class Fleet:
    """The processes of the agents, and what they say of them."""

    def __init__(self, bench: Bench, agents: int) -> None:
        self._agents = agents
        self._pipes = []
        self._processes = []
        numbers = list(range(1, agents + 1))
        for first in range(0, agents, AGENTS_PER_PROCESS):
            part = numbers[first : first + AGENTS_PER_PROCESS]
            here, there = _PROCESSES.Pipe()
            dsns = [bench.node_dsn(number) for number in part]
            seconds = START_SECONDS_PER_AGENT * len(part)
            process = _PROCESSES.Process(target=run_agents, args=(dsns, seconds, there), daemon=True)
            process.start()
            self._pipes.append(here)
            self._processes.append(process)

    def ask(self, question: str, value: float) -> list[float]:
        """Return the answers of all processes."""
        for pipe in self._pipes:
            pipe.send((question, value))
        return [moment for pipe in self._pipes for moment in pipe.recv()]

    def wait(self, question: str, value: float) -> list[float]:
        """Return every agent's answer, as soon as each has one."""
        deadline = time.monotonic() + ANSWER_SECONDS
        while True:
            moments = self.ask(question, value)
            if len(moments) == self._agents:
                return moments
            if time.monotonic() > deadline:
                raise RuntimeError(f"only {len(moments)} of {self._agents} agents: {question} {value}")
            time.sleep(0.25)

    def end(self) -> None:
        for pipe in self._pipes:
            pipe.send(("end", 0))
        for process in self._processes:
            process.join(10)
            process.kill()


@contextmanager
def _fleet(bench: Bench, agents: int) -> Iterator[Fleet]:
    fleet = Fleet(bench, agents)
    try:
        yield fleet
    finally:
        fleet.end()


def _change(bench: Bench, number: int) -> tuple[float, int]:
    """Change one site; returns the moment of the commit and its revision."""
    slug = bench.site_slugs[number % len(bench.site_slugs)]
    with psycopg.connect(control_dsn(bench)) as connection:
        connection.execute("UPDATE site SET generation = generation + 1 WHERE slug = %s", (slug,))
        row = connection.execute("SELECT changelog_append('site.updated', %s, NULL, 'bench', '{}')", (slug,)).fetchone()
        assert row is not None
        committed = time.monotonic()
    return committed, int(row[0])


# Idleness


def _measure_idle(bench: Bench, seconds: float) -> Idle:
    postmaster = bench.server.process.pid
    cpu, transactions = _cpu_seconds(postmaster), _transactions(bench)
    started = time.monotonic()
    time.sleep(seconds)
    passed = time.monotonic() - started
    children = _children(postmaster)
    return Idle(
        cpu_seconds_per_minute=(_cpu_seconds(postmaster) - cpu) / passed * 60,
        transactions_per_second=(_transactions(bench) - transactions) / passed,
        memory_mb=sum(_memory_kb(pid) for pid in children) / 1024,
        processes=len(children),
    )


def _children(postmaster: int) -> list[int]:
    text = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text()
    return [postmaster, *map(int, text.split())]


def _cpu_seconds(postmaster: int) -> float:
    """The processor time of the server's processes, those that have ended included."""
    ticks = 0
    for pid in reversed(_children(postmaster)):  # the postmaster last: it has the time of those that end meanwhile
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except FileNotFoundError:
            continue
        ticks += sum(map(int, fields[11 : 15 if pid == postmaster else 13]))
    return ticks / _TICKS


def _memory_kb(pid: int) -> int:
    """Return the proportional set size: what is shared counts once."""
    match = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    return int(match[1]) if match else 0


def _transactions(bench: Bench) -> int:
    with bench.server.connect() as connection:
        row = connection.execute(
            "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = %s", (bench.database.name,)
        ).fetchone()
    assert row is not None
    return int(str(row[0]))


# The restart


def _restart(bench: Bench, fleet: Fleet) -> Restart:
    log_size = bench.server.log.stat().st_size
    bench.server.halt()
    started = time.monotonic()
    with Doorman(Path(bench.server.host) / ".s.PGSQL.5432") as doorman:
        time.sleep(STOPPED_SECONDS)
    bench.server.resume()
    back = time.monotonic()
    _, revision = _change(bench, 0)
    listening = fleet.wait("listening", back - 1.0)
    reported = fleet.wait("reported", revision)
    last = max(listening)
    attempts = doorman.attempts
    for role, moment in _logged_attempts(bench, log_size):
        attempts.setdefault(role, []).append(moment)
    count = sum(map(len, attempts.values()))
    return Restart(
        most_per_second=max(most_within(moments, 1.0) for moments in attempts.values()),
        attempts_per_agent_second=count / len(attempts) / (last - started),
        back_seconds=last - back,
        caught_up_seconds=max(reported) - back,
    )


def _logged_attempts(bench: Bench, offset: int) -> Iterator[tuple[str, float]]:
    """Every connection the server took or refused since, by role, on the monotonic clock."""
    skew = time.time() - time.monotonic()
    text = bench.server.log.read_bytes()[offset:].decode()
    received = {
        pid: float(stamp) - skew
        for stamp, pid in re.findall(r"^([0-9.]+) (\d+) LOG:  connection received", text, re.MULTILINE)
    }
    for pid, role in re.findall(r"^[0-9.]+ (\d+) LOG:  connection authorized: user=(\w+)", text, re.MULTILINE):
        yield role, received[pid]
