"""Sites that run in granian: the same nginx, emperor, wrapper and generations, over HTTP and websockets."""

import asyncio
import http.client
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import websockets
from node_lab import APPLICATION, AS_ROOT, GRANIAN, Node, prepared, wait_until
from websockets.asyncio.client import ClientConnection, connect

from tenantry.node.effects.emperor import ask_emperor

ASGI = (
    APPLICATION
    + """
import asyncio
async def asgi(scope, receive, send):
    if scope["type"] == "websocket":
        await receive()
        if scope["path"] == "/refused":
            return await send({"type": "websocket.close"})
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": f"{VERSION}:{message['text']}"})
        print("closed with", message["code"], flush=True)
        return
    path, kind, body = scope["path"], b"text/plain", b""
    if path == "/die":
        os._exit(3)
    while (message := await receive())["type"] == "http.request":
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    if path == "/events":
        kind = b"text/event-stream"
    async def start(status=200):
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", kind)]})
    async def part(data, more=True):
        await send({"type": "http.response.body", "body": data, "more_body": more})
    if path in ("/events", "/stream"):
        await start()
        for number in range(int(scope["query_string"])):
            await part(b"data: %d\\n\\n" % number)
            await asyncio.sleep(0.1)
        return await part(b"", False)
    headers = {name.decode(): value.decode() for name, value in scope["headers"]}
    facts = {name: scope[name] for name in ("client", "server", "scheme", "path", "method")}
    facts["query"] = scope["query_string"].decode()
    await start(500 if path == "/broken" else 200)
    await part(json.dumps({
        "version": VERSION, "pid": os.getpid(), "uid": os.getuid(), "environment": dict(os.environ), "headers": headers,
        "length": len(body), "fds": sorted(os.listdir("/proc/self/fd"), key=int),
        "status": open("/proc/self/status").read(), **facts}).encode(), False)
"""
)


def in_granian(node: Node, release: str, **changes: Any) -> dict[str, Any]:
    return node.document("blog", 1, release, release_changes=GRANIAN, **changes)


@pytest.fixture(scope="module")
def node(postgres: Any) -> Iterator[Node]:
    """A running node; each test has its own generations of the site `blog`."""
    with prepared(postgres) as made:
        for number in (1, 2):
            made.release(f"demo-{number}", ASGI)
        made.start_standby()
        made.start_nginx()
        made.start_emperor()
        made.start_agent()
        yield made


_generation = 0


def serve(node: Node, release: str = "demo-1", *, engine: bool = True, **changes: Any) -> int:
    """Bring the site to a new generation; returns its number."""
    global _generation
    _generation += 1
    document = in_granian(node, release) if engine else node.document("blog", 1, release)
    revision = node.put(document | {"generation": _generation} | changes)
    node.reported("blog", revision)
    return _generation


def gone(node: Node, generation: int) -> None:
    wait_until(
        lambda: not (node.home / "run/sites/blog" / f"{generation}.sock").exists(), 60, "the old generation to go"
    )


@contextmanager
def asked(node: Node, path: str, method: str = "GET", **headers: str) -> Iterator[http.client.HTTPResponse]:
    """An answer of which the head is here."""
    connection = http.client.HTTPConnection("127.0.0.1", node.port, timeout=30)
    try:
        connection.request(method, path, headers={"Host": "blog.localhost"} | headers)
        yield connection.getresponse()
    finally:
        connection.close()


def websocket(node: Node, path: str = "/", **options: Any) -> connect:
    return connect(f"ws://blog.localhost:{node.port}{path}", host="127.0.0.1", proxy=None, **options)


async def echoed(connection: ClientConnection, text: str) -> str:
    await connection.send(text)
    return str(await connection.recv())


def test_an_asgi_site_is_told_what_a_wsgi_site_is_told(node: Node) -> None:
    serve(node)
    spoofed = dict.fromkeys(["X-Forwarded-For", "X-Real-IP", "Forwarded", "Proxy", "X-Script-Name"], "6.6.6.6")
    spoofed |= {
        "Cookie": "a=b; tenantry_bypass=1.secret; c=d",
        "X-Forwarded-Proto": "https",
        "Upgrade": "h2c",
        "Connection": "Upgrade, HTTP2-Settings",
    }
    body = b"x" * 300_000
    page = node.page(f"blog.localhost:{node.port}", "/a%20b?c=%20d", method="POST", headers=spoofed, body=body)
    assert (page["path"], page["query"], page["method"], page["length"]) == ("/a b", "c=%20d", "POST", len(body))
    assert page["client"] == ["127.0.0.1", 0]
    assert page["server"] == ["blog.localhost", node.port]
    assert page["scheme"] == "http"
    assert page["headers"]["host"] == f"blog.localhost:{node.port}"
    assert page["headers"]["x-forwarded-for"] == page["headers"]["x-real-ip"] == "127.0.0.1"
    assert page["headers"]["cookie"] == "a=b; c=d", "of what lets into closed sites, no application may know"
    assert not {"proxy", "x-script-name", "forwarded", "upgrade"} & page["headers"].keys()
    environment = page["environment"]
    assert environment["TENANTRY_ASGI"] == "app:asgi"
    assert not [name for name in environment if "EMPEROR" in name or "STOP_FD" in name]
    assert "NoNewPrivs:\t1" in page["status"]
    if AS_ROOT:
        assert page["uid"] == 1_900_020_001
        assert "CapEff:\t0000000000000000" in page["status"]
    assert node.get("blog.localhost", "/static/style.css")[2] == b"/* demo-1 */"


@pytest.mark.skipif(not AS_ROOT, reason="needs root: another user connects")
def test_nobody_but_nginx_reaches_the_socket(node: Node) -> None:
    generation = serve(node)
    path = node.home / "run" / "sites" / "blog" / f"{generation}.sock"
    assert path.stat().st_mode & 0o777 == 0o660
    code = f"import socket; socket.socket(socket.AF_UNIX).connect({str(path)!r})"
    for uid in (1_900_020_002, 1_900_020_001):
        done = subprocess.run([sys.executable, "-c", code], user=uid, group=uid, extra_groups=[], capture_output=True)
        assert b"PermissionError" in done.stderr or b"Permission denied" in done.stderr


def test_a_websocket_echoes_and_a_refused_one_is_a_403(node: Node) -> None:
    serve(node)

    async def talk() -> None:
        async with websocket(node) as connection:
            assert await echoed(connection, "hé") == "demo-1:hé"
        with pytest.raises(websockets.InvalidStatus) as refused:
            async with websocket(node, "/refused"):
                pass
        assert refused.value.response.status_code == 403

    asyncio.run(talk())


def test_events_arrive_as_they_are_sent(node: Node) -> None:
    serve(node)
    with asked(node, "/events?4") as answer:
        times = []
        for number in range(4):
            assert answer.readline() == b"data: %d\n" % number
            times.append(time.monotonic())
            answer.readline()
        assert answer.read() == b""
    assert times[-1] - times[0] > 0.2


def test_a_stream_and_a_websocket_outlast_a_new_generation(node: Node) -> None:
    old = serve(node)

    async def talk() -> None:
        async with websocket(node) as connection:
            with asked(node, "/stream?25") as answer:
                new = await asyncio.to_thread(serve, node, "demo-2")
                assert await echoed(connection, "still") == "demo-1:still"
                async with websocket(node) as other:
                    assert await echoed(other, "new") == "demo-2:new"
                body = await asyncio.to_thread(answer.read)
            assert body == b"".join(b"data: %d\n\n" % number for number in range(25))
            assert new == old + 1
        await asyncio.to_thread(gone, node, old)

    asyncio.run(talk())


def test_what_is_open_when_a_generation_must_end_is_closed_properly(node: Node) -> None:
    """Its ini is taken away, as the agent does after the drain limit."""
    generation = serve(node)

    async def talk() -> None:
        async with websocket(node) as connection:
            with asked(node, "/events?600") as events, asked(node, "/stream?600") as stream:
                assert events.readline() == b"data: 0\n"
                assert stream.readline() == b"data: 0\n"
                await asyncio.to_thread(end, node, generation)
                with pytest.raises(websockets.ConnectionClosed) as closed:
                    await connection.recv()
                assert closed.value.rcvd is not None
                assert closed.value.rcvd.code == 1012
                assert b"data: 0" not in await asyncio.to_thread(events.read)  # it ended as if it were complete
                with pytest.raises(http.client.IncompleteRead):  # a download must not look complete
                    await asyncio.to_thread(stream.read)

    asyncio.run(talk())
    wait_until(lambda: "closed with" in (node.home / "logs/sites/blog.log").read_text())


def end(node: Node, generation: int) -> None:
    """Tell the process to end, as the emperor does."""
    [launcher] = [pid for pid in launchers(node) if f"blog.{generation}.ini" in command(pid)]
    os.kill(launcher, signal.SIGTERM)


def command(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def launchers(node: Node) -> list[int]:
    """The processes that the emperor itself started for ASGI sites."""
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    emperor = node.processes["emperor"].pid
    return [pid for pid in pids if f"{node.home}/run/vassals/" in command(pid) and parent(pid) == emperor]


def parent(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return int(file.read().rpartition(")")[2].split()[1])
    except OSError:
        return 0


class Visitors:
    """Ask without pause, small and large; remember every answer that is not 200."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.asked, self.failed = 0, []  # type: ignore[var-annotated]
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._visit, args=(body,)) for body in (b"", b"", b"x" * 200_000)]

    def _visit(self, body: bytes) -> None:
        while not self._stop.is_set():
            try:
                status = self._node.get("blog.localhost", "/", method="POST" if body else "GET", body=body)[0]
            except OSError as error:
                status = repr(error)  # type: ignore[assignment]
            self.asked += 1
            if status != 200:
                self.failed.append(status)

    def __enter__(self) -> "Visitors":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def test_a_site_changes_its_engine_and_back_without_a_failed_request(node: Node) -> None:
    serve(node)
    site = node.home / "run" / "sites" / "blog"
    with slow_upload(node) as upload, Visitors(node) as visitors:
        for engine in (False, True, False):
            generation = serve(node, "demo-2" if engine else "demo-1", engine=engine)
            gone(node, generation - 1)
            link = "app.http" if engine else "app.sock"
            wait_until(lambda name=link: [p.name for p in site.glob("app.*")] == [name], what="one link")  # type: ignore[misc]
        assert upload() == 200
    assert visitors.failed == []
    assert visitors.asked > 30
    assert node.page("blog.localhost")["version"] == "demo-1"


@contextmanager
def slow_upload(node: Node) -> Iterator[Any]:
    """A request whose body comes in two parts: nginx chose where it goes long before it goes there."""
    with socket.create_connection(("127.0.0.1", node.port), timeout=30) as connection:
        connection.sendall(
            b"POST / HTTP/1.1\r\nHost: blog.localhost\r\nConnection: close\r\nContent-Length: 10\r\n\r\nhello"
        )

        def finish() -> int:
            connection.sendall(b"world")
            return int(connection.makefile("rb").readline().split()[1])

        yield finish


@pytest.mark.parametrize(
    ("application", "path", "expected"),
    [("raise RuntimeError('broken here')\n", "/", "broken here"),
     ("import os; os._exit(3)\n", "/", "ended before it had loaded the site"),
     (None, "/broken", "status 500"),
     ("asgi = 3\n", "/", "no ASGI application called asgi")],
)  # fmt: skip
def test_a_broken_generation_leaves_the_old_one_serving(
    node: Node, application: str | None, path: str, expected: str
) -> None:
    global _generation
    before = serve(node)
    name = "demo-2"
    if application is not None:
        name = f"broken-{before}"
        node.release(name, application)
    _generation += 1
    revision = node.put(in_granian(node, name, generation=_generation, health_path=path))
    report = node.reported("blog", revision, "failed")
    assert expected in report["message"] + report["log"]
    assert node.page("blog.localhost")["version"] == "demo-1"


NOTES = """
import os, sys, threading
from asgiref.sync import sync_to_async
BEFORE = {before}
async def asgi(scope, receive, send):
    assert scope["type"] == "http" and scope["client"] == ("127.0.0.1", 0)
    def note():
        with open(os.environ["TMPDIR"] + "/asked", "a") as file:
            print(os.getpid(), threading.get_ident(), scope["path"], file=file)
        if scope["query_string"] == b"raise":
            raise RuntimeError("not warm")
        return len(open(os.environ["TMPDIR"] + "/asked").readlines())
    asked = await sync_to_async(note)()
    broken = scope["query_string"] == b"last" and asked == 17
    await send({{"type": "http.response.start", "status": 503 if broken else 200, "headers": []}})
    await send({{"type": "http.response.body", "body": b"ok"}})
"""
OLD_LIBRARY = "from django_tenantry import asgi_site; asgi_site.is_for_all = lambda scope: False"


def warmed(
    node: Node, name: str, warm_paths: list[str], before: str = "None"
) -> tuple[dict[str, Any], list[list[str]]]:
    """Bring up four workers of two threads; returns the report and what was asked: process, thread, path."""
    global _generation
    if not (node.home / "releases" / name).exists():
        node.release(name, NOTES.format(before=before))
    notes = node.home / "data" / "blog" / "tmp" / "asked"
    notes.unlink(missing_ok=True)
    _generation += 1
    changes = {"processes": 4, "threads": 2, "warm_paths": warm_paths, "health_path": "/health"}
    revision = node.put(in_granian(node, name, generation=_generation, **changes))
    report = wait_until(
        lambda: (
            (said := node.last_report("blog")) and said["revision"] >= revision and said["state"] != "applying" and said
        ),
        60,
        "a report",
    )
    return report, [line.split() for line in notes.read_text().splitlines()]


def test_every_thread_of_every_worker_is_asked_before_visitors_are(node: Node) -> None:
    serve(node)
    report, asked = warmed(node, "notes-1", ["/warm", "/other?a=b"])
    assert report["state"] == "serving", report
    for path in ("/health", "/warm", "/other"):
        threads = [(pid, thread) for pid, thread, where in asked if where == path]
        assert len(set(threads)) == 8, path
        assert len({pid for pid, _ in threads}) == 4, path
        assert len(threads) == 8 + (path == "/health"), "and once only"


@pytest.mark.parametrize(
    ("warm_path", "expected"),
    [("/warm?raise", "answered /warm?raise with status 500 (RuntimeError: not warm)"),
     ("/warm?last", "answered /warm?last with status 503")],
)  # fmt: skip
def test_one_thread_of_one_worker_can_fail_a_generation(node: Node, warm_path: str, expected: str) -> None:
    serve(node)
    report, _ = warmed(node, "notes-1", [warm_path])
    assert report["state"] == "failed"
    assert expected in report["message"]
    assert node.page("blog.localhost")["version"] == "demo-1"


def test_a_release_with_a_library_of_before_is_asked_as_often(node: Node) -> None:
    report, asked = warmed(node, "notes-2", ["/warm"], before=f"exec({OLD_LIBRARY!r})")
    assert report["state"] == "serving", report
    assert [where for _, _, where in asked] == ["/health"] * 9 + ["/warm"] * 8


def test_a_worker_that_dies_is_replaced_and_a_killed_launcher_leaves_none(node: Node) -> None:
    serve(node)
    assert node.get("blog.localhost", "/die")[0] == 503
    pid = node.page("blog.localhost")["pid"]
    launcher = parent(pid)
    assert launcher in launchers(node)
    state = asyncio.run(ask_emperor(node.home / "run" / "emperor.sock"))
    assert f"blog.{_generation}.ini" in state.running
    os.kill(launcher, signal.SIGKILL)
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"), what="the worker to follow its launcher")
    wait_until(lambda: node.get("blog.localhost")[0] == 200, 30, "another process")


def test_modes_hold_for_websockets_too(node: Node) -> None:
    global _generation
    serve(node)
    revision = node.put(in_granian(node, "demo-1", generation=_generation, mode="maintenance"))
    node.reported("blog", revision)

    async def talk() -> int:
        with pytest.raises(websockets.InvalidStatus) as refused:
            async with websocket(node):
                pass
        return refused.value.response.status_code

    assert asyncio.run(talk()) == 503
    assert node.get("blog.localhost")[0] == 503
    node.reported("blog", node.put(in_granian(node, "demo-1", generation=_generation, mode="read_only")))
    assert node.get("blog.localhost", method="POST", body=b"x")[0] == 503
    assert node.get("blog.localhost")[0] == 200
    node.reported("blog", node.put(in_granian(node, "demo-1", generation=_generation)))


def _unlink(path: Path) -> None:
    path.unlink()


def _make_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _lead_elsewhere(path: Path) -> None:
    path.unlink()
    path.symlink_to("../nobody/1.sock")


def _close(path: Path) -> None:
    path.chmod(0o600)


@pytest.mark.parametrize(
    ("change", "name"),
    [(_unlink, "engine.http"), (_make_directory, "engine.http"), (_close, "engine.http"), (_unlink, "app.http"),
     (_make_directory, "app.http"), (_lead_elsewhere, "app.http")],
)  # fmt: skip
def test_what_leads_to_an_asgi_site_is_repaired(node: Node, change: Callable[[Path], None], name: str) -> None:
    generation = serve(node)
    site = node.home / "run" / "sites" / "blog"
    gone(node, generation - 1)
    pid = node.page("blog.localhost")["pid"]
    change(site / name)
    node.sql("""SELECT agent_v1.ask('{"check_repair": true}')""")
    wait_until(lambda: is_whole(site, generation) and answers(node), what="a repair")
    assert [path.name for path in sorted(site.glob("*.http"))] == ["app.http", "engine.http"]
    assert node.page("blog.localhost")["pid"] == pid


def is_whole(site: Path, generation: int) -> bool:
    try:
        flag, link = (site / "engine.http").lstat().st_mode, os.readlink(site / "app.http")
    except OSError:
        return False
    return flag == stat.S_IFREG | 0o644 and link == f"{generation}.sock"


def answers(node: Node) -> bool:
    return node.get("blog.localhost")[0] == 200


HELD = """
import os, time
while os.path.exists(os.environ["TMPDIR"] + "/hold"):
    time.sleep(0.02)
"""


@pytest.mark.parametrize("to_granian", [True, False])
def test_who_is_held_while_a_site_changes_its_engine_is_led_to_the_new_one(node: Node, to_granian: bool) -> None:
    """The old generation is woken for visitors; before it has loaded, the agent leads them to one of another engine."""
    if not (node.home / "releases" / "held-1").exists():
        node.release("held-1", HELD + ASGI)
    sleepy = {"runtime": "on_demand", "limits": {"idle_seconds": 1}}
    old = serve(node, "held-1", engine=not to_granian, **sleepy)
    site, vassal = node.home / "run" / "sites" / "blog", node.home / "run" / "vassals" / f"blog.{old}.ini"
    link = site / ("app.sock" if to_granian else "app.http")
    wait_until(lambda: os.readlink(link).startswith("../../wake.") and not vassal.exists(), 30, "sleep")
    hold = node.home / "data" / "blog" / "tmp" / "hold"
    hold.touch()
    answers: list[Any] = []
    bodies = (b"", b"", b"x" * 300_000)
    visitors = [threading.Thread(target=lambda b=body: answers.append(post(node, b))) for body in bodies]  # type: ignore[misc]
    for visitor in visitors:
        visitor.start()
    wait_until(lambda: (site / f"{old}.sock").exists(), what="the old generation to be woken")
    serve(node, "demo-2", engine=to_granian, **sleepy)
    assert answers == []
    hold.unlink()
    for visitor in visitors:
        visitor.join()
    assert sorted(answers) == sorted((200, "demo-2", len(body)) for body in bodies)


def post(node: Node, body: bytes) -> tuple[int, str, int]:
    """Return status, version and how much of the body came."""
    status, _, answer = node.get("blog.localhost", "/", "POST" if body else "GET", body=body)
    page = json.loads(answer) if status == 200 else {"version": answer[:100]}
    length = page.get("length", page.get("request", {}).get("CONTENT_LENGTH") or 0)
    return status, page["version"], int(length)


def test_an_asgi_site_sleeps_and_a_page_or_a_websocket_wakes_it(node: Node) -> None:
    generation = serve(node, runtime="on_demand", limits={"idle_seconds": 1})
    site = node.home / "run" / "sites" / "blog"

    def asleep() -> bool:
        return os.readlink(site / "app.http") == "../../wake.http.sock" and not launchers(node)

    async def talk() -> None:
        async with websocket(node) as connection:
            assert await echoed(connection, "first") == "demo-1:first"
            await asyncio.sleep(3)  # open, it keeps the site awake
            assert await echoed(connection, "second") == "demo-1:second"

    wait_until(asleep, 30, "sleep")
    body = b"x" * 300_000
    assert node.page("blog.localhost", "/a", method="POST", body=body)["length"] == len(body)
    wait_until(lambda: os.readlink(site / "app.http") == f"{generation}.sock", what="the way past standby")
    wait_until(asleep, 30, "sleep")
    asyncio.run(talk())
    wait_until(asleep, 30, "sleep")
    serve(node, engine=False, runtime="on_demand", limits={"idle_seconds": 1})  # another engine while it sleeps
    assert node.page("blog.localhost")["version"] == "demo-1"
    assert not (site / "engine.http").exists()
    assert not (site / "app.http").is_symlink()
