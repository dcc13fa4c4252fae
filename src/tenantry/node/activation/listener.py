"""The listening socket: handed on by the program before, made anew, or taken from an nginx that outlived its parent."""

import contextlib
import ctypes
import errno
import ipaddress
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

INHERITED = "TENANTRY_ACTIVATION_FD"  # the number of the socket that the program before left open
BACKLOG = 511  # what nginx asks for; the kernel has a lower limit of its own
FREED_SECONDS = 35.0  # an nginx that is asked to end lets requests finish for 30 s
_PIDFD_GETFD = 438
_LISTEN = "0A"
_TITLE = b"nginx: "


def open_listener(address: str, port: int, home: Path) -> socket.socket:
    """Return the socket that listens on `address`; `OSError` when another program has it.

    An nginx of this home that still listens goes on: the socket is its own, and `holders` tells who it is.
    """
    listener = _opened(address, port, home)
    # nginx leaves a socket that it is given as it is. Of two workers that the kernel tells of one visitor, the second
    # would wait in `accept` for another one, and all whom it serves with it.
    listener.setblocking(False)
    return listener


def _opened(address: str, port: int, home: Path) -> socket.socket:
    inherited = _inherited(address, port)
    if inherited is not None:
        return inherited
    try:
        return _bind(address, port)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
    orphans = _listening_orphans(address, port, home)
    if not orphans:
        raise OSError(errno.EADDRINUSE, f"another program listens on {address}:{port}")
    for pid, descriptor in orphans:
        with contextlib.suppress(OSError):  # not allowed here, or an older kernel
            taken = _take(pid, descriptor)
            if taken.getsockname()[:2] == (address, port):
                return taken
            taken.close()
    return _bind_after(orphans, address, port)


def hand_on(listener: socket.socket) -> dict[str, str]:
    """Keep the socket open over an exec; return the environment by which `open_listener` finds it there."""
    listener.set_inheritable(True)
    return {**os.environ, INHERITED: str(listener.fileno())}


def holders(listener: socket.socket) -> list[int]:
    """Return the processes of nginx, masters and workers, that have this socket open."""
    wanted = f"socket:[{os.fstat(listener.fileno()).st_ino}]"
    return [pid for pid in nginx_processes() if any(link == wanted for _, link in _descriptors(pid))]


def title(pid: int) -> bytes:
    """Return the process's title; nothing for one that is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _inherited(address: str, port: int) -> socket.socket | None:
    number = os.environ.pop(INHERITED, "")
    if not number.isdecimal():
        return None
    listener = socket.socket(fileno=int(number))
    if listener.getsockname()[:2] == (address, port):
        return listener
    listener.close()
    return None


def _bind(address: str, port: int) -> socket.socket:
    version = ipaddress.ip_address(address).version
    listener = socket.socket(socket.AF_INET6 if version == 6 else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if version == 6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # as nginx does
        listener.bind((address, port))
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _bind_after(orphans: list[tuple[int, int]], address: str, port: int) -> socket.socket:
    """Have the orphans end, and bind what they leave. Until then nobody new is answered."""
    for pid, _ in orphans:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGQUIT)
    deadline = time.monotonic() + FREED_SECONDS
    while True:
        try:
            return _bind(address, port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                raise
        time.sleep(0.02)


def _listening_orphans(address: str, port: int, home: Path) -> list[tuple[int, int]]:
    """Return processes of this home's nginx with the number under which each has a socket that listens there.

    Only sockets that this user made: nothing that calls itself nginx can have another's adopted.
    """
    inodes = {f"socket:[{inode}]" for inode in _listening_inodes(port)}
    inside = f"{home}/"
    found = []
    for pid in nginx_processes():
        descriptors = list(_descriptors(pid))
        numbers = [number for number, link in descriptors if link in inodes]
        if numbers and any(link.startswith(inside) for _, link in descriptors):
            found.append((pid, numbers[0]))
    return found


def _listening_inodes(port: int) -> Iterator[str]:
    """Yield the inodes of sockets that listen on the port and were made by this user."""
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(FileNotFoundError):
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                own = int(fields[7]) == os.geteuid()
                if own and fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                    yield fields[9]


def nginx_processes() -> Iterator[int]:
    """Yield the processes of any nginx of this machine."""
    for entry in os.listdir("/proc"):  # noqa: PTH208
        if entry.isdecimal() and title(int(entry)).startswith(_TITLE):
            yield int(entry)


def _descriptors(pid: int) -> Iterator[tuple[int, str]]:
    """Yield the numbers and targets of what a process has open; nothing of one that may not be looked at."""
    with contextlib.suppress(OSError):
        for entry in os.scandir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                yield int(entry.name), os.readlink(entry.path)  # noqa: PTH115


def _take(pid: int, descriptor: int) -> socket.socket:
    process = os.pidfd_open(pid)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        number = libc.syscall(_PIDFD_GETFD, process, descriptor, 0)
        if number < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return socket.socket(fileno=number)
    finally:
        os.close(process)
