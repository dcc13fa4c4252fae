"""Ports: may we listen there, and who does already? Standard library only."""

import contextlib
import errno
import socket
from pathlib import Path

from tenantry.embedded.errors import HomeUnusable, PortTaken

_ACCEPTS = 0x10000  # the kernel's flag in /proc/net/unix of a socket that takes connections
_LISTEN = "0A"  # the kernel's number for TCP_LISTEN in /proc/net/tcp


def check_port(address: str, port: int, option: str, purpose: str) -> None:
    """Raise `PortTaken` when this user cannot listen on `address:port`; the message names `option` as the way out."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # nginx sets it too: a port in TIME_WAIT is free, one that somebody listens on is not.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            raise PortTaken(_explain(error, address, port, option, purpose)) from error


def check_address(address: str) -> None:
    """Raise `HomeUnusable` when `address` is none of this machine's."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError as error:
            raise HomeUnusable(
                f"{address} is not an address of this machine ({error.strerror}), so nodes would not find it there. "
                "«ip address» lists those it has; choose one with --cluster-address."
            ) from error


def port_holder(port: int) -> str | None:
    """Return "name (pid N)" of the process that listens on `port`, None when it cannot be seen (another user's)."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                    inodes.add(f"socket:[{fields[9]}]")
    if not inodes:
        return None
    for process in sorted(Path("/proc").glob("[0-9]*"), key=lambda entry: int(entry.name)):
        with contextlib.suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                with contextlib.suppress(OSError):
                    if str(descriptor.readlink()) in inodes:
                        return f"{(process / 'comm').read_text().strip()} (pid {process.name})"
    return None


def _explain(error: OSError, address: str, port: int, option: str, purpose: str) -> str:
    if error.errno == errno.EADDRINUSE:
        holder = port_holder(port) or "another process"
        return (
            f"Port {port}, wanted for {purpose}, is in use by {holder}. "
            f"Stop it, or choose another port with {option} N (for example {option} {_free_port(address)})."
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return (
            f"This user may not listen on port {port}: ports below 1024 belong to root. "
            f"Choose one from 1024 up with {option} N (for example {option} 8080), or run as root."
        )
    return f"Cannot listen on {address}:{port} for {purpose}: {error.strerror}. Check --bind and {option}."


def _free_port(address: str) -> int:
    with socket.socket() as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return 8090
        port = probe.getsockname()[1]
    return int(port)


def listening_sockets() -> set[str]:
    """Return the paths of the unix sockets that processes listen on, without waking any of them."""
    found = set()
    with contextlib.suppress(OSError):
        for line in Path("/proc/net/unix").read_text(errors="replace").splitlines()[1:]:
            fields = line.split(maxsplit=7)
            if len(fields) == 8 and int(fields[3], 16) & _ACCEPTS:
                found.add(fields[7])
    return found


def answers(path: Path) -> bool:
    """Whether a process accepts connections on the unix socket at `path`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(2)
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
