"""Suite `breakages`: restarts into code that is broken, by the platform and by what people do by hand.

The kinds are those of tests/node/breakages.py. A visitor asks all the time; what is no page of the good code, or takes
more than five seconds, has failed. By hand only what can be broken by code alone is tried, and is watched for a while.
"""

import http.client
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from typing import Any

from bench.arrangements import (
    ByHand,
    Site,
    chain_reload,
    gunicorn_hup,
    socket_activation,
    touch_reload,
)
from bench.lab import TESTS, load_module, node_lab
from bench.results import Row, Table
from tenantry.node.effects.processes import descendants, find

breakages: Any = load_module("node_breakages", TESTS / "node" / "breakages.py")

AT_ONCE = 22  # sites of the platform that are given broken code side by side
READY_SECONDS = 30
GIVEN_UP_SECONDS = 200.0  # for all that time out, a few at a time
WATCHED_SECONDS = 5.0  # what is broken by hand
PAUSE_SECONDS = 0.02
PATIENCE_SECONDS = 5.0
WAYS: dict[str, Callable[[ByHand, str, int], Site]] = {
    "touch-reload": touch_reload,
    "chain reload": chain_reload,
    "gunicorn HUP": gunicorn_hup,
    "socket + gunicorn": socket_activation,
}
# What would outlive its server, or is about the descriptor under which the platform hands a socket on.
NOT_BY_HAND = re.compile("daemon|master|children|background|its socket|the socket|granian|page lost|host refused")


@dataclass(slots=True)
class Visitor:
    """Asks sites in turn until it leaves. `good` knows an answer of the code that works."""

    port: int
    hosts: list[str]
    path: str
    good: bytes
    asked: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    _leaves: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread = field(init=False)

    def __enter__(self) -> "Visitor":
        self._thread = threading.Thread(target=self._visit, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._leaves.set()
        self._thread.join()

    def _visit(self) -> None:
        while not self._leaves.is_set():
            for host in self.hosts:
                self.asked += 1
                if not is_good(self.port, host, self.path, self.good):
                    self.failed[host] = self.failed.get(host, 0) + 1
                self._leaves.wait(PAUSE_SECONDS)


def is_good(port: int, host: str, path: str, good: bytes) -> bool:
    """Return whether a site answers as the good code does."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
    with closing(connection), suppress(OSError, http.client.HTTPException):
        connection.request("GET", path, headers={"Host": host})
        answer = connection.getresponse()
        return answer.status == http.client.OK and good in bytes(str(answer.headers), "latin-1") + answer.read()
    return False


def measure() -> Table:
    """Break sites in every way, the platform's a batch at a time, those by hand one way after the other."""
    rows = [_ours(), *_by_hand()]
    return Table(
        suite="breakages",
        title="Restarts into broken code",
        columns=("kinds", "asked", "failed", "kinds_failed", "told"),
        rows=rows,
        verdict="«failed»: requests that got no page of the good code within 5 s; «kinds_failed»: kinds of breakage "
        "with such a request; «told»: kinds after which the person is told that, and why, the restart failed. By hand "
        "nobody is told; the log has it.",
    )


def _ours() -> Row:
    kinds = list(breakages.BREAKAGES)
    asked, failed, told, broken = 0, 0, 0, 0
    for first in range(0, len(kinds), AT_ONCE):
        batch = kinds[first : first + AT_ONCE]
        print(f"the platform: kinds {first + 1} to {first + len(batch)} of {len(kinds)} …", flush=True)
        visitor, clear = _broken_batch(batch)
        asked, failed, told = asked + visitor.asked, failed + sum(visitor.failed.values()), told + clear
        broken += len(visitor.failed)
    values = {"kinds": len(kinds), "asked": asked, "failed": failed, "kinds_failed": broken, "told": told}
    return Row("the platform", values)


def _broken_batch(batch: list[Any]) -> tuple[Visitor, int]:
    """Return who visited, and in how many cases the message, or the log's end, names the cause."""
    with node_lab.running_postgres() as postgres, node_lab.prepared(postgres) as node:
        breakages.prepare(node, READY_SECONDS)
        slugs = {f"b{number:02d}": (number, kind) for number, kind in enumerate(batch, 1)}
        for slug, (number, kind) in slugs.items():
            if "/users" in str(kind.site):
                breakages.lock_database(node, number)
            node.reported(slug, node.put(breakages.good(node, slug, number, kind)), seconds=60)
        with Visitor(node.port, [f"{slug}.localhost" for slug in slugs], "/slow?0", b'"version": "good-1"') as visitor:
            revisions = {
                slug: node.put(node.document(slug, number, "broken-1", generation=2, **kind.document()))
                for slug, (number, kind) in slugs.items()
            }
            clear = 0
            for slug, (_, kind) in slugs.items():
                report = node.reported(slug, revisions[slug], "failed", GIVEN_UP_SECONDS)
                if report["message"] and re.search(kind.words, f"{report['message']}\n{report['log']}"):
                    clear += 1
                else:
                    print(f"{kind.name}: {report['message']!r} does not name the cause", flush=True)
            node_lab.wait_until(lambda: not breakages.leftovers(node, len(batch)), breakages.GONE_SECONDS, "all to end")
        return visitor, clear


def _by_hand() -> list[Row]:
    kinds = [
        kind
        for kind in breakages.BREAKAGES
        if kind.settings is None and not (kind.site or kind.release or NOT_BY_HAND.search(kind.name))
    ]
    found: dict[str, list[tuple[int, int]]] = {name: [] for name in WAYS}
    for number, kind in enumerate(kinds, 1):
        print(f"by hand: kind {number} of {len(kinds)}, {kind.name} …", flush=True)
        for name, counts in _broken_by_hand(kind).items():
            found[name].append(counts)
    return [
        Row(
            name,
            {
                "kinds": len(kinds),
                "asked": sum(asked for asked, _ in counts),
                "failed": sum(failed for _, failed in counts),
                "kinds_failed": sum(failed > 0 for _, failed in counts),
            },
        )
        for name, counts in found.items()
    ]


def _broken_by_hand(kind: Any) -> dict[str, tuple[int, int]]:
    """Return (asked, failed) of each way, all of them beside each other."""
    with ByHand() as by_hand:
        sites = {name: way(by_hand, f"site{number}", 1) for number, (name, way) in enumerate(WAYS.items(), 1)}
        by_hand.start_nginx()
        for site in sites.values():
            site.wait()
        for name, content in kind.files().items():
            (by_hand.place / name).write_bytes(content)
        (by_hand.place / "app.py").write_text(f"from {kind.module} import application\n")
        shutil.rmtree(by_hand.place / "__pycache__", ignore_errors=True)
        visitors = {name: Visitor(by_hand.port, [site.host], "/", b"X-Process: ") for name, site in sites.items()}
        orders = [threading.Thread(target=site.order) for site in sites.values()]  # one waits for what it ends
        with ExitStack() as coming:
            for visitor in visitors.values():
                coming.enter_context(visitor)
            for order in orders:
                order.start()
            time.sleep(WATCHED_SECONDS)
        _end(by_hand)
        for order in orders:
            order.join()
        _end(by_hand)  # what an order started meanwhile
    return {name: (visitor.asked, sum(visitor.failed.values())) for name, visitor in visitors.items()}


def _end(by_hand: ByHand) -> None:
    """End servers that do not listen to anybody, and all that they started."""
    for process in by_hand.servers():
        process.send_signal(signal.SIGSTOP)  # or it starts another while its workers are listed
        found = find(process.pid)
        for one in [*descendants(found)] if found else []:
            with suppress(ProcessLookupError):
                os.kill(one.pid, signal.SIGKILL)
        process.wait()
