"""The kernel's table of unix sockets: who listens below `run/sites`, and how many connections each has.

Asked through sock_diag, the kernel also says which file each socket was bound to: a socket moved to another site's
place, or made anew under the same name, is another file. And whose it is: a tenant that mounts a directory of its own
over another site's, in a mount namespace, binds a path of the same name. Every listener of a site was made by the user
the agent runs as. Where sock_diag is not to be had, `/proc/net/unix` says the rest.
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
_DONE, _ERROR = 3, 2
_SHOW_NAME, _SHOW_FILE, _SHOW_USER = 1, 2, 0x40
_NAME, _FILE, _USER = 0, 1, 7  # UNIX_DIAG_NAME, UNIX_DIAG_VFS, UNIX_DIAG_UID
_ESTABLISHED, _LISTEN = 1, 10  # the states of TCP, which unix sockets borrow
_REQUEST = struct.Struct("=IHHIIBBHIIIII")
_HEADER = struct.Struct("=IHHIIBBBB")  # the message's header, then family, type, state, padding
_FIRST_ATTRIBUTE = 32
_ATTRIBUTE = struct.Struct("=HH")
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

    A connection made to a listening socket carries its path, also before the process accepted it: the count is the
    number of requests on their way.
    """
    prefix = f"{sites}/".encode()
    try:
        return _collect(prefix, _ask_kernel(), with_files=True)
    except OSError:
        return _collect(prefix, _read_table(Path("/proc/net/unix")), with_files=False)


def _collect(prefix: bytes, rows: Iterator[tuple[bytes, bool, int]], *, with_files: bool) -> Sockets:
    found = Sockets(files={} if with_files else None)
    for path, listening, inode in rows:
        if not path.startswith(prefix):
            continue
        site, _, name = os.fsdecode(path[len(prefix) :]).partition("/")
        number = name.removesuffix(".sock")
        if not number.isdecimal():
            continue
        slug, generation = Slug(site), int(number)
        if listening:
            found.listening.setdefault(slug, set()).add(generation)
            if found.files is not None:
                found.files.setdefault((slug, generation), set()).add(inode)
        else:
            counts = found.connections.setdefault(slug, {})
            counts[generation] = counts.get(generation, 0) + 1
    return found


def _ask_kernel() -> Iterator[tuple[bytes, bool, int]]:
    """Yield path, whether it listens, and the file's inode of each bound socket; `OSError` without sock_diag."""
    states = 1 << _LISTEN | 1 << _ESTABLISHED
    size, own = _REQUEST.size, os.geteuid()
    request = _REQUEST.pack(
        size, _SOCK_DIAG_BY_FAMILY, _REQUEST_DUMP, 1, 0,
        socket.AF_UNIX, 0, 0, states, 0, _SHOW_NAME | _SHOW_FILE | _SHOW_USER, 0xFFFFFFFF, 0xFFFFFFFF,
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
                name, inode, user = _attributes(answer, at + _FIRST_ATTRIBUTE, at + length)
                listening = state == _LISTEN
                if name and not (listening and user not in (own, None)):
                    yield name, listening, inode
                at += length + 3 & ~3


def _attributes(answer: bytes, at: int, end: int) -> tuple[bytes, int, int | None]:
    """Return name, inode of the file and user; kernels before 5.3 do not tell the user."""
    name, inode, user = b"", 0, None
    while at < end:
        length, kind = _ATTRIBUTE.unpack_from(answer, at)
        if kind == _NAME:
            name = answer[at + 4 : at + length].rstrip(b"\0")
        elif kind == _FILE:
            inode = int.from_bytes(answer[at + 4 : at + 8], sys.byteorder)
        elif kind == _USER:
            user = int.from_bytes(answer[at + 4 : at + 8], sys.byteorder)
        at += length + 3 & ~3
    return name, inode, user


def _read_table(table: Path) -> Iterator[tuple[bytes, bool, int]]:
    for line in table.read_bytes().splitlines():
        columns = line.split(None, 7)
        if len(columns) == 8 and columns[7].startswith(b"/"):
            yield columns[7], bool(int(columns[3], 16) & _LISTENING_FLAG), 0
