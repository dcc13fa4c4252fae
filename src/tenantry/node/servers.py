"""The servers that the agent's connection string names: which of them its lines use, and when they go to another.

All lines of an agent use one server, so that what is heard and what is read are of one database. They go to the next
one when theirs does not let them in, is not writable any more, or when another was promoted after it.
"""

import asyncio
import copy
import logging
import random
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

from psycopg.conninfo import conninfo_to_dict

from tenantry.node.errors import StoreUnavailable

logger = logging.getLogger(__name__)

FIRST_LOOK_SECONDS = 10.0
LOOK_SECONDS = 30.0  # each costs another server a login, of every node
LOOK_JITTER = 0.25
_PER_SERVER = ("host", "hostaddr", "port")


class Timeline(NamedTuple):
    """Where a server stands: its system's identifier, and the timeline it writes, in words that sort as they follow."""

    system: str
    timeline: str


class Servers:
    """The servers, numbered in the order of the connection string. One object for all lines of an agent."""

    def __init__(self, dsn: str) -> None:
        self._each = split_servers(dsn)
        self.current = 0

    def __len__(self) -> int:
        return len(self._each)

    def in_order(self) -> list[int]:
        """Return the order in which to try them: the one in use first."""
        return [(self.current + number) % len(self) for number in range(len(self))]

    def only(self, number: int) -> "Servers":
        """Return this server alone."""
        alone = copy.copy(self)
        alone._each, alone.current = [self._each[number]], 0
        return alone

    def use(self, number: int) -> None:
        """Have every line use this server; one that uses another leaves it with its next call."""
        self.current = number

    def name(self, number: int) -> str:
        parameters = self._each[number]
        return str(parameters.get("host") or parameters.get("hostaddr") or "the local server")

    async def addresses(self, number: int) -> list[Mapping[str, Any]]:
        """Return the parameters of one attempt to connect for each address of the server; `OSError` without any.

        Left to libpq or psycopg, a name with several addresses would be several attempts that nobody counts.
        """
        parameters = self._each[number]
        host = str(parameters.get("host") or "")
        if not host or host.startswith("/") or parameters.get("hostaddr"):
            return [parameters]
        found = await asyncio.get_running_loop().getaddrinfo(
            host, int(parameters.get("port") or 5432), type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
        )
        return [{**parameters, "hostaddr": address[0]} for *_, address in found]


def split_servers(dsn: str) -> Sequence[Mapping[str, Any]]:
    """Return the parameters for each server of a connection string, as libpq numbers them.

    An agent writes, so of several servers only a writable one will do, whether the string says so or not.
    """
    parameters = conninfo_to_dict(dsn)
    lists = {name: str(parameters[name]).split(",") for name in _PER_SERVER if parameters.get(name)}
    count = max((len(lists.get(name, ())) for name in ("host", "hostaddr")), default=1)
    if count <= 1:
        return [parameters]
    if any(len(values) not in ({1, count} if name == "port" else {count}) for name, values in lists.items()):
        return [parameters]  # libpq says what is wrong
    common = {"target_session_attrs": "read-write"} | {k: v for k, v in parameters.items() if k not in _PER_SERVER}
    return [
        common | {name: values[number if len(values) > 1 else 0] for name, values in lists.items()}
        for number in range(count)
    ]


async def watch_for_promotions(
    servers: Servers,
    own: Callable[[], Awaitable[Timeline]],
    other: Callable[[int], Awaitable[Timeline]],
    *,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    jitter: Callable[[], float] = random.random,
) -> None:
    """Go for ever to a server that was promoted after the one in use.

    A former primary that was cut off from the others, but not from this node, goes on taking writes: nothing on its
    own connection tells that another took over. A promotion begins a new timeline of the same system, and the later
    one is right. Two systems that have nothing to do with each other are left to a person.
    """
    seconds = FIRST_LOOK_SECONDS
    while len(servers) > 1:
        await sleep(seconds * (1 - LOOK_JITTER * jitter()))
        seconds = LOOK_SECONDS
        try:
            system, timeline = await own()
        except StoreUnavailable:
            continue  # the lines look for another by themselves
        used = servers.current
        for number in servers.in_order()[1:]:
            try:
                its_system, its_timeline = await other(number)
            except StoreUnavailable:
                continue  # away, or a standby
            if its_system != system:
                logger.warning(
                    "%s holds another database than %s: not followed", servers.name(number), servers.name(used)
                )
            elif its_timeline > timeline and servers.current == used:
                logger.warning("%s was promoted after %s: followed", servers.name(number), servers.name(used))
                servers.use(number)
