"""Visitors who read slowly, or not at all: they get the whole of what they asked for and hold up nobody."""

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from node_lab import Node, Postgres, prepared, wait_until

from tenantry.node.effects.spooling import note_room
from tenantry.node.layout import Layout

SIZE = 25_000_000
SLOW_SECONDS = 8.0  # twice as long as uWSGI waits by itself for a reader
# A block of each answer is made when it is needed: nginx gets it as fast as it takes it.
APPLICATION = f"""
SIZE = {SIZE}
def application(environ, start_response):
    if environ["PATH_INFO"] != "/big":
        start_response("200 OK", []); return [b"small"]
    size = SIZE * int(environ["QUERY_STRING"] or 1)
    start_response("200 OK", [("Content-Length", str(size))])
    return (b"x" * 100_000 for _ in range(size // 100_000))
async def asgi(scope, receive, send):
    big = scope["path"] == "/big"
    size = SIZE * int(scope["query_string"] or 1) if big else 5
    headers = [(b"content-length", str(size).encode())]
    await send({{"type": "http.response.start", "status": 200, "headers": headers}})
    for _ in range(size // 100_000):
        await send({{"type": "http.response.body", "body": b"x" * 100_000, "more_body": True}})
    await send({{"type": "http.response.body", "body": b"" if big else b"small"}})
"""
ENGINES: dict[str, dict[str, Any]] = {"uwsgi": {}, "granian": {"engine": "granian", "asgi": "app:asgi"}}


@pytest.fixture(scope="module")
def node(postgres: Postgres) -> Iterator[Node]:
    """A node with a site of one worker and one thread for each engine."""
    with prepared(postgres) as made:
        made.release("big-1", APPLICATION)
        made.start()
        for number, (slug, changes) in enumerate(ENGINES.items(), 1):
            made.put(made.document(slug, number, "big-1", release_changes=changes))
        for number, slug in enumerate(ENGINES, 1):
            made.reported(slug, number)
        if (made.home / "run/unspooled").exists():
            pytest.skip("this machine's disk is short of room")
        yield made


@contextlib.contextmanager
def slow_reader(node: Node, slug: str, times: int = 1) -> Iterator[socket.socket]:
    """A visitor who asked for `times` 25 MB, and for whom the kernel keeps next to nothing."""
    reader = socket.socket()
    with reader:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
        reader.settimeout(10)
        reader.connect(("127.0.0.1", node.port))
        reader.sendall(f"GET /big?{times} HTTP/1.1\r\nHost: {slug}.localhost\r\nConnection: close\r\n\r\n".encode())
        yield reader


def read_all(reader: socket.socket) -> int:
    """Read to the end; return the bytes of the body."""
    head, total = b"", 0
    while chunk := reader.recv(1 << 20):
        head += chunk if b"\r\n\r\n" not in head else b""
        total += len(chunk)
    return total - head.index(b"\r\n\r\n") - 4


@pytest.mark.parametrize("slug", ENGINES)
def test_a_slow_reader_gets_the_whole_answer_and_others_are_answered_meanwhile(node: Node, slug: str) -> None:
    with slow_reader(node, slug) as reader:
        began = time.monotonic()
        read = 0
        while time.monotonic() - began < SLOW_SECONDS:
            read += len(reader.recv(16_384))
            asked = time.monotonic()
            assert node.get(f"{slug}.localhost")[2] == b"small"
            assert time.monotonic() - asked < 2, "the only worker is held by who reads slowly"
            time.sleep(0.1)
        assert read < SIZE / 4, "read too fast for this to show anything"
        # The head was among what was read slowly.
        rest = 0
        while chunk := reader.recv(1 << 20):
            rest += len(chunk)
        assert SIZE < read + rest < SIZE + 1000


@pytest.mark.parametrize("slug", ENGINES)
def test_what_is_larger_than_the_spool_is_not_cut_either(node: Node, slug: str) -> None:
    with slow_reader(node, slug, times=12) as reader:
        time.sleep(SLOW_SECONDS)
        assert read_all(reader) == 12 * SIZE


def spooled(node: Node) -> list[str]:
    """The files in which nginx keeps answers just now; none has a name any more."""
    found = []
    master = node.processes["nginx"].pid
    for pid in Path(f"/proc/{master}/task/{master}/children").read_text().split():
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                target = os.readlink(descriptor)
                if target.startswith(f"{node.home}/run/nginx-tmp/"):
                    found.append(target)
    return found


@pytest.mark.parametrize("slug", ENGINES)
def test_nothing_is_put_on_a_disk_that_is_short_of_room(node: Node, slug: str) -> None:
    with slow_reader(node, slug):
        wait_until(lambda: spooled(node), what="an answer on the disk")
    wait_until(lambda: not spooled(node), what="its end with the visitor's")
    node.stop("agent")
    try:
        note_room(Layout(node.home), room_bytes=1 << 62, part=1)
        with slow_reader(node, slug) as reader:
            time.sleep(1)
            assert not spooled(node)
            assert read_all(reader) == SIZE
    finally:
        node.start_agent()
    wait_until(lambda: not (node.home / "run/unspooled").exists(), what="the agent to see the room")


def test_the_flag_of_a_full_disk_follows_the_room(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.run.mkdir()
    note_room(layout, room_bytes=0)
    assert not layout.unspooled.exists()
    note_room(layout, room_bytes=1 << 62, part=1)
    assert layout.unspooled.exists()
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    note_room(layout, room_bytes=int(free / 1.1), part=1)
    assert layout.unspooled.exists(), "there is room, though not much"
    note_room(layout, room_bytes=0)
    assert not layout.unspooled.exists()
