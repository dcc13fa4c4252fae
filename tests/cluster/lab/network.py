"""Hosts on one switch, as a test uses them."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import CDLL
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tenantry.node.effects.limits import remove_abandoned_groups

from .switch import CLONE_NEWNET

_T = TypeVar("_T")
_PREFIX = "10.77.0."
_FIRST = 10  # of the addresses given out
SWITCH_SECONDS = 180.0  # what the end of a switch may take, with thousands of processes to kill and files to remove


class NoNetwork(Exception):
    """This machine lets us make no hosts; the message says why."""


@dataclass(frozen=True, slots=True)
class Host:
    """A machine: `path` is its network namespace, good as long as the network is."""

    name: str
    address: str
    path: str
    started: list["subprocess.Popen[bytes]"] = field(default_factory=list, repr=False)

    @property
    def enter(self) -> list[str]:
        """The beginning of a command that is to run on this host."""
        return ["nsenter", f"--net={self.path}", "--"]

    def spawn(self, command: list[str], **options: Any) -> "subprocess.Popen[bytes]":
        """Start a process here; it ends with the network, at the latest."""
        process = subprocess.Popen([*self.enter, *command], start_new_session=True, cwd="/", **options)
        self.started.append(process)
        return process

    def call(self, deed: Callable[[], _T]) -> _T:
        """Return what `deed` does on this host; sockets that it makes stay there."""
        results: list[_T] = []
        errors: list[BaseException] = []

        def run() -> None:
            try:
                descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    if CDLL(None, use_errno=True).setns(descriptor, CLONE_NEWNET) != 0:
                        raise NoNetwork(f"cannot enter {self.name}")
                finally:
                    os.close(descriptor)
                results.append(deed())
            except BaseException as error:  # it is raised again below
                errors.append(error)

        thread = threading.Thread(target=run)  # a namespace is a property of a thread
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return results[0]


class Network:
    """Hosts that reach each other through one switch, and the directory in which they keep their files."""

    def __init__(self) -> None:
        self.scratch = Path(tempfile.mkdtemp(prefix="tc", dir="/tmp"))
        self.scratch.chmod(0o755)
        program = Path(__file__).with_name("switch.py")
        self._process = subprocess.Popen(
            [sys.executable, "-IS", str(program), str(self.scratch)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self._hosts: list[Host] = []

    def host(self, name: str) -> Host:
        """Add a host. Raises `NoNetwork`."""
        address = f"{_PREFIX}{_FIRST + len(self._hosts)}"
        descriptor = self._ask("host", name=name, address=address)
        host = Host(name, address, f"/proc/{self._process.pid}/fd/{descriptor}")
        self._hosts.append(host)
        return host

    def link(self, host: Host, up: bool) -> None:
        """Pull a host's cable, or plug it in: the host itself sees that."""
        self._ask("link", name=host.name, up=up)

    def weather(
        self, host: Host, way: str, *, delay_seconds: float = 0.0, loss: float = 0.0, cut: bool = False
    ) -> None:
        """Set what happens to what a host «sent» or «received»; nobody is told about a loss."""
        self._ask("weather", name=host.name, way=way, delay_seconds=delay_seconds, loss=loss, cut=cut)

    def storm(self, host: Host, **weather: Any) -> None:
        """Set the same weather for both directions."""
        for way in ("sent", "received"):
            self.weather(host, way, **weather)

    def counts(self, host: Host) -> dict[str, dict[str, int]]:
        """Return how many frames were passed on and dropped, of what the host sent and received."""
        return dict(self._ask("counts", name=host.name))

    def close(self) -> None:
        """End every process on the hosts, the hosts, and their files."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(SWITCH_SECONDS)
        self._process.stdout.close()
        for host in self._hosts:
            for process in host.started:
                process.wait(SWITCH_SECONDS)
        shutil.rmtree(self.scratch, ignore_errors=True)
        remove_abandoned_groups()

    def _ask(self, deed: str, **arguments: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": deed, **arguments}).encode() + b"\n")
            self._process.stdin.flush()
            answer = json.loads(self._process.stdout.readline() or "{}")
        except (OSError, ValueError) as error:
            raise NoNetwork(f"the switch is gone: {error}") from error
        if "answer" not in answer:
            raise NoNetwork(answer.get("error", "the switch ended"))
        return answer["answer"]


@contextmanager
def network() -> Iterator[Network]:
    """A network that is gone afterwards, with everything on it."""
    made = Network()
    try:
        yield made
    finally:
        made.close()


def why_no_network() -> str | None:
    """Return why this machine cannot have the hosts of these tests, or None."""
    missing = [program for program in ("nsenter", "setpriv") if shutil.which(program) is None]
    if os.geteuid() != 0:
        return "network namespaces need root"
    if missing:
        return f"needs {', '.join(missing)}"
    try:
        with network() as made:
            made.host("try")
    except NoNetwork as error:
        return f"network namespaces with TAP devices cannot be made here: {error}"
    return None
