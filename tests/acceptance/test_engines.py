"""A project with websockets, async views and streams, hosted in granian through the whole platform."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

BUILD_SECONDS = 280
CHAT = Path(__file__).parents[2] / "examples" / "chat"


@pytest.fixture(scope="module")
def room(platform: Any) -> Iterator[str]:
    """The site `room` of the project `chat`."""
    arguments = ("project", "add", str(CHAT), "--name", "chat", "--engine", "granian")
    added = platform.json(*arguments, seconds=BUILD_SECONDS)
    assert (added["engine"], added["current_release"]) == ("granian", "chat-1")
    platform.create("room", "chat")
    yield "room.localhost"
    platform.delete("room")
    platform.tenantry("project", "remove", "chat", "--yes", "--wait")


def talk(platform: Any, host: str) -> ClientConnection:
    there = socket.create_connection(("127.0.0.1", platform.http_port), timeout=10)
    return connect(f"ws://{host}:{platform.http_port}/talk", sock=there)


def test_a_websocket_an_async_view_and_a_stream_work(platform: Any, room: str) -> None:
    said = f"said at {time.time()}"
    with platform.visitor(room) as visitor, visitor.stream("GET", "/events") as events:
        lines = events.iter_lines()
        assert next(lines) == ": here"
        with talk(platform, room) as connection:
            connection.send(said)
            assert json.loads(connection.recv())["text"] == said
        began = time.monotonic()
        assert next(line for line in lines if line.startswith("data: ")) == f"data: {json.dumps(said)}"
        assert time.monotonic() - began < 3  # as it is said, not when there are kilobytes of it
    assert platform.get(room, "/messages").json()["messages"][-1]["text"] == said
    assert said in platform.get(room).text
    shown = platform.tenantry("project", "show", "chat")
    assert "granian" in shown


def test_a_restart_cuts_neither_stream_nor_websocket(platform: Any, room: str) -> None:
    with (
        platform.visitor(room) as visitor,
        visitor.stream("GET", "/events") as events,
        talk(platform, room) as connection,
    ):
        lines = events.iter_lines()
        assert next(lines) == ": here"
        platform.tenantry("site", "restart", "room", "--wait")
        for number in range(3):
            connection.send(f"after the restart {number}")
            json.loads(connection.recv())
            heard = next(line for line in lines if line.startswith("data: "))
            assert heard == f'data: "after the restart {number}"'


def test_a_site_goes_to_another_engine_and_back_without_a_failed_request(platform: Any, room: str) -> None:
    release = platform.json("release", "build", "chat", "--engine", "uwsgi", seconds=BUILD_SECONDS)
    assert (release["engine"], release["asgi"]) == ("uwsgi", "")
    with visitors(platform, room) as answers:
        for name in (release["name"], "chat-1"):
            platform.tenantry("site", "update", "room", "--release", name, "--wait")
            time.sleep(1.5)
    assert set(answers) == {200}
    assert len(answers) > 30
    with talk(platform, room) as connection:
        connection.send("back")
        assert json.loads(connection.recv())["text"] == "back"


@contextmanager
def visitors(platform: Any, host: str) -> Iterator[list[object]]:
    """Ask without pause; yields what was answered."""
    answers: list[object] = []
    leave = threading.Event()

    def visit() -> None:
        with platform.visitor(host) as visitor:
            while not leave.is_set():
                try:
                    answers.append(visitor.get("/").status_code)
                except OSError as error:
                    answers.append(repr(error))

    threads = [threading.Thread(target=visit) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        leave.set()
        for thread in threads:
            thread.join()


def test_a_project_without_an_asgi_application_is_told_so(platform: Any, tmp_path: Path) -> None:
    source = tmp_path / "plain"
    (source / "plain").mkdir(parents=True)
    (source / "manage.py").write_text('import os\nos.environ.setdefault("DJANGO_SETTINGS_MODULE", "plain.settings")\n')
    (source / "plain" / "settings.py").write_text("")
    failed = platform.run("project", "add", str(source), "--name", "plain", "--engine", "granian")
    assert failed.returncode == 1
    assert "this project has none" in failed.stderr
    platform.tenantry("project", "remove", "plain", "--yes")
    unknown = platform.run("project", "add", str(source), "--name", "plain", "--engine", "gunicorn")
    assert unknown.returncode != 0
    assert "engine" in unknown.stderr
