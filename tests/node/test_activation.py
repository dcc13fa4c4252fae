"""The socket that visitors come to outlives every nginx: nobody is refused when it is replaced, or dies."""

import contextlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from node_lab import Node, free_port, wait_until

from tenantry.node.activation import listener

NGINX = "/usr/sbin/nginx"
WORKER = b"nginx: worker process"


class Visitors:
    """Four visitors who come with a new connection each time, and one who keeps his."""

    def __init__(self, port: int) -> None:
        self.answered = 0
        self.failures: list[str] = []
        self._port = port
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._visit, args=(number == 0,)) for number in range(5)]

    def __enter__(self) -> "Visitors":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(20)

    def _visit(self, keeps: bool) -> None:
        connection: http.client.HTTPConnection | None = None
        while not self._stop.wait(0.002):
            fresh = connection is None
            connection = connection or http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
            try:
                connection.request("GET", "/.tenantry/ready", headers={"Host": "_status"})
                answer = connection.getresponse()
                answer.read()
                if answer.status != 200:
                    self.failures.append(str(answer.status))
                self.answered += 1
            except (OSError, http.client.HTTPException) as error:
                if fresh:  # a kept connection that was idle may be closed: browsers ask again
                    self.failures.append(repr(error))
                connection.close()
                connection = None
            if connection is not None and not keeps:
                connection.close()
                connection = None
        if connection is not None:
            connection.close()


class Served:
    """nginx under socket activation in a prepared home, run by a program of the test's own."""

    def __init__(self, node: Node) -> None:
        self.node, self.home = node, node.home
        self.program = node.home / "nginx"  # the test's own copy: it is upgraded
        shutil.copy2(NGINX, self.program)
        self.start()
        wait_until(lambda: self.ask() == "ready\n", what="nginx")

    def start(self) -> None:
        command = [sys.executable, "-m", "tenantry.node.activation", "--nginx", str(self.program)]
        place = ["--home", str(self.home), "--address", "127.0.0.1", "--port", str(self.node.port)]
        self.node.spawn("activation", [*command, *place])

    @property
    def process(self) -> "subprocess.Popen[bytes]":
        return self.node.processes["activation"]

    def master(self) -> int:
        with contextlib.suppress(OSError, ValueError):
            return int((self.home / "run/nginx.pid").read_text())
        return 0

    def workers(self) -> set[int]:
        """Return the workers on the port, of whatever master."""
        found = set()
        for place in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (place / "cmdline").read_bytes().startswith(WORKER) and self._is_ours(place):
                    found.add(int(place.name))
        return found

    def _is_ours(self, place: Path) -> bool:
        return any(str(link.readlink()).startswith(f"{self.home}/") for link in (place / "fd").iterdir())

    def ask(self, path: str = "/.tenantry/ready") -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self.node.port, timeout=5)
        try:
            connection.request("GET", path, headers={"Host": "_status"})
            return connection.getresponse().read().decode()
        except OSError:
            return ""
        finally:
            connection.close()

    def output(self) -> str:
        return self.node.output("activation")

    def waits_in_accept(self) -> bool:
        """Whether a worker that takes a visitor whom another took first would wait for the next one."""
        blocking, port = set(), f":{self.node.port:04X}"
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        listening = {f"socket:[{row[9]}]" for row in rows if row[3] == "0A" and row[1].endswith(port)}
        for pid in self.workers():
            for link in Path(f"/proc/{pid}/fd").iterdir():
                if str(link.readlink()) in listening:
                    flags = Path(f"/proc/{pid}/fdinfo/{link.name}").read_text().partition("flags:")[2].split()[0]
                    blocking.add(not int(flags, 8) & os.O_NONBLOCK)
        assert len(blocking) == 1, "all have the one socket"
        return blocking.pop()


@pytest.fixture
def served(node: Node) -> Iterator[Served]:
    made = Served(node)
    try:
        yield made
    finally:
        if "activation" in node.processes:
            node.stop("activation")
        for pid in made.workers():
            os.kill(pid, signal.SIGKILL)


def test_no_worker_waits_for_a_visitor_whom_another_took(served: Served) -> None:
    assert not served.waits_in_accept()
    os.kill(served.process.pid, signal.SIGHUP)
    before = served.master()
    wait_until(lambda: served.master() not in (0, before), what="another nginx")
    assert not served.waits_in_accept(), "nor with a socket that was handed on"


def test_another_program_and_another_configuration_refuse_nobody(served: Served) -> None:
    before, workers, pid = served.master(), served.workers(), served.process.pid
    revision = served.ask("/revision")
    with Visitors(served.node.port) as visitors:
        wait_until(lambda: visitors.answered > 200)
        # As a package manager does it: another file under the same name.
        staged = served.home / "nginx.new"
        shutil.copy2(NGINX, staged)
        staged.rename(served.program)
        configuration = served.home / "etc/nginx.conf"
        configuration.write_text(configuration.read_text().replace(revision.strip(), "0123456789abcdef"))
        began = time.monotonic()
        os.kill(pid, signal.SIGHUP)
        wait_until(lambda: not served.workers() & workers, 20, "the end of the former nginx")
        took = time.monotonic() - began
        for _ in range(5):
            after = served.master()
            os.kill(pid, signal.SIGHUP)
            wait_until(lambda after=after: served.master() not in (0, after), what="the next nginx")
        asked = visitors.answered
        wait_until(lambda: visitors.answered > asked + 200)
    print(f"6 upgrades: {visitors.answered} requests, {len(visitors.failures)} failed; the first took {took:.2f} s")
    assert visitors.failures == []
    assert served.process.pid == pid
    assert served.process.poll() is None
    assert served.master() != before
    assert os.path.samestat(os.stat(f"/proc/{served.master()}/exe"), served.program.stat())
    assert served.ask("/revision") == "0123456789abcdef\n"


def test_a_master_that_is_killed_is_replaced_and_its_workers_end(served: Served) -> None:
    before, workers = served.master(), served.workers()
    with Visitors(served.node.port) as visitors:
        wait_until(lambda: visitors.answered > 200)
        killed = time.monotonic()
        os.kill(before, signal.SIGKILL)
        wait_until(lambda: served.master() not in (0, before) and served.workers() - workers, 5, "another master")
        took = time.monotonic() - killed
        wait_until(lambda: not served.workers() & workers, 5, "the end of the orphans")
        asked = visitors.answered
        wait_until(lambda: visitors.answered > asked + 200)
    print(f"killed: another master after {took:.2f} s; {visitors.answered} requests, {len(visitors.failures)} failed")
    assert took < 1
    assert visitors.failures == []


def test_all_of_nginx_killed_at_once_loses_what_was_under_way_and_refuses_nobody(served: Served) -> None:
    before = served.master()
    with Visitors(served.node.port) as visitors:
        wait_until(lambda: visitors.answered > 200)
        for pid in (before, *served.workers()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: served.master() not in (0, before), 5, "another master")
        asked = visitors.answered
        wait_until(lambda: visitors.answered > asked + 200)
    print(f"all killed: {visitors.answered} requests, {len(visitors.failures)} failed: {visitors.failures}")
    assert not [failure for failure in visitors.failures if "refused" in failure]
    assert len(visitors.failures) <= 5, "one for each visitor, if that"


def test_the_holder_that_is_killed_takes_the_socket_up_again(served: Served) -> None:
    before, workers = served.master(), served.workers()
    with Visitors(served.node.port) as visitors:
        wait_until(lambda: visitors.answered > 200)
        served.node.stop("activation", signal.SIGKILL)
        asked = visitors.answered
        wait_until(lambda: visitors.answered > asked + 100)
        served.start()
        wait_until(lambda: served.master() not in (0, before), 10, "another master")
        wait_until(lambda: not served.workers() & workers, 10, "the end of the former nginx")
    assert visitors.failures == [], served.output()


def test_where_no_socket_can_be_copied_the_former_nginx_ends_first(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(pid: int, descriptor: int) -> socket.socket:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(listener, "_take", refuse)
    served.node.stop("activation", signal.SIGKILL)
    with listener.open_listener("127.0.0.1", served.node.port, served.home) as taken:
        assert listener.holders(taken) == []
        assert served.workers() == set()


def test_holder_and_master_killed_at_once(served: Served) -> None:
    before, workers = served.master(), served.workers()
    with Visitors(served.node.port) as visitors:
        wait_until(lambda: visitors.answered > 200)
        served.node.stop("activation", signal.SIGKILL)
        os.kill(before, signal.SIGKILL)
        served.start()
        wait_until(lambda: served.master() not in (0, before), 10, "another master")
        wait_until(lambda: not served.workers() & workers, 10, "the end of the orphans")
    assert visitors.failures == [], served.output()


def test_a_configuration_that_nginx_refuses_leaves_the_former_one_in_place(served: Served) -> None:
    before, pid = served.master(), served.process.pid
    configuration = served.home / "etc/nginx.conf"
    whole = configuration.read_text()
    with Visitors(served.node.port) as visitors:
        configuration.write_text("nonsense;")
        os.kill(pid, signal.SIGHUP)
        wait_until(lambda: "does not come up" in served.output(), what="the refusal")
        wait_until(lambda: served.master() == before)
        # Killed now, its workers serve on until there is a good one again.
        os.kill(before, signal.SIGKILL)
        wait_until(lambda: served.output().count("does not come up") > 2, 10, "more attempts")
        configuration.write_text(whole)
        wait_until(lambda: served.master() not in (0, before), 10, "a good nginx")
    assert visitors.failures == []
    assert served.process.poll() is None


def test_asked_to_end_everything_ends(served: Served) -> None:
    master = served.master()
    began = time.monotonic()
    served.node.stop("activation", signal.SIGQUIT)
    assert time.monotonic() - began < 6
    assert served.workers() == set()
    wait_until(lambda: not Path(f"/proc/{master}").exists(), what="whoever adopted it to take note")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", served.node.port))


def test_another_programs_port_and_a_bad_configuration_are_said(node: Node) -> None:
    command = [sys.executable, "-m", "tenantry.node.activation", "--nginx", NGINX, "--home", str(node.home)]
    command += ["--address", "127.0.0.1", "--port"]
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        ended = subprocess.run([*command, str(port)], capture_output=True, text=True, timeout=20)
        assert (ended.returncode, ended.stdout) == (1, "")
        assert f"another program listens on 127.0.0.1:{port}" in ended.stderr
    (node.home / "etc/nginx.conf").write_text("nonsense;")
    ended = subprocess.run([*command, str(free_port())], capture_output=True, text=True, timeout=20)
    assert ended.returncode == 1
    assert 'unknown directive "nonsense' in ended.stderr + (node.home / "logs/nginx.log").read_text()
