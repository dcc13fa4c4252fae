"""Suite `requests`: requests per second of one site through the platform, and through nginx and uWSGI set up by hand.

Both serve the same release with the same environment: one database, one cache, the same number of workers.
"""

import socket
import tempfile
import threading
import time
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from bench.by_hand import by_hand
from bench.platform import Platform, first_answer
from bench.programs import compiled, visiting
from bench.results import Row, Table

PAGES = ("/whoami", "/static/board/board.css")
CONNECTIONS = 8
ROUNDS = 3  # alternating, so that a slow minute of the machine hits both


def measure(platform: Platform, seconds: float) -> Table:
    """Ask each page for `seconds` in each round, with 8 connections that are kept open."""
    site = platform.api.get("/sites/alpha").json()
    collected: dict[str, list[dict[str, Any]]] = {}
    with by_hand(platform, "alpha") as arrangement, tempfile.TemporaryDirectory() as scratch:
        program = compiled(Path(scratch), "visitors")
        arrangement.serve("alpha", arrangement.model, processes=site["processes"], threads=site["threads"])
        for port in (platform.http_port, arrangement.port):
            first_answer(port, "alpha.localhost", PAGES[0])
        page_of = {page: _existing(platform, page) for page in PAGES}
        for _ in range(ROUNDS):
            for page, path in page_of.items():
                for name, port in (("platform", platform.http_port), ("by hand", arrangement.port)):
                    print(f"{name} {page} …", flush=True)
                    collected.setdefault(f"{name} {page}", []).append(_visit(program, port, path, seconds))
    rows = [
        Row(name, {key: median(run[key] for run in runs) for key in ("per_second", "p50_ms", "p99_ms", "failed")}, runs)
        for name, runs in sorted(collected.items(), key=lambda item: item[0].split(" /")[::-1])
    ]
    return Table(
        suite="requests",
        title=f"Requests per second, {CONNECTIONS} kept connections, {site['processes']} × {site['threads']} workers",
        columns=("per_second", "p50_ms", "p99_ms", "failed"),
        rows=rows,
        verdict=f"Medians of {ROUNDS} alternating rounds of {seconds:g} s; the loader shares the processor.",
    )


def _visit(program: Path, port: int, path: str, seconds: float) -> dict[str, Any]:
    with visiting(program, port, "alpha.localhost", path, 0, connections=CONNECTIONS) as records:
        time.sleep(seconds)
    waits = [took * 1000 for _, took, status in records if abs(status) == 200]
    hundredths = quantiles(waits, n=100)
    return {
        "per_second": len(waits) / seconds,
        "p50_ms": hundredths[49],
        "p99_ms": hundredths[98],
        "failed": len(records) - len(waits),
    }


def _existing(platform: Platform, page: str) -> str:
    """The page's address as the site's own pages write it: a static file's name may hold a hash."""
    if not page.startswith("/static/"):
        return page
    import re

    answer = platform.api.get(f"http://127.0.0.1:{platform.http_port}/", headers={"Host": "alpha.localhost"})
    stem, _, ending = page.rpartition(".")
    found = re.search(rf"{re.escape(stem)}[^\"']*\.{ending}", answer.text)
    return found[0] if found else page


def load(port: int, hostname: str, path: str, seconds: float) -> dict[str, Any]:
    """Ask `path` again and again over `CONNECTIONS` kept connections; returns rate, latencies and failures."""
    durations: list[float] = []
    failures: list[str] = []
    stop = time.perf_counter() + seconds
    threads = [
        threading.Thread(target=_ask, args=(port, hostname, path, stop, durations, failures))
        for _ in range(CONNECTIONS)
    ]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - began
    if len(durations) < 2:
        raise RuntimeError(f"{path} on port {port}: no answers; {failures[:3]}")
    hundredths = quantiles(durations, n=100)
    return {
        "per_second": len(durations) / took,
        "p50_ms": hundredths[49] * 1000,
        "p99_ms": hundredths[98] * 1000,
        "failed": len(failures),
    }


def _ask(port: int, hostname: str, path: str, stop: float, durations: list[float], failures: list[str]) -> None:
    request = f"GET {path} HTTP/1.1\r\nHost: {hostname}\r\n\r\n".encode()
    connection: socket.socket | None = None
    while time.perf_counter() < stop:
        began = time.perf_counter()
        try:
            if connection is None:
                connection = socket.create_connection(("127.0.0.1", port), timeout=10)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.sendall(request)
            kept = _read_answer(connection)
        except (OSError, ValueError) as error:
            failures.append(repr(error))
            if connection is not None:
                connection.close()
            connection = None
            continue
        durations.append(time.perf_counter() - began)
        if not kept:
            connection.close()
            connection = None
    if connection is not None:
        connection.close()


def _read_answer(connection: socket.socket) -> bool:
    """Read one answer to its end; ValueError when it is not 200. Returns whether the connection is kept."""
    data = b""
    while b"\r\n\r\n" not in data:
        received = connection.recv(65536)
        if not received:
            raise ConnectionError("closed before the answer")
        data += received
    head, _, body = data.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise ValueError(head.split(b"\r\n", 1)[0].decode(errors="replace"))
    lower = head.lower()
    length = lower.partition(b"\r\ncontent-length:")[2].split(b"\r\n", 1)[0].strip()
    if length:
        missing = int(length) - len(body)
        while missing > 0:
            missing -= len(connection.recv(min(missing, 65536)))
    else:
        while not body.endswith(b"0\r\n\r\n"):
            body += connection.recv(65536)
    return b"\r\nconnection: close" not in lower
