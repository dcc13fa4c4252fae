"""The uWSGI emperor: woken by reading its stats socket, which also says what it runs."""

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from tenantry.node.config import Config
from tenantry.node.effects.files import remove, set_link
from tenantry.node.errors import EmperorUnavailable
from tenantry.node.layout import Layout, parse_vassal
from tenantry.node.probes import entries, serving_generation
from tenantry.node.upstream import WAKE_TARGETS, read_upstream
from tenantry.node.vassal import adopt_orphans

RUN_UWSGI = "import pyuwsgi,sys; pyuwsgi.run(sys.argv[1:])"

ANSWER_SECONDS = 3.0  # the emperor answers within milliseconds, except while it forks many vassals


@dataclass(frozen=True, slots=True)
class EmperorState:
    """The files the emperor runs, and those it gave up for a while because their processes keep ending.

    `times` are the files' modification times as it knows them, in whole seconds: it starts a process anew when the
    file's grows past that, and only then. `pid` is the emperor's process, `pids` are those it runs.
    """

    running: frozenset[str]
    blacklisted: frozenset[str]
    times: Mapping[str, int] = field(default_factory=dict)
    pid: int = 0
    pids: frozenset[int] = frozenset()


def become_emperor(config: Config) -> NoReturn:
    """Become the uWSGI emperor, in this process's place.

    When an emperor ends, its processes end with it. Those of sites on demand are not all started anew at once, which
    would take a machine with a thousand of them minutes: each begins asleep, and the first who visits it wakes it.
    """
    let_all_sleep(config.layout)
    adopt_orphans()  # what a vassal that ended leaves behind is found among the emperor's children: see `leftovers`
    ini = str(config.layout.etc / "emperor.ini")
    os.execv(sys.executable, [sys.executable, "-c", RUN_UWSGI, "--ini", ini])  # noqa: S606


def let_all_sleep(layout: Layout) -> None:
    """Take the inis of sites on demand away while no emperor runs. A site that always runs keeps its own."""
    for name in entries(layout.vassals):
        parsed = parse_vassal(name)
        if parsed is None or not layout.parked(*parsed).exists():
            continue
        directory = layout.site(parsed[0])
        upstream = read_upstream(directory)
        if (upstream.asleep, upstream.generation) == (False, parsed[1]):
            set_link(upstream.path, WAKE_TARGETS[upstream.protocol])
        if serving_generation(directory) == (True, parsed[1]):  # else it is one that the agent was trying
            remove(layout.vassals / name)


async def wake_emperor(stats_socket: Path) -> bool:
    """Make the emperor scan its directory at once; False when it does not answer: it scans every 5 s by itself.

    Of 10,000 vassals the answer is 4 MB: it is taken and not looked at.
    """
    try:
        await _read(stats_socket)
    except (OSError, TimeoutError):
        return False
    return True


async def ask_emperor(stats_socket: Path) -> EmperorState:
    """Return the emperor's own list; reading it also makes the emperor scan its directory at once.

    `EmperorUnavailable` when it does not answer within 3 s.
    """
    try:
        # A vassal that is just going may be listed under a name that is none any more.
        document = json.loads((await _read(stats_socket)).decode(errors="replace"), strict=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise EmperorUnavailable(f"the uWSGI emperor does not answer on {stats_socket}: {error}") from error
    return EmperorState(
        running=frozenset(vassal["id"] for vassal in document["vassals"]),
        blacklisted=frozenset(vassal["id"] for vassal in document["blacklist"]),
        times={vassal["id"]: int(vassal["last_mod"]) for vassal in document["vassals"]},
        pid=int(document["pid"]),
        pids=frozenset(int(vassal["pid"]) for vassal in document["vassals"]),
    )


async def _read(stats_socket: Path) -> bytes:
    async with asyncio.timeout(ANSWER_SECONDS):
        reader, writer = await asyncio.open_unix_connection(str(stats_socket))
        try:
            return await reader.read(-1)
        finally:
            writer.close()
