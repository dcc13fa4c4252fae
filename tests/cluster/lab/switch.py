"""A switch and the hosts on it: `python switch.py SCRATCH_DIRECTORY`. Standard library only, needs root on Linux.

Every host is a network namespace of its own, held open by this process and by nothing else: none has a name, so two
runs cannot meet. The hosts' cables are TAP devices that end in this process, which passes their frames on and is
the weather: it delays, loses or swallows frames, apart for what a host sends and what it receives.

Commands come in as lines of JSON and are answered by one line each. When the input ends, for whatever reason, every
process in one of the namespaces is killed, the namespaces vanish, and the scratch directory is removed.
"""

import asyncio
import ctypes
import fcntl
import json
import os
import random
import shutil
import signal
import socket
import struct
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

CLONE_NEWNET = 0x40000000
TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
SIOCGIFFLAGS, SIOCSIFFLAGS, SIOCSIFADDR, SIOCSIFNETMASK = 0x8913, 0x8914, 0x8916, 0x891C
IFF_UP = 0x1
NETMASK = "255.255.255.0"
FRAME_BYTES = 65_536
SEED = 20_260_101  # losses are the same in every run, as far as the traffic is
KILL_SECONDS = 60.0

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass
class Weather:
    """What happens to frames in one direction."""

    delay_seconds: float = 0.0
    loss: float = 0.0
    cut: bool = False
    passed: int = 0
    dropped: int = 0


@dataclass
class Port:
    """One host. `sent` is the weather of what it sends, `received` of what is sent to it."""

    namespace: int
    cable: int
    sent: Weather = field(default_factory=Weather)
    received: Weather = field(default_factory=Weather)


class Switch:
    """The ports by name, and which hardware address was last seen on which."""

    def __init__(self) -> None:
        self._home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._ports: dict[str, Port] = {}
        self._seen: dict[bytes, Port] = {}
        self._random = random.Random(SEED)

    def obey(self, command: dict[str, Any]) -> Any:
        """Do one command; the answer is JSON."""
        match command.pop("do"):
            case "host":
                return self._add(**command)
            case "weather":
                return self._change(**command)
            case "link":
                return self._inside(self._ports[command["name"]].namespace, _raise, "eth0", command["up"])
            case "counts":
                port = self._ports[command["name"]]
                return {
                    way: {"passed": weather.passed, "dropped": weather.dropped}
                    for way, weather in (("sent", port.sent), ("received", port.received))
                }
        raise ValueError("no such command")

    def _add(self, name: str, address: str) -> int:
        """Make a host; returns the number of the descriptor by which its namespace is reached through /proc."""
        _call(_libc.unshare(CLONE_NEWNET))
        try:
            namespace = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            cable = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            fcntl.ioctl(cable, TUNSETIFF, struct.pack("16sH22x", b"eth0", IFF_TAP | IFF_NO_PI))
            _raise("lo", True)
            _configure("eth0", address)
            _raise("eth0", True)
        finally:
            _call(_libc.setns(self._home, CLONE_NEWNET))
        port = Port(namespace, cable)
        self._ports[name] = port
        asyncio.get_running_loop().add_reader(cable, self._take, port)
        return namespace

    def _inside(self, namespace: int, deed: Any, *arguments: Any) -> None:
        _call(_libc.setns(namespace, CLONE_NEWNET))
        try:
            deed(*arguments)
        finally:
            _call(_libc.setns(self._home, CLONE_NEWNET))

    def _change(self, name: str, way: str, **values: Any) -> None:
        weather = getattr(self._ports[name], way)
        weather.delay_seconds = float(values.get("delay_seconds", 0.0))
        weather.loss = float(values.get("loss", 0.0))
        weather.cut = bool(values.get("cut", False))

    def _take(self, source: Port) -> None:
        """Pass on what a host has sent."""
        while True:
            try:
                frame = os.read(source.cable, FRAME_BYTES)
            except OSError:  # nothing more, or the link is down
                return
            target, sender = frame[:6], frame[6:12]
            self._seen[sender] = source
            known = self._seen.get(target)
            if not self._survives(source.sent):
                continue
            for port in [known] if known is not None else self._ports.values():
                if port is not source:
                    self._pass(frame, source.sent, port)

    def _pass(self, frame: bytes, sent: Weather, port: Port) -> None:
        if not self._survives(port.received):
            return
        delay = sent.delay_seconds + port.received.delay_seconds
        if delay:
            asyncio.get_running_loop().call_later(delay, _write, port.cable, frame)
        else:
            _write(port.cable, frame)

    def _survives(self, weather: Weather) -> bool:
        lost = weather.cut or (weather.loss > 0 and self._random.random() < weather.loss)
        if lost:
            weather.dropped += 1
        else:
            weather.passed += 1
        return not lost

    def end(self) -> None:
        """Kill every process in the namespaces; they vanish with this process."""
        ours = {_identity(os.fstat(port.namespace)) for port in self._ports.values()}
        deadline = time.monotonic() + KILL_SECONDS
        while (left := _processes_in(ours)) and time.monotonic() < deadline:
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)


def _processes_in(namespaces: set[tuple[int, int]]) -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError):
                if _identity(os.stat(f"/proc/{name}/ns/net")) in namespaces:
                    found.append(int(name))
    return found


def _identity(state: os.stat_result) -> tuple[int, int]:
    return state.st_dev, state.st_ino


def _call(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _write(cable: int, frame: bytes) -> None:
    with suppress(OSError):  # the link is down, or the host's queue is full: networks lose frames
        os.write(cable, frame)


def _configure(interface: str, address: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for request, value in ((SIOCSIFADDR, address), (SIOCSIFNETMASK, NETMASK)):
            place = struct.pack("HH4s8x", socket.AF_INET, 0, socket.inet_aton(value))
            fcntl.ioctl(control, request, struct.pack("16s16s8x", interface.encode(), place))


def _raise(interface: str, up: bool) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        answer = fcntl.ioctl(control, SIOCGIFFLAGS, struct.pack("16sH22x", interface.encode(), 0))
        flags = struct.unpack("16sH22x", answer)[1]
        flags = flags | IFF_UP if up else flags & ~IFF_UP
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH22x", interface.encode(), flags))


async def serve(switch: Switch) -> None:
    """Obey commands until the input ends."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        try:
            answer = {"answer": switch.obey(json.loads(line))}
        except (OSError, ValueError, KeyError, TypeError) as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


def main(scratch: str) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a Ctrl-C is for the test run: the end of the input ends this
    switch = Switch()
    try:
        asyncio.run(serve(switch))
    finally:
        switch.end()
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1])
