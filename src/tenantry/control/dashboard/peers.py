"""Whose program is at the other end of a connection within this machine."""

import ipaddress
import sys
from pathlib import Path

ESTABLISHED = "01"
TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))


def peer_uid(client: tuple[str, int], server: tuple[str, int]) -> int | None:
    """Return the uid of the process whose end of a connection is `client`; None when that is not known.

    Only open connections count: one that its program has closed or half closed is root's in the kernel's table, so a
    program could pass for root's. Another machine's connections are not in the table.
    """
    for table in TABLES:
        try:
            ends = {(_end(*client, wide=wide), _end(*server, wide=wide)) for wide in (False, True)}
            lines = table.read_text("ascii").splitlines()[1:]
        except (OSError, ValueError):
            continue
        for line in lines:
            columns = line.split()
            if columns[3] == ESTABLISHED and (columns[1], columns[2]) in ends:
                return int(columns[7])
    return None


def _end(host: str, port: int, *, wide: bool) -> str:
    """An address as the kernel writes it: words of 32 bits in the machine's byte order, then the port."""
    address = ipaddress.ip_address(host)
    packed = address.packed
    if wide and address.version == 4:
        packed = bytes(10) + b"\xff\xff" + packed  # an IPv4 connection of a socket made for IPv6
    words = (packed[start : start + 4] for start in range(0, len(packed), 4))
    return "".join(f"{int.from_bytes(word, sys.byteorder):08X}" for word in words) + f":{port:04X}"
