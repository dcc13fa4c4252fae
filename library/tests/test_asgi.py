"""`django_tenantry.asgi`: what stands between granian and a project's ASGI application."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django_tenantry.answering import UNANSWERED_MAX
from django_tenantry.asgi_site import ASKED, Site
from django_tenantry.asgi_workers import Workers
from django_tenantry.ending import STOP_FD_VARIABLE

HEADERS = [
    (b"host", b"blog.example.org:8443"),
    (b"x-real-ip", b"192.0.2.7"),
    (b"x-forwarded-port", b"8443"),
    (b"x-forwarded-proto", b"https"),
    (b"x-tenantry-route", b"blog"),
]


class Wire:
    """The server's side of one request or websocket."""

    def __init__(self, *incoming: dict[str, Any]) -> None:
        self.sent: list[Any] = []
        self.incoming: asyncio.Queue[Any] = asyncio.Queue()
        for message in incoming:
            self.incoming.put_nowait(message)

    async def receive(self) -> Any:
        return await self.incoming.get()

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    @property
    def types(self) -> list[str]:
        return [message["type"] for message in self.sent]


def scope(kind: str = "http", headers: list[tuple[bytes, bytes]] = HEADERS, **more: Any) -> dict[str, Any]:
    fixed = {"type": kind, "scheme": "ws" if kind == "websocket" else "http", "client": ("", "0"), "server": ("", "0")}
    return {**fixed, "method": "GET", "path": "/", "headers": headers, "extensions": {}, **more}


async def ok(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(work(), 10))


def test_a_request_is_told_as_nginx_saw_it() -> None:
    seen: list[Any] = []

    async def project(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)
        await ok(scope, receive, send)

    run(lambda: Site(project, {})(scope(), *pipes(Wire())))
    run(lambda: Site(project, {})(scope("websocket"), *pipes(Wire())))
    assert [(one["client"], one["server"], one["scheme"]) for one in seen] == [
        (("192.0.2.7", 0), ("blog.example.org", 8443), "https"),
        (("192.0.2.7", 0), ("blog.example.org", 8443), "wss"),
    ]
    assert [name for name, _ in seen[0]["headers"] if name.startswith(b"x-tenantry")] == []


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("not within 5 s")


def pipes(wire: Wire) -> tuple[Any, Any]:
    return wire.receive, wire.send


def test_the_platforms_probe_is_answered_without_the_project(tmp_path: Path) -> None:
    async def project(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("asked")

    marks = tmp_path / "activity"
    marks.touch()
    os.utime(marks, (1, 1))
    with marks.open("r+b") as file:
        site = Site(project, {"TENANTRY_ACTIVITY_FD": str(file.fileno())})
        wire = Wire()
        run(lambda: site(scope(headers=[*HEADERS, (b"x-tenantry-probe", b"1")]), *pipes(wire)))
        assert wire.sent[0]["status"] == 204
        assert marks.stat().st_mtime == 1
        with pytest.raises(AssertionError):
            run(lambda: site(scope(), *pipes(Wire())))
        assert marks.stat().st_mtime > 1


def test_a_project_without_lifespan_lives_and_one_that_fails_to_start_does_not() -> None:
    async def knows_none(scope: Any, receive: Any, send: Any) -> None:
        raise ValueError("Django can only handle ASGI/HTTP connections, not lifespan.")

    async def fails(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})
        raise RuntimeError("no database")

    events = ({"type": "lifespan.startup"}, {"type": "lifespan.shutdown"})
    wire = Wire(*events)
    run(lambda: Site(knows_none, {})({"type": "lifespan"}, *pipes(wire)))
    assert wire.types == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    wire = Wire(*events)
    with pytest.raises(RuntimeError):
        run(lambda: Site(fails, {})({"type": "lifespan"}, *pipes(wire)))
    assert wire.types == ["lifespan.startup.failed"]


def test_synchronous_code_runs_in_as_many_threads_as_the_site_has() -> None:
    ran: dict[str, set[int]] = {}
    both = threading.Barrier(2, timeout=5)

    async def project(scope: Any, receive: Any, send: Any) -> None:
        for _ in range(3):
            ran.setdefault(scope["path"], set()).add(await sync_to_async(threading.get_ident)())
        if scope["path"] in ("/0", "/1"):
            await sync_to_async(both.wait)()  # two at the same time do not wait for each other
        await ok(scope, receive, send)

    async def work() -> None:
        site = Site(project, {"TENANTRY_THREADS": "2"})
        await asyncio.gather(*(site(scope(path=f"/{n}"), *pipes(Wire())) for n in range(20)))

    run(work)
    assert {len(threads) for threads in ran.values()} == {1}
    assert len(set.union(*ran.values())) == 2


def test_a_request_that_takes_too_long_is_answered_and_holds_up_nobody() -> None:
    cleaned: list[str] = []

    async def project(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/stuck":
            try:
                await sync_to_async(time.sleep)(1)
            finally:
                cleaned.append("stuck")
        await sync_to_async(int)()
        await ok(scope, receive, send)
        if scope["path"] == "/stream":
            await asyncio.sleep(0.3)

    async def work() -> None:
        site = Site(project, {"TENANTRY_REQUEST_SECONDS": "0.1"})
        stuck, stream, after = Wire(), Wire(), Wire()
        waiting = asyncio.create_task(site(scope(path="/stuck"), *pipes(stuck)))
        await asyncio.sleep(0.2)
        began = time.monotonic()
        await site(scope(path="/stream"), *pipes(stream))
        await site(scope(path="/"), *pipes(after))
        assert time.monotonic() - began < 0.6  # not behind the one that is stuck
        await waiting
        assert [message.get("status") for message in stuck.sent] == [503, None]
        assert (b"retry-after", b"5") in stuck.sent[0]["headers"]
        assert stream.sent[0]["status"] == after.sent[0]["status"] == 200

    run(work)
    assert cleaned == ["stuck"]


def test_the_platform_has_every_thread_answer_and_hears_the_worst(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("django_tenantry.asgi_workers.END_SECONDS", 0.05)
    ran: set[int] = set()

    async def project(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            scope["state"]["begun"] = True
            raise ValueError
        assert scope["state"] == {"begun": True}
        assert await receive() == {"type": "http.request", "body": b"", "more_body": False}
        ran.add(await sync_to_async(threading.get_ident)())
        path = scope["path"]
        if path == "/raises":
            raise RuntimeError("it is broken")
        await send({"type": "http.response.start", "status": 404 if path == "/404" else 200, "headers": []})
        while path == "/endless":
            await send({"type": "http.response.body", "body": b"more", "more_body": True})
            await asyncio.sleep(0.01)
        await send({"type": "http.response.body", "body": b"ok", "more_body": path == "/half"})

    async def work() -> None:
        workers = Workers(1)
        workers.become(0)
        site = Site(project, {"TENANTRY_THREADS": "3"})
        site.join(workers)
        life = asyncio.create_task(site({"type": "lifespan", "state": {}}, *pipes(Wire())))
        await asyncio.sleep(0)

        async def status(path: str) -> int:
            wire = Wire()
            await site(scope(path=path, headers=[*HEADERS, (b"x-tenantry-probe", b"all")]), *pipes(wire))
            assert wire.sent[0]["headers"] == [(ASKED, b"3")]
            return int(wire.sent[0]["status"])

        assert [await status(path) for path in ("/", "/404")] == [200, 404]
        assert len(ran) == 3
        for path, why in {"/raises": "broken", "/endless": "does not end", "/half": "not whole"}.items():
            assert await status(path) == 500
            assert why in capsys.readouterr().err
        life.cancel()
        workers.close()

    run(work)


def test_who_comes_when_too_many_wait_is_told_at_once() -> None:
    released = asyncio.Event()

    async def project(scope: Any, receive: Any, send: Any) -> None:
        await released.wait()
        await ok(scope, receive, send)

    async def work() -> None:
        site = Site(project, {})
        wires = [Wire() for _ in range(UNANSWERED_MAX + 1)]
        tasks = [asyncio.create_task(site(scope(), *pipes(wire))) for wire in wires]
        await until(lambda: bool(wires[-1].sent))
        assert wires[-1].sent[0]["status"] == 503
        released.set()
        await asyncio.gather(*tasks)
        assert {wire.sent[0]["status"] for wire in wires[:-1]} == {200}

    run(work)


def test_what_is_open_is_closed_when_the_launcher_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    told, launcher = os.pipe()
    monkeypatch.setenv(STOP_FD_VARIABLE, str(told))
    terminated: list[int] = []
    cleaned: list[str] = []

    async def project(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            raise ValueError
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
            await receive()
            await send({"type": "websocket.send", "text": "too late"})
            return
        kind = scope["path"].encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"Content-Type", kind)]})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        try:
            await asyncio.sleep(2)
        finally:
            cleaned.append(scope["path"])
        await send({"type": "http.response.body", "body": b"two"})

    async def work() -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, terminated.append, 1)
        site = Site(project, {})
        wires = {kind: Wire() for kind in ("text/event-stream", "text/plain")}
        socket, life = Wire(), Wire({"type": "lifespan.startup"})
        living = asyncio.create_task(site({"type": "lifespan"}, *pipes(life)))
        tasks = [asyncio.create_task(site(scope(path=kind), *pipes(wire))) for kind, wire in wires.items()]
        talk = asyncio.create_task(site(scope("websocket"), *pipes(socket)))
        await until(lambda: all(len(wire.sent) == 2 for wire in wires.values()) and bool(socket.sent))
        os.close(launcher)
        await tasks[0]
        assert wires["text/event-stream"].sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}
        assert (b"x-accel-buffering", b"no") in wires["text/event-stream"].sent[0]["headers"]
        await tasks[1]
        assert [message.get("body") for message in wires["text/plain"].sent] == [None, b"one", b"two"]
        assert (socket.sent[-1]["type"], socket.sent[-1]["code"]) == ("websocket.close", 1012)
        socket.incoming.put_nowait({"type": "websocket.disconnect", "code": 1012})
        await talk
        assert socket.types == ["websocket.accept", "websocket.close"]
        living.cancel()

    run(work)
    assert terminated == [1]
    assert sorted(cleaned) == ["text/event-stream", "text/plain"]


def test_modes_hold_for_pages_and_websockets(tmp_path: Path) -> None:
    document = tmp_path / "mode.json"
    site = Site(echo, {"TENANTRY_MODE_FILE": str(document)})
    let_through = [*HEADERS, (b"x-tenantry-let-through", b"1")]

    def status(**more: Any) -> int:
        wire = Wire()
        run(lambda: site(scope(**more), *pipes(wire)))
        return int(wire.sent[0]["status"])

    assert status() == 200
    document.write_text(json.dumps({"mode": "maintenance"}))
    assert status() == 503
    assert status(headers=let_through) == 200
    refused = Wire({"type": "websocket.connect"})
    run(lambda: site(scope("websocket"), *pipes(refused)))
    assert (refused.types, refused.sent[0]["code"]) == (["websocket.close"], 1013)
    explained = Wire({"type": "websocket.connect"})
    known = {"websocket.http.response": {}}
    run(lambda: site(scope("websocket", extensions=known), *pipes(explained)))
    assert (explained.types[0], explained.sent[0]["status"]) == ("websocket.http.response.start", 503)
    document.write_text(json.dumps({"mode": "read_only"}))
    assert (status(), status(method="POST")) == (200, 503)


async def echo(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        await ok(scope, receive, send)
        return
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})
    await send({"type": "websocket.send", "text": f"ended with {message['code']}"})


def test_an_open_websocket_ends_when_its_site_goes_into_maintenance(tmp_path: Path) -> None:
    document = tmp_path / "mode.json"
    site = Site(echo, {"TENANTRY_MODE_FILE": str(document)})
    wire = Wire({"type": "websocket.connect"}, {"type": "websocket.receive", "text": "a"})

    async def work() -> None:
        talk = asyncio.create_task(site(scope("websocket"), *pipes(wire)))
        await until(lambda: len(wire.sent) == 2)
        document.write_text(json.dumps({"mode": "maintenance"}))
        wire.incoming.put_nowait({"type": "websocket.receive", "text": "b"})
        await talk

    run(work)
    assert wire.types == ["websocket.accept", "websocket.send", "websocket.close"]
    assert wire.sent[-1]["code"] == 1013


def test_a_write_that_the_database_refuses_is_explained(tmp_path: Path) -> None:
    from django.core.signals import got_request_exception

    class Refused(Exception):
        sqlstate = "42501"

    async def project(scope: Any, receive: Any, send: Any) -> None:
        def fail() -> None:
            try:
                raise Refused
            except Refused:
                got_request_exception.send(sender=None)

        await sync_to_async(fail)()
        await send({"type": "http.response.start", "status": 500, "headers": []})
        await send({"type": "http.response.body", "body": b"Server Error"})

    document = tmp_path / "mode.json"
    site = Site(project, {"TENANTRY_MODE_FILE": str(document)})
    for mode, status in (("read_only", 503), ("live", 500)):
        document.write_text(json.dumps({"mode": mode}))
        wire = Wire()
        run(lambda wire=wire: site(scope(), *pipes(wire)))  # type: ignore[misc]
        assert [message.get("status") for message in wire.sent] == [status, None]
        assert (wire.sent[1]["body"] == b"Server Error") is (mode == "live")


PROJECT = """
SECRET_KEY = "x"
USE_TZ = True
async def application(scope, receive, send): ...
"""
LOAD = "from django_tenantry.asgi import load_application as load; import sys; print(type(load(sys.argv[1])).__name__)"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "ASGIHandler"),
        ("project:application", "function"),
        ("project", "function"),
        ("store.asgi:application", "TENANTRY_ASGI is «store.asgi:application», but there is no module store."),
        ("project:nothing", "project has no ASGI application called nothing"),
    ],
)
def test_it_loads_the_projects_own_application(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / "project.py").write_text(PROJECT)
    environment = {"PATH": os.environ["PATH"], "DJANGO_SETTINGS_MODULE": "project"}
    command = [sys.executable, "-W", "error", "-c", LOAD, name]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert says in result.stdout + result.stderr, result.stderr
