"""Suite `neighbours`: what quiet sites feel of one that takes all it can, on one node.

Real parts: the agent, nginx, the emperor, uWSGI, control groups where the machine has them. The quiet sites are visited
at a steady pace, alone and beside each kind of greed; the floor is what the machine gives them alone.
"""

import contextlib
import http.client
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from bench.lab import node_lab
from bench.results import Row, Table

QUIET = 3
RATE = 12.0  # visits a second of each quiet site
WORK_SECONDS = 0.005  # of processor time that one page of a quiet site costs
GREEDY_WORK_SECONDS = 0.02  # ... and of the greedy one, whose one worker so serves 50 a second
OVERLOAD = 10  # times its capacity
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
# Visitors who come at their pace, whether they are answered or not; another process, below everybody's priority.
CROWD = """
import asyncio, sys
port, host, path, rate, seconds = int(sys.argv[1]), sys.argv[2], sys.argv[3], float(sys.argv[4]), float(sys.argv[5])
ask = f"GET {path} HTTP/1.0\\r\\nHost: {host}\\r\\n\\r\\n".encode()
counted = {}
async def visit():
    try:
        async with asyncio.timeout(30):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(ask)
            status = (await reader.read(12))[9:12].decode() or "none"
            writer.close()
    except (OSError, TimeoutError) as error:
        status = type(error).__name__
    counted[status] = counted.get(status, 0) + 1
async def main():
    tasks, began, loop = set(), asyncio.get_running_loop().time(), asyncio.get_running_loop()
    while (now := loop.time() - began) < seconds:
        for _ in range(int(now * rate) - len(tasks) - sum(counted.values())):
            task = asyncio.create_task(visit())
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.sleep(0.02)
    await asyncio.gather(*tasks)
    print(" ".join(f"{status}:{count}" for status, count in sorted(counted.items())))
asyncio.run(main())
"""


def measure(seconds: float) -> Table:
    """Visit the quiet sites for so long, alone and beside each kind of greed."""
    with node_lab.running_postgres() as postgres, node_lab.prepared(postgres) as node:
        node.release("site-1", application=APPLICATION)
        node.start()
        for number in range(1, QUIET + 1):
            node.put(node.document(f"quiet{number}", number, "site-1"))
        greedy = node.put(node.document("greedy", QUIET + 1, "site-1", limits={"memory_mb": 200}))
        node.reported("greedy", greedy, seconds=60)
        for number in range(1, QUIET + 1):
            node.reported(f"quiet{number}", number, seconds=60)
        _visit_all(node, 1.0)  # warm
        alone = _row("alone", _visit_all(node, seconds), None)
        base = alone.values["p99_ms"]
        rows = [alone]
        capacity = 1 / GREEDY_WORK_SECONDS
        for name, path, rate in (
            (f"at {OVERLOAD} × its capacity", f"/?{GREEDY_WORK_SECONDS}", capacity * OVERLOAD),
            ("leaking memory", "/leak", 5.0),
            ("out of descriptors", "/files", 20.0),
        ):
            with _crowd(node, path, rate, seconds + 1) as said:
                time.sleep(0.5)
                times = _visit_all(node, seconds)
            row = _row(f"beside one {name}", times, base)
            print(f"{row.name}: it was answered {said[0]}")
            rows.append(row)
    worst = max(row.values["ratio"] for row in rows[1:])
    failed = sum(row.values["failed"] for row in rows)
    met = "met" if worst <= FLOOR and not failed else "MISSED"
    return Table(
        suite="neighbours",
        title=f"{QUIET} quiet sites of {RATE:g} visits a second each, beside a greedy one; {os.cpu_count()} processors",
        columns=("visits", "p50_ms", "p99_ms", "ratio", "failed"),
        rows=rows,
        verdict=f"Target, a p99 of at most {FLOOR:g} × and no failed visit: {met} ({worst:.2f} ×, {failed} failed).",
    )


@contextlib.contextmanager
def _crowd(node: Any, path: str, rate: float, seconds: float) -> Iterator[list[str]]:
    """Visitors of the greedy site meanwhile; afterwards, what they were answered."""
    said: list[str] = []
    command = [sys.executable, "-c", CROWD, str(node.port), "greedy.localhost", path, str(rate), str(seconds)]
    process = subprocess.Popen(["nice", "-n", "10", *command], stdout=subprocess.PIPE, text=True)
    try:
        yield said
        said.append(process.communicate(timeout=60)[0].strip())
    finally:
        process.kill()
        process.wait()


def _visit_all(node: Any, seconds: float) -> list[tuple[float, int]]:
    answers: list[tuple[float, int]] = []
    threads = [threading.Thread(target=_visit, args=(node, number, seconds, answers)) for number in range(1, QUIET + 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def _visit(node: Any, number: int, seconds: float, answers: list[tuple[float, int]]) -> None:
    """Visit one quiet site at its pace, each time as a new visitor."""
    began = time.monotonic()
    count = 0
    while (due := began + (count + number / QUIET) / RATE) < began + seconds:
        time.sleep(max(0.0, due - time.monotonic()))
        count += 1
        start = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", node.port, timeout=30)
        try:
            connection.request("GET", f"/?{WORK_SECONDS}", headers={"Host": f"quiet{number}.localhost"})
            status = connection.getresponse().status
        except OSError:
            status = 0
        finally:
            connection.close()
        answers.append((time.monotonic() - start, status))


def _row(name: str, answers: list[tuple[float, int]], base: float | None) -> Row:
    times = sorted(seconds * 1000 for seconds, status in answers if status == 200)
    p99 = times[int(len(times) * 0.99)]
    values = {
        "visits": len(answers),
        "p50_ms": statistics.median(times),
        "p99_ms": p99,
        "ratio": p99 / base if base else None,
        "failed": len(answers) - len(times),
    }
    return Row(name, values, [{"seconds": seconds, "status": status} for seconds, status in answers])
