"""Suite `restarts`: one site restarted again and again at 80 % load, by the platform and by what people do by hand.

All serve the same Django project with two workers of one thread, behind nginx, and are restarted in turns in one run.
Visitors come at a constant rate, whatever the answers take (`visitors.c`). «During» is from the order to restart until
a second after the new processes serve; «before» is as long a time without one.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from bench.arrangements import (
    APPLICATION,
    LOOK_SECONDS,
    ByHand,
    chain_reload,
    gunicorn_hup,
    socket_activation,
    touch_reload,
)
from bench.lab import node_lab
from bench.programs import Record, compiled, visiting
from bench.requests import load
from bench.results import Row, Table

LOAD = 0.8  # of the highest rate at which the site answers
NEIGHBOUR_RATE = 50  # a second
CALM_SECONDS = 2.0
AFTER_SECONDS = 1.0  # old processes end, and late visitors are answered
CALIBRATION_SECONDS = 3
WORKERS = 2
RESTART_SECONDS = 60
OTHERS_MIN = 10


@dataclass(slots=True)
class Candidate:
    """One way to restart. `restart` returns when the new processes serve."""

    name: str
    port: int
    host: str
    neighbour: str
    restart: Callable[[], None]
    rate: float = 0.0
    windows: list[tuple[float, float, float]] = field(default_factory=list)  # calm since, restart since, until
    records: list[Record] = field(default_factory=list)
    beside: list[Record] = field(default_factory=list)


def measure(restarts: int, only: str = "", rounds: int = 4) -> Table:
    """Restart the platform's site `restarts` times and the others less often, in rounds that take turns.

    They take up to ten seconds each. `only`: those with this in their name.
    """
    with node_lab.running_postgres() as postgres, node_lab.prepared(postgres) as node, ByHand() as by_hand:
        program = compiled(by_hand.place, "visitors")
        candidates = [_ours(node), *_others(by_hand)]
        candidates = [candidate for candidate in candidates if only in candidate.name]
        for candidate in candidates:
            best = load(candidate.port, candidate.host, "/", CALIBRATION_SECONDS)["per_second"]
            candidate.rate = best * LOAD
            print(f"{candidate.name}: {best:.0f} a second at most", flush=True)
        for number in range(rounds):
            for candidate in candidates:
                wanted = restarts if candidate is candidates[0] else min(restarts, max(restarts // 20, OTHERS_MIN))
                count = wanted // rounds + (number < wanted % rounds)
                print(f"round {number + 1}: {candidate.name}, {count} restarts …", flush=True)
                _visit(candidate, count, program)
    rows = [Row(candidate.name, _values(candidate)) for candidate in candidates]
    return Table(
        suite="restarts",
        title=f"One site restarted at {LOAD:.0%} load, {WORKERS} workers, visitors at a constant rate",
        columns=(
            *("restarts", "rate", "requests", "failed", "repeated", "p50_before", "p99_before", "p99_during", "ratio"),
            *("longest", "beside_before", "beside_during", "beside_failed", "took_s"),
        ),
        rows=rows,
        verdict="Times in ms. «beside»: p99 of a neighbour, 50 requests a second. «repeated»: a kept connection was "
        "closed unanswered, and the request sent again.",
    )


def _ours(node: Any) -> Candidate:
    node.release("demo-1", APPLICATION)
    node.start()
    settings = {"processes": WORKERS, "release_changes": {"wsgi": "app:application"}}
    node.reported("blog", node.put(node.document("blog", 1, "demo-1", **settings)))
    node.reported("beside", node.put(node.document("beside", 2, "demo-1", **settings)))
    generation, link = 1, node.home / "run" / "sites" / "blog" / "app.sock"
    control = psycopg.connect(node.dsn, autocommit=True)  # as control has one; making it costs the processor 10 ms

    def restart() -> None:
        nonlocal generation
        generation += 1
        document = node.document("blog", 1, "demo-1", generation=generation, **settings)
        control.execute("SELECT agent_v1.put(%s, false)", (Jsonb(document),))
        deadline = time.monotonic() + RESTART_SECONDS
        while link.readlink().name != f"{generation}.sock":  # the report would cost the processor more to wait for
            time.sleep(LOOK_SECONDS)
            if time.monotonic() > deadline:
                raise RuntimeError(f"generation {generation} does not serve: {node.last_report('blog')}")

    return Candidate("the platform", node.port, "blog.localhost", "beside.localhost", restart)


def _others(by_hand: ByHand) -> list[Candidate]:
    ways = {
        "touch-reload": touch_reload,
        "chain reload": chain_reload,
        "gunicorn HUP": gunicorn_hup,
        "socket + gunicorn": socket_activation,
    }
    made = []
    for number, (name, start) in enumerate(ways.items(), 1):
        site = start(by_hand, f"site{number}", WORKERS)
        made.append((name, site))
    touch_reload(by_hand, "beside", WORKERS)
    port = by_hand.start_nginx()
    for _, site in made:
        site.wait()
    return [Candidate(name, port, site.host, "beside.localhost", site.restart) for name, site in made]


def _visit(candidate: Candidate, restarts: int, program: Path) -> None:
    """Have both sites visited while one is restarted; take over what the visitors noted."""
    port = candidate.port
    with (
        visiting(program, port, candidate.host, "/", candidate.rate) as records,
        visiting(program, port, candidate.neighbour, "/", NEIGHBOUR_RATE) as beside,
    ):
        time.sleep(0.5)
        for _ in range(restarts):
            calm = time.monotonic()
            time.sleep(CALM_SECONDS)
            began = time.monotonic()
            candidate.restart()
            took = time.monotonic() - began
            time.sleep(AFTER_SECONDS)
            candidate.windows.append((calm, began, began + took + AFTER_SECONDS))
    candidate.records += records
    candidate.beside += beside


def _values(candidate: Candidate) -> dict[str, Any]:
    before, during = _waits(candidate.records, candidate.windows)
    beside_before, beside_during = _waits(candidate.beside, candidate.windows)
    statuses = [int(status) for _, _, status in candidate.records]
    values = {
        "restarts": len(candidate.windows),
        "rate": round(candidate.rate),
        "requests": len(statuses),
        "failed": sum(abs(status) != 200 for status in statuses),
        "repeated": sum(status < 0 for status in statuses),
        "p50_before": median(before),
        "p99_before": _p99(before),
        "p99_during": _p99(during),
        "longest": max(during),
        "beside_before": _p99(beside_before),
        "beside_during": _p99(beside_during),
        "beside_failed": sum(abs(int(status)) != 200 for _, _, status in candidate.beside),
        "took_s": median(until - began - AFTER_SECONDS for _, began, until in candidate.windows),
    }
    return values | {"ratio": values["p99_during"] / values["p99_before"]}


def _waits(records: list[Record], windows: list[tuple[float, float, float]]) -> tuple[list[float], list[float]]:
    """Return how long visitors waited, in ms, who came before a restart and during one. Failed ones waited, too."""
    before, during = [], []
    for came, took, _ in records:
        for calm, began, until in windows:
            if calm <= came < began:
                before.append(took * 1000)
            elif began <= came < until:
                during.append(took * 1000)
    return before, during


def _p99(waits: list[float]) -> float:
    return quantiles(waits, n=100)[98]
