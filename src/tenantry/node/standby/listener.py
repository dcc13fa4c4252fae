"""The listening sockets: made so that nginx alone reaches them, and handed on when the process is replaced.

Connections wait in a socket's queue while a new program takes it over: none is refused.
"""

import os
import socket
from collections.abc import Mapping
from pathlib import Path

SOCKET_MODE = 0o660
INHERITED = "TENANTRY_STANDBY_FDS"  # «name=number …»: the sockets that the program before left open
BACKLOG_MAX = 4096


def open_listener(path: Path, gid: int | None, inherited: Mapping[str, int]) -> socket.socket:
    """Return the socket on `path`: the one that the program before handed on, if its file still leads to it, else a
    new one in place of whatever is there. `gid` is the group that may connect, besides the user."""
    if path.name in inherited:
        taken = _take(path, inherited[path.name])
        if taken is not None:
            return taken
    staged = _staged(path)
    staged.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o777)
    try:
        listener.bind(str(staged))
    finally:
        os.umask(before)
    if gid is not None:
        os.chown(staged, -1, gid, follow_symlinks=False)
    staged.chmod(SOCKET_MODE)
    listener.listen(BACKLOG_MAX)  # the kernel has a lower limit of its own, net.core.somaxconn
    # Renamed over what is there: at no moment is there no socket.
    staged.rename(path)
    listener.setblocking(False)
    return listener


def hand_on(listeners: Mapping[str, socket.socket]) -> dict[str, str]:
    """Keep the sockets open over an exec; return the environment by which `inherited_sockets` finds them there."""
    for listener in listeners.values():
        listener.set_inheritable(True)
    return {**os.environ, INHERITED: " ".join(f"{name}={listener.fileno()}" for name, listener in listeners.items())}


def inherited_sockets() -> dict[str, int]:
    """Return the numbers of the sockets that the program before handed on, by name; once."""
    pairs = (part.partition("=") for part in os.environ.pop(INHERITED, "").split())
    return {name: int(number) for name, _, number in pairs if number.isdecimal()}


def _take(path: Path, number: int) -> socket.socket | None:
    listener = socket.socket(fileno=number)
    listener.set_inheritable(False)
    listener.setblocking(False)
    if listener.getsockname() in (str(path), str(_staged(path))) and path.is_socket():
        return listener
    listener.close()
    return None


def _staged(path: Path) -> Path:
    return path.with_name(f".{path.name}.new")
