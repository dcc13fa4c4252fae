"""What happens to a site that takes too much, and to its neighbours: real engines, nginx and control groups."""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django_tenantry.answering import UNANSWERED_MAX
from node_lab import AS_ROOT, GRANIAN, Node, Postgres, has_idle_groups, prepared, wait_until

from tenantry.node.config import read_config
from tenantry.node.effects.limits import SiteLimits
from tenantry.node.vassal import ASIDE, find_groups, is_behind, set_bound

CAP_SYS_RESOURCE = 24
APPLICATION = """
import json, os, time
HOARD = []
def application(environ, start_response):
    path, query = environ["PATH_INFO"], environ["QUERY_STRING"]
    if path == "/sleep":
        time.sleep(float(query))
    if path == "/burn":
        end = time.monotonic() + float(query)
        while time.monotonic() < end:
            pass
    if path == "/leak":
        for _ in range(int(query)):
            HOARD.append(bytearray(os.urandom(1)) * (1 << 20))
    if path == "/survive":
        if os.fork() == 0:
            os.setsid()
            os.closerange(3, 64)
            while True:
                open(os.environ["MEDIA_ROOT"] + "/alive", "w").close()
                time.sleep(float(query))
                if os.fork():
                    os._exit(0)
    if path == "/precious":
        try:
            with open("/proc/self/oom_score_adj", "w") as file:
                file.write("0")
        except OSError:
            pass
    if path == "/big":
        try:
            with open(os.environ["MEDIA_ROOT"] + "/big", "wb") as file:
                file.truncate(int(query) << 20)
            answer = "written"
        except OSError as error:
            answer = error.strerror
        start_response("200 OK", []); return [answer.encode()]
    size = len(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"] or 0)))
    body = json.dumps({"pid": os.getpid(), "size": size, "method": environ["REQUEST_METHOD"], "path": path}).encode()
    start_response("200 OK", [("Content-Type", "application/json")])
    return [body]
"""

ASGI = (
    APPLICATION
    + """
import asyncio
async def asgi(scope, receive, send):
    path, query = scope["path"], scope["query_string"].decode()
    kind, body, number = b"text/event-stream" if path == "/events" else b"application/json", [], 0
    if path == "/sleep":
        await asyncio.sleep(float(query))
    if path == "/leak":
        application({"PATH_INFO": path, "QUERY_STRING": query, "wsgi.input": open(os.devnull, "rb"),
            "CONTENT_LENGTH": "", "REQUEST_METHOD": "GET"}, lambda *_: None)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
    while path == "/events":
        await send({"type": "http.response.body", "body": b"data: %d\\n\\n" % os.getpid(), "more_body": True})
        await asyncio.sleep(0.1)
    await send({"type": "http.response.body", "body": json.dumps({"pid": os.getpid()}).encode()})
"""
)


@pytest.fixture(scope="module")
def pair(postgres: Postgres) -> Any:
    """A node with the sites `greedy` and `quiet`."""
    with prepared(postgres) as node:
        node.release("greedy-1", ASGI)
        node.start()
        for number, slug in enumerate(("greedy", "quiet"), 1):
            node.put(node.document(slug, number, "greedy-1"))
        for number, slug in enumerate(("greedy", "quiet"), 1):
            node.reported(slug, number)
        yield node


_generation = iter(range(2, 1000))


def limited(node: Node, **changes: Any) -> Node:
    """Give `greedy` other limits, and wait until it has them."""
    document = node.document("greedy", 1, "greedy-1", generation=next(_generation), **changes)
    node.reported("greedy", node.put(document))
    return node


def at_once(count: int, ask: Callable[[int], Any]) -> list[Any]:
    """What `count` visitors get who come together, in the order in which they are answered."""
    answers: list[Any] = []

    def visit(number: int) -> None:
        answers.append(ask(number))

    threads = [threading.Thread(target=visit, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def test_a_request_that_takes_too_long_is_ended_with_a_page(pair: Node) -> None:
    limited(pair, limits={"request_seconds": 1}, processes=2)
    began = time.monotonic()
    slow: list[Any] = []
    visitor = threading.Thread(target=lambda: slow.append(pair.get("greedy.localhost", "/sleep?30")))
    visitor.start()
    answers = []
    while visitor.is_alive():
        answers += [pair.get("greedy.localhost")[0], pair.get("quiet.localhost")[0]]
    status, headers, body = slow[0]
    assert (status, headers["retry-after"]) == (503, "5")
    assert b"not answering" in body
    assert time.monotonic() - began < 6
    assert set(answers) == {200}, "its other worker and its neighbour go on"
    wait_until(lambda: len({pair.page("greedy.localhost", "/sleep?0.01")["pid"] for _ in range(6)}) == 2, seconds=10)


def test_workers_grow_with_the_load(pair: Node) -> None:
    limited(pair, limits={"processes_max": 3})
    assert len({pair.page("greedy.localhost")["pid"] for _ in range(10)}) == 1
    stop = time.monotonic() + 12
    pids: set[int] = set()

    def visit(_: int) -> None:
        while time.monotonic() < stop and len(pids) < 3:
            pids.add(pair.page("greedy.localhost", "/sleep?0.05")["pid"])

    at_once(6, visit)
    assert len(pids) == 3


def test_a_full_queue_is_answered_at_once_and_nobody_hangs(pair: Node) -> None:
    """One worker of 20 requests a second; some 400 visitors come at once, who are twenty times what it can take."""
    limited(pair)

    def ask(_: int) -> tuple[int, float, str]:
        began = time.monotonic()
        status, headers, _body = pair.get("greedy.localhost", "/sleep?0.05")
        return status, time.monotonic() - began, headers.get("retry-after", "")

    answers = at_once(400, ask)
    served = [answer for answer in answers if answer[0] == 200]
    refused = [answer for answer in answers if answer[0] == 503]
    assert len(served) + len(refused) == 400
    assert len(served) >= 128
    assert refused, "the queue is finite"
    assert all(retry == "5" for _, _, retry in refused)
    assert max(seconds for _, seconds, _ in refused) < 3
    assert max(seconds for _, seconds, _ in served) < 15
    assert pair.get("greedy.localhost")[0] == 200


@pytest.mark.parametrize("size", [0, 10, 300_000])
def test_a_site_with_long_requests_gets_them_whole(pair: Node, size: int) -> None:
    limited(pair, limits={"request_seconds": 600})
    assert (pair.home / "run/long/greedy").exists()
    assert not (pair.home / "run/long/quiet").exists()
    page = pair.page("greedy.localhost", "/here/%C3%A4", method="POST", body=b"x" * size)
    assert (page["size"], page["method"]) == (size, "POST")
    assert page["path"].encode("latin-1").decode() == "/here/ä"


def test_a_site_without_disk_space_takes_no_files_and_everything_else(pair: Node) -> None:
    flag = pair.home / "run/full/greedy"
    upload = {"Content-Type": "multipart/form-data; boundary=x"}
    flag.touch()
    try:
        status, headers, body = pair.get("greedy.localhost", method="POST", headers=upload, body=b"--x--")
        assert (status, headers["cache-control"]) == (507, "no-store")
        assert b"disk space" in body
        for path in ("/media/new.txt", "/static/new.txt"):  # where there is no file the application is asked
            assert pair.get("greedy.localhost", path, method="POST", headers=upload, body=b"--x--")[0] == 507
        assert pair.get("greedy.localhost")[0] == 200
        assert pair.page("greedy.localhost", method="POST", body=b"a=b")["size"] == 3
        assert pair.page("quiet.localhost", method="POST", headers=upload, body=b"--x--")["size"] == 5
    finally:
        flag.unlink()
    assert pair.page("greedy.localhost", method="POST", headers=upload, body=b"--x--")["size"] == 5


def test_one_file_has_a_largest_size(pair: Node) -> None:
    limited(pair, limits={"disk_mb": 100})
    assert pair.get("greedy.localhost", "/big?99")[2] == b"written"
    assert pair.get("greedy.localhost", "/big?101")[2] == b"File too large"
    assert pair.get("quiet.localhost", "/big?101")[2] == b"written"


def test_a_site_beset_by_slow_visitors_leaves_connections_for_the_others(pair: Node) -> None:
    """They begin to send something and never end."""
    conf = (pair.home / "etc" / "nginx.conf").read_text()
    most = int(conf.partition("limit_conn sites ")[2].partition(";")[0])
    request = b"POST / HTTP/1.1\r\nHost: greedy.localhost\r\nContent-Length: 10\r\n\r\n"
    with contextlib.ExitStack() as stack:
        for _ in range(most + 10):  # some may be refused for requests of before that are not forgotten yet
            visitor = stack.enter_context(socket.create_connection(("127.0.0.1", pair.port), timeout=20))
            visitor.sendall(request)
        _, headers, body = wait_until(lambda: (got := pair.get("greedy.localhost"))[0] == 503 and got)
        assert (int(headers["retry-after"]), b"One moment" in body) == (5, True)
        assert pair.page("quiet.localhost")["method"] == "GET"
    wait_until(lambda: pair.get("greedy.localhost")[0] == 200, what="they left")


@pytest.mark.skipif(not AS_ROOT, reason="an ordinary user's sites are the user's own")
def test_a_machine_without_memory_ends_a_site_before_anything_else(pair: Node) -> None:
    status = Path("/proc/self/status").read_text()
    may_fix = int(status.partition("CapEff:")[2].split()[0], 16) >> CAP_SYS_RESOURCE & 1
    pid = pair.page("greedy.localhost", "/precious" if may_fix else "/")["pid"]  # else a site can take it back
    assert Path(f"/proc/{pid}/oom_score_adj").read_text() == "500\n"
    for name in ("agent", "standby", "emperor"):
        assert Path(f"/proc/{pair.processes[name].pid}/oom_score_adj").read_text() == "0\n"


@pytest.mark.skipif(not AS_ROOT, reason="control groups are root's")
def test_a_site_that_takes_all_it_can_gives_way_until_it_takes_less(pair: Node) -> None:
    groups = find_groups(str(pair.home))
    if not has_idle_groups(groups):
        pytest.skip("this machine has no control groups that give way")
    workers = len(os.sched_getaffinity(0)) // 4 + 1  # more than a quarter of the processors
    limited(pair, processes=workers)
    generation = os.readlink(pair.home / "run/sites/greedy/app.sock").removesuffix(".sock")
    greedy, quiet = (Path(groups["cpu"]) / name / "cpu.idle" for name in (f"greedy.{generation}", "quiet.1"))
    done = threading.Event()

    def visit(host: str, seconds: float) -> None:
        while not done.is_set():
            pair.get(host, f"/burn?{seconds}")
            done.wait(0.1)

    pages = [("greedy.localhost", 0.2)] * (workers + 2) + [("quiet.localhost", 0.01)]
    visitors = [threading.Thread(target=visit, args=page) for page in pages]
    for visitor in visitors:
        visitor.start()
    try:
        wait_until(lambda: greedy.read_text() == "1\n")
        assert quiet.read_text() == "0\n"
        means = SiteLimits(read_config(pair.config), lambda: frozenset({f"greedy.{generation}"}))
        set_bound(str(greedy.parent), 50)
        means.bring_forward()
        assert not is_behind(f"greedy.{generation}", groups, gives_way=True), (
            "a bound of before has nothing to do with it"
        )
        wait_until(lambda: greedy.read_text() == "1\n", seconds=3)
        means.bring_forward()
        assert greedy.read_text() == "1\n"
        pair.stop("agent")
        assert greedy.read_text() == "0\n", "nobody looks after it now"
        pair.start_agent()
        wait_until(lambda: greedy.read_text() == "1\n")
    finally:
        done.set()
        for visitor in visitors:
            visitor.join()
    wait_until(lambda: greedy.read_text() == "0\n", seconds=40)
    assert pair.page("greedy.localhost")["path"] == "/"


def test_a_leak_is_ended_alone_and_the_site_goes_on(pair: Node) -> None:
    groups = find_groups(str(pair.home))
    if "memory" not in groups:
        pytest.skip("this machine has no control group for memory")
    limited(pair, limits={"memory_mb": 100})
    before = pair.page("quiet.localhost")["pid"]
    worker = pair.page("greedy.localhost")["pid"]
    generation = os.readlink(pair.home / "run/sites/greedy/app.sock").removesuffix(".sock")
    group = Path(groups["memory"]) / f"greedy.{generation}"
    assert str(worker) in (group / "cgroup.procs").read_text().split()
    began = time.monotonic()
    status, headers, _ = pair.get("greedy.localhost", "/leak?400")
    assert (status, headers["retry-after"]) == (503, "5")
    assert time.monotonic() - began < 10
    wait_until(lambda: pair.get("greedy.localhost")[0] == 200, seconds=10)
    assert pair.page("greedy.localhost")["pid"] != worker
    assert pair.page("quiet.localhost")["pid"] == before


def test_granian_ends_what_takes_too_long_and_takes_no_more_than_it_can_answer(pair: Node) -> None:
    limited(pair, release_changes=GRANIAN, limits={"request_seconds": 3})

    def ask(_: int) -> tuple[int, str]:
        status, headers, _body = pair.get("greedy.localhost", "/sleep?2")
        return status, headers.get("retry-after", "")

    answers = at_once(UNANSWERED_MAX + 60, ask)
    assert set(answers) == {(200, ""), (503, "5")}
    assert answers.count((200, "")) >= UNANSWERED_MAX
    assert answers[0] == (503, "5"), "who cannot be served is told at once"
    began = time.monotonic()
    assert pair.get("greedy.localhost", "/sleep?30")[0] == 503
    assert time.monotonic() - began < 5
    assert pair.get("greedy.localhost")[0] == 200


def test_a_leak_under_granian_is_ended_alone_and_the_site_goes_on(pair: Node) -> None:
    if "memory" not in find_groups(str(pair.home)):
        pytest.skip("this machine has no control group for memory")
    limited(pair, release_changes=GRANIAN, limits={"memory_mb": 100})
    worker, before = pair.page("greedy.localhost")["pid"], pair.page("quiet.localhost")["pid"]
    status, headers, _ = pair.get("greedy.localhost", "/leak?400")
    assert (status, headers["retry-after"]) == (503, "5")
    wait_until(lambda: pair.get("greedy.localhost")[0] == 200, seconds=10)
    assert pair.page("greedy.localhost")["pid"] != worker
    assert pair.page("quiet.localhost")["pid"] == before


@pytest.mark.long
def test_a_granian_worker_that_has_grown_is_replaced_without_a_lost_request(pair: Node) -> None:
    """It is seen twice; the new one is started first, and who listens to the old one is told to come again."""
    limited(pair, release_changes=GRANIAN, limits={"memory_mb": 200})
    worker = pair.page("greedy.localhost")["pid"]
    assert pair.page("greedy.localhost", "/leak?110")["pid"] == worker
    events: list[bytes] = []
    listener = threading.Thread(target=lambda: events.append(pair.get("greedy.localhost", "/events")[2]))
    listener.start()
    deadline, pids = time.monotonic() + 70, set()
    while (worker in pids or not pids) and time.monotonic() < deadline:
        pids = {pair.page("greedy.localhost", "/sleep?0.2")["pid"] for _ in range(20)}
    assert pids
    assert worker not in pids
    listener.join(15)
    assert events[0].endswith(b"\n\n"), "whole, as far as a client can see"


@pytest.mark.long
def test_a_worker_that_has_grown_is_replaced_after_its_request(pair: Node) -> None:
    limited(pair, limits={"memory_mb": 160})
    worker = pair.page("greedy.localhost")["pid"]
    assert pair.page("greedy.localhost", "/leak?110")["pid"] == worker, "the request itself is answered"
    # uWSGI lets a worker live for a minute: one that is too large from the start would be replaced for ever.
    wait_until(lambda: pair.page("greedy.localhost")["pid"] != worker, seconds=70)
    assert pair.page("quiet.localhost", "/leak?110")["pid"], "who has no limit may"


@pytest.mark.skipif(not AS_ROOT, reason="a process of the agent's own user has its own grace")
@pytest.mark.parametrize("pause", [0.5, 0.001])
def test_what_forks_and_ends_all_the_time_goes_with_its_generation(pair: Node, pause: float) -> None:
    """Each of its processes is new, none was there for long."""
    limited(pair)
    pair.page("greedy.localhost", f"/survive?{pause}")
    alive = pair.home / "data" / "greedy" / "media" / "alive"
    wait_until(alive.exists, what="it runs")
    limited(pair)
    wait_until(lambda: time.time() - alive.stat().st_mtime > 3, 60, "its end")
    assert pair.page("greedy.localhost")["path"] == "/"
    alive.unlink()


@pytest.mark.skipif(not AS_ROOT, reason="control groups are root's")
def test_groups_go_with_their_generation(pair: Node) -> None:
    limited(pair, limits={"memory_mb": 200})
    groups = {path for kind, path in find_groups(str(pair.home)).items() if kind != ASIDE}
    if not groups:
        pytest.skip("this machine has no control groups")
    now = os.readlink(pair.home / "run/sites/greedy/app.sock").removesuffix(".sock")
    assert all((Path(group) / f"greedy.{now}").is_dir() for group in groups)
    wait_until(lambda: len(list((pair.home / "run/vassals").glob("greedy.*"))) == 1)
    means = SiteLimits(read_config(pair.config))

    def only_now() -> bool:
        means.remove_old_groups()
        return all([path.name for path in Path(group).glob("greedy.*")] == [f"greedy.{now}"] for group in groups)

    wait_until(only_now)
