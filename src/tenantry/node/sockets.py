"""The kernel's table of unix sockets: who listens below `run/sites`, and how many connections each has.

Asked through sock_diag, the kernel also says which file each socket was bound to: a socket moved to another site's
place, or made anew under the same name, is another file. And whose it is: a tenant that mounts a directory of its own
over another site's, in a mount namespace, binds a path of the same name. Every listener of a site was made by the user
the agent runs as, and a connection counts that was made to the file of such a listener. Where sock_diag is not to be
had, `/proc/net/unix` says the rest.
"""

import os
import socket
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tenantry.spec.names import Slug

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_REQUEST_DUMP = 0x301  # NLM_F_REQUEST | NLM_F_DUMP
_REQUEST_ONE = 0x1  # NLM_F_REQUEST
_DONE, _ERROR = 3, 2
_SHOW_NAME, _SHOW_FILE, _SHOW_QUEUE, _SHOW_USER = 1, 2, 0x10, 0x40
_NAME, _FILE, _QUEUE, _USER = 0, 1, 4, 7  # UNIX_DIAG_NAME, UNIX_DIAG_VFS, UNIX_DIAG_RQLEN, UNIX_DIAG_UID
_ESTABLISHED, _LISTEN = 1, 10  # the states of TCP, which unix sockets borrow
_REQUEST = struct.Struct("=IHHIIBBHIIIII")
_HEADER = struct.Struct("=IHHIIBBBB")  # the message's header, then family, type, state, padding
_INODE_AT = 20
_FIRST_ATTRIBUTE = 32
_ATTRIBUTE = struct.Struct("=HH")
_VFS = struct.Struct("=II")
_File = tuple[int, int]  # inode and device, as the kernel says them
_NO_FILE: _File = (0, 0)
_Row = tuple[bytes, bool, _File, int]  # path, whether it listens, file, connections: its queue's, or itself one
_LISTENING_FLAG = 0x10000  # __SO_ACCEPTCON in /proc/net/unix
_ANSWER_SECONDS = 2.0


@dataclass(slots=True)
class Sockets:
    """The sockets `<site>/<generation>.sock`: which have a listener, how many connections each has.

    `files` holds the inode numbers of the files that listeners are bound to, None where the kernel does not tell.
    """

    listening: dict[Slug, set[int]] = field(default_factory=dict)
    connections: dict[Slug, dict[int, int]] = field(default_factory=dict)
    files: dict[tuple[Slug, int], set[int]] | None = None

    def is_bound(self, slug: Slug, generation: int, inode: int) -> bool:
        """Whether a listener of this generation answers under the file `inode`; True when it cannot be known."""
        return self.files is None or inode & 0xFFFFFFFF in self.files.get((slug, generation), ())


def read_sockets(sites: Path) -> Sockets:
    """Return the sockets bound below `sites`. Paths as they were bound.

    A connection that was accepted carries the path of the socket it was made to; what was not yet is in that socket's
    queue. The count is of both: the requests on their way.
    """
    prefix = f"{sites}/".encode()
    try:
        return _collect(prefix, _ask_kernel(), with_files=True)
    except OSError:
        return _collect(prefix, _read_table(Path("/proc/net/unix")), with_files=False)


class Backlog:
    """The queue of one listening socket, by the path it was bound to."""

    def __init__(self, path: Path) -> None:
        self._path = os.fsencode(path)
        self._inode: int | None = None

    def count(self) -> int | None:
        """Return how many connections wait to be accepted; None where it cannot be known, or nobody listens."""
        try:
            if self._inode is None:
                listed = _messages(1 << _LISTEN, _SHOW_NAME)
                self._inode = next((inode for _, inode, part in listed if _attributes(*part)[0] == self._path), None)
            if self._inode is None:
                return None
            for _, _, (answer, at, end) in _messages(1 << _LISTEN, _SHOW_QUEUE, self._inode):
                return _queue(answer, at, end)
        except OSError:
            pass
        return None


def _collect(prefix: bytes, rows: Iterator[_Row], *, with_files: bool) -> Sockets:
    found = Sockets(files={} if with_files else None)
    listeners: set[tuple[bytes, _File]] = set()
    connections: list[tuple[Slug, int, tuple[bytes, _File], int]] = []
    for path, listening, file, count in rows:
        if not path.startswith(prefix):
            continue
        site, _, name = os.fsdecode(path[len(prefix) :]).partition("/")
        number = name.removesuffix(".sock")
        if not number.isdecimal():
            continue
        slug, generation = Slug(site), int(number)
        if listening:
            listeners.add((path, file))
            found.listening.setdefault(slug, set()).add(generation)
            if found.files is not None:
                found.files.setdefault((slug, generation), set()).add(file[0])
        connections.append((slug, generation, (path, file), count))
    for slug, generation, made_to, count in connections:
        if made_to in listeners and count:
            counts = found.connections.setdefault(slug, {})
            counts[generation] = counts.get(generation, 0) + count
    return found


def _ask_kernel() -> Iterator[_Row]:
    """Yield each bound socket; `OSError` without sock_diag."""
    own = os.geteuid()
    shown = _SHOW_NAME | _SHOW_FILE | _SHOW_USER | _SHOW_QUEUE
    for state, _, part in _messages(1 << _LISTEN | 1 << _ESTABLISHED, shown):
        name, file, user = _attributes(*part)
        listening = state == _LISTEN
        if name and not (listening and user not in (own, None)):
            yield name, listening, file, (_queue(*part) or 0) if listening else 1


def _messages(states: int, shown: int, inode: int = 0) -> Iterator[tuple[int, int, tuple[bytes, int, int]]]:
    """Yield state, inode and where the attributes are of each socket in one of `states`, or of the one with `inode`."""
    request = _REQUEST.pack(
        _REQUEST.size, _SOCK_DIAG_BY_FAMILY, _REQUEST_ONE if inode else _REQUEST_DUMP, 1, 0,
        socket.AF_UNIX, 0, 0, states, inode, shown, 0xFFFFFFFF, 0xFFFFFFFF,
    )  # fmt: skip
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_SOCK_DIAG) as netlink:
        netlink.settimeout(_ANSWER_SECONDS)
        netlink.send(request)
        while True:
            answer = netlink.recv(1 << 18)
            at = 0
            while at < len(answer):
                length, kind, _, _, _, _, _, state, _ = _HEADER.unpack_from(answer, at)
                if kind == _DONE:
                    return
                if kind == _ERROR:
                    raise OSError("the kernel refused to list its sockets")
                found = int.from_bytes(answer[at + _INODE_AT : at + _INODE_AT + 4], sys.byteorder)
                yield state, found, (answer, at + _FIRST_ATTRIBUTE, at + length)
                at += length + 3 & ~3
            if inode:
                return


def _attributes(answer: bytes, at: int, end: int) -> tuple[bytes, _File, int | None]:
    """Return name, file and user; kernels before 5.3 do not tell the user."""
    name, file, user = b"", _NO_FILE, None
    while at < end:
        length, kind = _ATTRIBUTE.unpack_from(answer, at)
        if kind == _NAME:
            name = answer[at + 4 : at + length].rstrip(b"\0")
        elif kind == _FILE:
            file = _VFS.unpack_from(answer, at + 4)
        elif kind == _USER:
            user = int.from_bytes(answer[at + 4 : at + 8], sys.byteorder)
        at += length + 3 & ~3
    return name, file, user


def _queue(answer: bytes, at: int, end: int) -> int | None:
    """Return the length of a listening socket's queue."""
    while at < end:
        length, kind = _ATTRIBUTE.unpack_from(answer, at)
        if kind == _QUEUE:
            return int.from_bytes(answer[at + 4 : at + 8], sys.byteorder)
        at += length + 3 & ~3
    return None


def _read_table(table: Path) -> Iterator[_Row]:
    """Yield each bound socket, those among them that wait to be accepted."""
    for line in table.read_bytes().splitlines():
        columns = line.split(None, 7)
        if len(columns) == 8 and columns[7].startswith(b"/"):
            listening = bool(int(columns[3], 16) & _LISTENING_FLAG)
            yield columns[7], listening, _NO_FILE, 0 if listening else 1
