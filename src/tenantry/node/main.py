"""The command line of the node. Builds everything and connects it; decides nothing."""

import argparse
import asyncio
import importlib.metadata
import logging
import os
import secrets
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tenantry.node.command import run_command
from tenantry.node.config import Config, read_config
from tenantry.node.effects.emperor import become_emperor
from tenantry.node.effects.host import LocalHost
from tenantry.node.effects.leftovers import Leftovers
from tenantry.node.effects.limits import SiteLimits, remove_groups
from tenantry.node.effects.logs import trim_for_ever
from tenantry.node.effects.processors import ProcessorGroups
from tenantry.node.effects.releases import Releases
from tenantry.node.effects.spooling import watch_room
from tenantry.node.errors import NodeError
from tenantry.node.fairness import FairShare
from tenantry.node.gate import ConnectGate
from tenantry.node.keeper import ReleaseKeeper
from tenantry.node.limiter import Limiter
from tenantry.node.listener import Listener
from tenantry.node.memory import LastKnown
from tenantry.node.prepare import prepare, remove_leftovers
from tenantry.node.reconciler import Reconciler
from tenantry.node.servers import Servers, Timeline, watch_for_promotions
from tenantry.node.standby.main import run_standby
from tenantry.node.status import NodeStatus
from tenantry.node.store import PROGRAM, Line, Store
from tenantry.node.twins import watch_for_twins
from tenantry.sealing import SealError
from tenantry.spec.errors import InvalidName
from tenantry.spec.names import parse_slug

logger = logging.getLogger(__name__)

EXIT_FAILED = 1
EXIT_USAGE = 2
STARTS_PER_CPU = 2  # vassals loading their application at the same time


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (0 ok, 1 failed, 2 usage)."""
    options = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        config = read_config(options.config)
        if options.command == "prepare":
            prepare(config)
        elif options.command == "clean":
            return _clean(config)
        elif options.command == "run":
            asyncio.run(run_agent(config))
        elif options.command == "emperor":
            become_emperor(config)
        elif options.command == "standby":
            asyncio.run(run_standby(config))
        else:
            run_command(config, parse_slug(options.slug), _without_dashes(options.argv))
    except InvalidName as error:
        print(f"tenantry.node: {error.field}: {error.message}", file=sys.stderr)
        return EXIT_USAGE
    except (NodeError, SealError, OSError) as error:
        print(f"tenantry.node: {error}", file=sys.stderr)
        return EXIT_FAILED
    return 0


def _clean(config: Config) -> int:
    """Remove what is not in the home: the control groups of its sites, when none of their processes is left."""
    left = asyncio.run(remove_groups(config.layout))
    if left:
        print(f"tenantry.node: processes are still in {', '.join(left)}", file=sys.stderr)
    return EXIT_FAILED if left else 0


async def run_agent(config: Config) -> None:
    """Run the agent until SIGTERM or SIGINT. Sites go on serving without it."""
    agent = f"{PROGRAM}/{config.node}/"
    instance = f"{agent}{secrets.token_hex(4)}"
    remove_leftovers(config.layout)
    database = _Database(config.dsn, instance)
    store = database.store
    memory = LastKnown(config.layout.state)
    releases = Releases(config)
    host = LocalHost(config, releases)
    host.scan()  # before anything is worked on: a site is not taken away before the names that lead to it are known
    reconciler = Reconciler(
        store,
        host,
        memory,
        NodeStatus(importlib.metadata.version("tenantry")),
        starts_at_once=STARTS_PER_CPU * (os.cpu_count() or 1),
        clock=time.monotonic,
    )
    reconciler.restore(memory.load())
    processors = ProcessorGroups(config.layout)
    limits = SiteLimits(config, lambda: processors.giving_way)
    listener = Listener(
        database.listening, lambda hint: reconciler.hear(hint.epoch, hint.revision), _Observer(store, reconciler)
    )
    stopped = _stop_asked()
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(reconciler.run(), name="reconciler"),
            group.create_task(listener.run(), name="listener"),
            group.create_task(watch_for_twins(store, agent, instance, reconciler.same_node_twice), name="twins"),
            group.create_task(
                watch_for_promotions(database.servers, store.timeline, database.timeline_of), name="servers"
            ),
            group.create_task(host.flusher.run(), name="flusher"),
            group.create_task(
                Limiter(limits, reconciler.specs, reconciler.limits, clock=time.monotonic).run(), name="limits"
            ),
            group.create_task(
                FairShare(processors, len(os.sched_getaffinity(0)), clock=time.monotonic).run(), name="processors"
            ),
            group.create_task(trim_for_ever(config.layout), name="logs"),
            group.create_task(watch_room(config.layout), name="spooling"),
            group.create_task(Leftovers(config.layout).run(), name="leftovers"),
            group.create_task(ReleaseKeeper(releases, reconciler.releases).run(), name="releases"),
        ]
        logger.info("the agent of %s runs for %s", config.node, config.home)
        await stopped.wait()
        for task in tasks:
            task.cancel()
    reconciler.finish()
    host.flusher.flush()
    database.close()
    logger.info("the agent stopped")


class _Database:
    """The agent's two lines to the platform's database, and a look at its other servers."""

    def __init__(self, dsn: str, name: str) -> None:
        self._gate = ConnectGate()
        self._name = name
        self.servers = Servers(dsn)
        self.listening = Line(self.servers, self._gate, name=name)
        self.store = Store(Line(self.servers, self._gate, name=name))

    async def timeline_of(self, number: int) -> Timeline:
        """Return where one of the servers stands."""
        other = Store(Line(self.servers.only(number), self._gate, name=self._name))
        try:
            return await other.timeline()
        finally:
            other.close()

    def close(self) -> None:
        self.listening.drop()
        self.store.close()


@dataclass(frozen=True, slots=True)
class _Observer:
    """Connects what the listener learns with those whom it concerns."""

    store: Store
    reconciler: Reconciler

    async def echo(self) -> None:
        await self.store.echo()

    def notifications(self, arrive: bool) -> None:
        self.reconciler.notifications(arrive)

    def clock_ahead(self, seconds: float) -> None:
        self.reconciler.clock_ahead(seconds)


def _stop_asked() -> asyncio.Event:
    """Return what is set when somebody asks this process to end."""
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    return stopped


def _without_dashes(argv: list[str]) -> list[str]:
    return argv[1:] if argv[:1] == ["--"] else argv


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tenantry.node", description="The agent of a node.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("prepare", "make the directories, nginx.conf, emperor.ini and the emperor's wrapper"),
        ("run", "keep this node's sites as the database says"),
        ("emperor", "become the uWSGI emperor; sites on demand begin asleep"),
        ("standby", "answer visitors in place of sites that may not"),
        ("clean", "remove the control groups of sites; for when nothing of the home runs"),
        ("exec", "run a command in a site's environment, as the site's user"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--config", type=Path, required=True, metavar="AGENT_JSON")
        if name == "exec":
            command.add_argument("slug")
            command.add_argument("argv", nargs=argparse.REMAINDER, metavar="-- COMMAND …")
    return parser
