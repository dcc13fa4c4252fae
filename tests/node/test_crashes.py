"""A site that serves and whose processes keep ending: said with its log, alone, and over when it is over."""

import os
import signal
import threading
import time
from pathlib import Path

from node_lab import Node, answered_site, wait_until

from tenantry.node.answer import parse_entry
from tenantry.node.crashes import CONDITION, WINDOW_SECONDS, CrashWatch
from tenantry.node.desired import DesiredState, Head
from tenantry.node.status import NodeStatus
from tenantry.spec.names import Slug
from tenantry.spec.sites import SiteState

POISONED = """
import os, sys
def application(environ, start_response):
    if environ["PATH_INFO"] == "/poison":
        print("this request is poison", file=sys.stderr, flush=True)
        os._exit(1)
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""
BLOG = Slug("blog")


class Neighbour:
    """Visits a site until told to stop; the longest it waited, and what was not 200."""

    def __init__(self, node: Node, host: str) -> None:
        self._node, self._host = node, host
        self.waited: list[float] = []
        self.failed: list[int] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._visit)

    def _visit(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            status = self._node.get(self._host)[0]
            self.waited.append(time.monotonic() - began)
            if status != 200:
                self.failed.append(status)
            time.sleep(0.01)

    def __enter__(self) -> "Neighbour":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def conditions(node: Node) -> dict[str, str]:
    rows = node.sql("SELECT report->'conditions' FROM agent_v1.received ORDER BY number DESC LIMIT 1")
    return {condition["type"]: condition["message"] for condition in rows[0][0]} if rows else {}


def test_poisonous_requests_are_reported_and_hurt_no_neighbour(serving: Node) -> None:
    serving.release("poisoned-1", POISONED)
    revision = serving.put(serving.document(BLOG, 1, "poisoned-1"))
    serving.reported(BLOG, revision)
    serving.reported("other", serving.put(serving.document("other", 2, "demo-1")))
    with Neighbour(serving, "other.localhost") as neighbour:
        deadline = time.monotonic() + 30
        while CONDITION not in conditions(serving):
            assert time.monotonic() < deadline, serving.last_report(BLOG)
            serving.get("blog.localhost", "/poison")
        report = serving.last_report(BLOG)
        assert report is not None
        assert (report["state"], report["generation"]) == ("serving", 1)
        assert "workers keep ending by themselves" in report["message"]
        assert "this request is poison" in report["log"]
        assert "blog" in conditions(serving)[CONDITION]
        wait_until(lambda: serving.get("blog.localhost")[0] == 200, what="it to answer again")
    assert neighbour.failed == []
    assert "workers" not in str((serving.last_report("other") or {})["message"])


def test_a_master_that_dies_is_started_again_and_again_by_itself(serving: Node) -> None:
    serving.reported(BLOG, serving.put(serving.document(BLOG, 1, "demo-1")))
    serving.reported("other", serving.put(serving.document("other", 2, "demo-1")))
    with Neighbour(serving, "other.localhost") as neighbour:
        for _ in range(3):
            worker = int(serving.page("blog.localhost")["pid"])
            status = Path(f"/proc/{worker}/status").read_text().partition("PPid:")[2]
            os.kill(int(status.split()[0]), signal.SIGKILL)
            wait_until(lambda old=worker: answers_anew(serving, old), 30, what="a new process")
    assert neighbour.failed == []


def answers_anew(node: Node, old: int) -> bool:
    status, _, body = node.get("blog.localhost")
    return status == 200 and f'"pid": {old},'.encode() not in body


class Idle:
    """A worker with nothing to do."""

    def __init__(self) -> None:
        self.asked: list[Slug] = []

    def is_busy(self, slug: Slug) -> bool:
        return False

    def work_on(self, entry: object) -> None:
        self.asked.append(entry.slug)  # type: ignore[attr-defined]


class Logs:
    def grown(self) -> dict[Slug, str]:
        return {}

    def tail(self, slug: Slug) -> str:
        return "the end of the log"


def test_an_accident_is_none_and_what_is_over_is_over() -> None:
    now = 0.0
    desired, status, worker, said = DesiredState(), NodeStatus(), Idle(), {}
    entry = parse_entry(answered_site(BLOG, 3))
    desired.restore(Head("e", 3), [entry])
    status.head("e", 3)
    status.site(entry, SiteState.SERVING)
    status.take_report()
    watch = CrashWatch(Logs(), desired, status, worker=worker, clock=lambda: now)  # type: ignore[arg-type]
    watch.say = said.__setitem__
    died = "DAMN ! worker 1 (pid: 7) died :( trying respawn ...\n"
    watch.note({BLOG: f"{died}a line\n{died}"})
    assert said == {CONDITION: None}
    watch.note({BLOG: "what the site writes: DAMN ! worker 1 is fine\n"})
    assert said == {CONDITION: None}
    now = 10.0
    watch.note({BLOG: died})
    assert "blog" in str(said[CONDITION])
    report = status.take_report()
    assert report is not None
    (line,) = report["sites"]
    assert (line["state"], line["log"]) == ("serving", "the end of the log")
    assert "3 times in the last minute" in line["message"]
    now = 11.0 + WINDOW_SECONDS
    watch.note({})
    assert said == {CONDITION: None}
    assert worker.asked == [BLOG]
