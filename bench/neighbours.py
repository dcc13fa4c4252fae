"""Suite `neighbours`: what quiet sites feel of one that takes all it can, on one node.

Real parts: the agent, nginx, the emperor, uWSGI, control groups where the machine has them. The quiet sites are visited
each at its own steady pace, so that they meet now and then, alone and beside each kind of greed, in rounds that take
turns. The visitors are a small program (`visitors.c`): they share the processors with the sites here, as they would not
elsewhere, and must not be what is measured.
"""

import contextlib
import os
import time
from collections import Counter
from pathlib import Path
from statistics import quantiles
from typing import Any

from bench.lab import node_lab
from bench.programs import Record, compiled, visiting
from bench.results import Row, Table

ROUNDS = 3
RATES = (11.3, 12.0, 12.7)  # visits a second of each quiet site
QUIET = len(RATES)
WORK_SECONDS = 0.005  # of processor time that one page of a quiet site costs
GREEDY_HOST = "greedy.localhost"
GREEDY_WORK_SECONDS = 0.02  # ... and of the greedy one, whose one worker so serves 50 a second
OVERLOAD = 10  # times its capacity
CROWD_CONNECTIONS = 512
GREED = {  # path, and visits a second
    f"at {OVERLOAD} × its capacity": (f"/?{GREEDY_WORK_SECONDS}", OVERLOAD / GREEDY_WORK_SECONDS),
    "leaking memory": ("/leak", 5.0),
    "out of descriptors": ("/files", 20.0),
}
FLOOR = 1.5
APPLICATION = """
import os, time
HOARD, FILES = [], []
def application(environ, start_response):
    path, query = environ["PATH_INFO"], environ["QUERY_STRING"]
    if path == "/leak":
        for _ in range(20):
            HOARD.append(bytearray(b"x") * (1 << 20))
    elif path == "/files":
        try:
            while True:
                FILES.append(open("/dev/null"))
        except OSError:
            pass
    else:
        end = time.thread_time() + float(query or 0)
        while time.thread_time() < end:
            pass
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""


def measure(seconds: float) -> Table:
    """Visit the quiet sites for so long in each round, alone and beside each kind of greed."""
    with node_lab.running_postgres() as postgres, node_lab.prepared(postgres) as node:
        node.release("site-1", application=APPLICATION)
        node.start()
        for number in range(1, QUIET + 1):
            node.put(node.document(f"quiet{number}", number, "site-1"))
        greedy = node.put(node.document("greedy", QUIET + 1, "site-1", limits={"memory_mb": 200}))
        node.reported("greedy", greedy, seconds=60)
        for number in range(1, QUIET + 1):
            node.reported(f"quiet{number}", number, seconds=60)
        program = compiled(node.home, "visitors")
        _visit_all(node, program, 1.0)  # warm
        quiet: dict[str, list[Record]] = {name: [] for name in ("alone", *GREED)}
        answered: dict[str, Counter[int]] = {name: Counter() for name in GREED}
        for _ in range(ROUNDS):
            quiet["alone"] += _visit_all(node, program, seconds)
            for name, (path, rate) in GREED.items():
                crowd = visiting(
                    program, node.port, GREEDY_HOST, path, rate, connections=CROWD_CONNECTIONS, niceness=10
                )
                with crowd as records:
                    time.sleep(0.5)
                    quiet[name] += _visit_all(node, program, seconds)
                answered[name].update(abs(int(status)) for _, _, status in records)
                time.sleep(1)
    for name, statuses in answered.items():
        print(f"one {name} was answered {dict(statuses)}")
    rows = [_row("alone", quiet["alone"], None)]
    rows += [_row(f"beside one {name}", quiet[name], rows[0].values["p99_ms"]) for name in GREED]
    worst = max(row.values["ratio"] for row in rows[1:])
    failed = sum(row.values["failed"] for row in rows)
    met = "met" if worst <= FLOOR and not failed else "MISSED"
    return Table(
        suite="neighbours",
        title=f"{QUIET} quiet sites, {RATES} visits a second, beside a greedy one; {os.cpu_count()} processors",
        columns=("visits", "p50_ms", "p90_ms", "p99_ms", "ratio", "failed"),
        rows=rows,
        verdict=f"Target, a p99 of at most {FLOOR:g} × and no failed visit: {met} ({worst:.2f} ×, {failed} failed).",
    )


def _visit_all(node: Any, program: Path, seconds: float) -> list[Record]:
    """Visit every quiet site meanwhile, and return all that was noted."""
    with contextlib.ExitStack() as stack:
        notes = [
            stack.enter_context(visiting(program, node.port, f"quiet{number}.localhost", f"/?{WORK_SECONDS}", rate))
            for number, rate in enumerate(RATES, 1)
        ]
        time.sleep(seconds)
    return [record for records in notes for record in records]


def _row(name: str, records: list[Record], base: float | None) -> Row:
    times = [took * 1000 for _, took, status in records if abs(status) == 200]
    hundredths = quantiles(times, n=100)
    values = {
        "visits": len(records),
        "p50_ms": hundredths[49],
        "p90_ms": hundredths[89],
        "p99_ms": hundredths[98],
        "ratio": hundredths[98] / base if base else None,
        "failed": len(records) - len(times),
    }
    return Row(name, values, [{"seconds": took, "status": status} for _, took, status in records])
