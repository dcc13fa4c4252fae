"""The listening socket: made so that nginx alone reaches it, and handed on when the process is replaced.

Connections wait in the socket's queue while a new program takes it over: none is refused.
"""

import os
import socket
from pathlib import Path

from tenantry.node.config import Config

SOCKET_MODE = 0o660
INHERITED = "TENANTRY_STANDBY_FD"  # the number of the socket that the program before left open
BACKLOG_MAX = 4096


def open_listener(config: Config) -> socket.socket:
    """Return the socket on `run/standby.sock`: the one that the program before handed on, if its file still leads to
    it, else a new one in place of whatever is there."""
    path = config.layout.standby_socket
    inherited = _inherited(path)
    if inherited is not None:
        return inherited
    staged = path.with_name(f".{path.name}.new")
    staged.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o777)
    try:
        listener.bind(str(staged))
    finally:
        os.umask(before)
    gid = config.nginx_gid()
    if gid is not None:
        os.chown(staged, -1, gid, follow_symlinks=False)
    staged.chmod(SOCKET_MODE)
    listener.listen(BACKLOG_MAX)  # the kernel has a lower limit of its own, net.core.somaxconn
    # Renamed over what is there: at no moment is there no socket.
    staged.rename(path)
    listener.setblocking(False)
    return listener


def hand_on(listener: socket.socket) -> dict[str, str]:
    """Keep the socket open over an exec; return the environment by which `open_listener` finds it there."""
    listener.set_inheritable(True)
    return {**os.environ, INHERITED: str(listener.fileno())}


def _inherited(path: Path) -> socket.socket | None:
    number = os.environ.pop(INHERITED, "")
    if not number.isdecimal():
        return None
    listener = socket.socket(fileno=int(number))
    listener.set_inheritable(False)
    listener.setblocking(False)
    if listener.getsockname() in (str(path), str(path.with_name(f".{path.name}.new"))) and path.is_socket():
        return listener
    listener.close()
    return None
