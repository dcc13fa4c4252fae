"""The process that answers in place of sites: what it reads, what it writes, how it is replaced."""

import asyncio
import contextlib
import os
import resource
import signal
import socket
import stat
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from node_lab import AS_ROOT, Node, wait_until

from tenantry.node.standby.main import Desk
from tenantry.node.standby.protocol import Answer, Request, encode_answer, read_request
from tenantry.node.standby.reception import Reception, Service
from tenantry.spec.uwsgi import encode_packet


def ask(node: Node, variables: dict[str, str]) -> bytes:
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(10)
        asking.connect(str(node.home / "run" / "standby.sock"))
        asking.sendall(encode_packet(variables))
        return b"".join(iter(lambda: asking.recv(65_536), b""))


def read(data: bytes) -> Request:
    async def feed() -> Request:
        reader = asyncio.StreamReader()
        reader.feed_data(data)
        reader.feed_eof()
        return await read_request(reader)

    return asyncio.run(feed())


@settings(max_examples=50)
@given(st.binary(max_size=100))
def test_any_bytes_are_a_request_or_refused(data: bytes) -> None:
    try:
        request = read(data)
    except (ValueError, EOFError):
        return
    assert data[0] == 0
    assert all(isinstance(value, str) for value in request.variables.values())


def test_an_answer_has_its_length_and_no_header_makes_another() -> None:
    answer = Answer(503, {"Retry-After": "5"}, b"body")
    assert encode_answer(answer) == (
        b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nContent-Length: 4\r\n\r\nbody"
    )
    assert encode_answer(answer, head_only=True).endswith(b"Content-Length: 4\r\n\r\n")
    with pytest.raises(ValueError, match="line end"):
        encode_answer(Answer(503, {"X-Message": "a\r\nSet-Cookie: b"}))


def test_a_part_with_a_bug_is_a_503_for_that_request_alone(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        async def answer(self, request: Request) -> Answer:
            raise RuntimeError("this part is broken")

        async def run(self) -> None: ...

    async def visit() -> bytes:
        desk = Desk({"broken": Broken()})
        here, there = socket.socketpair()
        visitor, answering = await asyncio.open_connection(sock=here), await asyncio.open_connection(sock=there)
        visitor[1].write(encode_packet({"TENANTRY_DUTY": "broken"}))
        await desk.serve(*answering)
        answering[1].close()
        answer = await visitor[0].read()
        visitor[1].close()
        return answer

    answer = asyncio.run(visit())
    assert answer.startswith(b"HTTP/1.1 503")
    assert b"Retry-After: 5" in answer
    assert "this part is broken" in caplog.text


@contextlib.asynccontextmanager
async def received(serve: Service, path: Path) -> AsyncIterator[Reception]:
    """A reception whose socket is at `path`."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.setblocking(False)
        reception = Reception()
        reception.open(listener, serve)
        yield reception
        reception.close()


def test_who_reads_slowly_gets_the_whole_of_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where he takes longer than is waited for one who takes nothing."""
    monkeypatch.setattr("tenantry.node.standby.reception.STILL_SECONDS", 1.0)

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.set_write_buffer_limits(1 << 24)
        writer.write(b"x" * (1 << 20))

    async def visit() -> tuple[int, float]:
        async with received(serve, tmp_path / "s") as reception:
            reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"), limit=1024)
            read = 0
            while chunk := await reader.read(64 << 10):
                read += len(chunk)
                await asyncio.sleep(0.2)
            writer.close()
            _, idle = await asyncio.open_unix_connection(str(tmp_path / "s"), limit=1024)
            await asyncio.sleep(0.1)
            began = time.monotonic()
            await reception.finish(5)
            idle.close()
            return read, time.monotonic() - began

    read, waited = asyncio.run(visit())
    assert read == 1 << 20
    assert waited < 4, "who takes nothing is given up"


def test_without_descriptors_who_comes_waits_in_the_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenantry.node.standby.reception.PAUSE_SECONDS", 0.1)

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"served")

    async def visit() -> bytes:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        async with received(serve, tmp_path / "s"):
            with socket.socket(socket.AF_UNIX) as visitor:
                visitor.setblocking(False)
                await asyncio.get_running_loop().sock_connect(visitor, str(tmp_path / "s"))
                resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
                try:
                    await asyncio.sleep(0.3)
                finally:
                    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                async with asyncio.timeout(5):
                    return await asyncio.get_running_loop().sock_recv(visitor, 100)

    assert asyncio.run(visit()) == b"served"


def test_standby_answers_nginx_alone_and_is_replaced_without_refusing_anybody(node: Node) -> None:
    (node.home / "run" / "standby.sock").touch()  # a rest of something else
    node.start_standby()
    path = node.home / "run" / "standby.sock"
    wait_until(lambda: stat.S_ISSOCK(path.stat().st_mode), what="standby")
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    if AS_ROOT:
        import grp

        assert grp.getgrgid(path.stat().st_gid).gr_name == "www-data"
    process = node.processes["standby"]
    assert ask(node, {"TENANTRY_DUTY": "status"}).endswith(f"\r\n\r\n{process.pid}\n".encode())
    assert ask(node, {"TENANTRY_DUTY": "no such"}).startswith(b"HTTP/1.1 503")

    started = program_started(node)
    process.send_signal(signal.SIGHUP)
    asked = 0
    while program_started(node) == started or asked < 50:
        assert ask(node, {"TENANTRY_DUTY": "status"}).endswith(f"\n{process.pid}\n".encode())
        asked += 1
    assert process.poll() is None
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(5) == 0


def test_whoever_comes_at_the_moment_of_the_replacement_is_answered(node: Node) -> None:
    """He is taken from the queue in the same round of the loop in which the program hears that it is replaced."""
    node.start_standby()
    process = node.processes["standby"]
    wait_until(lambda: program_started(node) == 1)
    for started in range(1, 6):
        process.send_signal(signal.SIGSTOP)
        with socket.socket(socket.AF_UNIX) as visit:
            visit.settimeout(10)
            visit.connect(str(node.home / "run" / "standby.sock"))
            process.send_signal(signal.SIGHUP)
            process.send_signal(signal.SIGCONT)
            time.sleep(0.2)
            visit.sendall(encode_packet({"TENANTRY_DUTY": "status"}))
            assert b"".join(iter(lambda: visit.recv(65_536), b"")).endswith(f"\n{process.pid}\n".encode())
        wait_until(lambda before=started: program_started(node) > before)


def program_started(node: Node) -> int:
    """Return how often the process has begun to listen."""
    time.sleep(0.005)
    return node.output("standby").count("standby answers on")
