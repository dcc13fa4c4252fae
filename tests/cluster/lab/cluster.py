"""A platform of several machines: one PostgreSQL, control in this process, nodes, and what each of them has said."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tenantry.testing.control import DATABASE

from . import control
from .database import HostedPostgres
from .machine import APPLICATION, Machine, build_release, wait_until
from .network import Host, Network, network

CONVERGE_SECONDS = 20.0


@dataclass
class Cluster:
    """`golden` is the data directory that servers begin with. The machines' clocks are one clock."""

    network: Network
    golden: Path
    postgres: HostedPostgres
    machines: list[Machine]
    release: Path

    def add_machine(self, *others: Host, code: Path | None = None) -> Machine:
        """Add a node that runs; `others` are hosts that may have the database instead, `code` see `Machine`."""
        number = len(self.machines) + 1
        membership = control.join(self.postgres, number)
        host, home = self.network.host(membership.name), self.network.scratch / f"n{number}"
        machine = Machine(host, home, membership, self.postgres.dsn_for(membership.role, *others), code)
        releases = machine.home / "releases"
        subprocess.run(["cp", "-a", str(self.release), str(releases / control.RELEASE)], check=True, timeout=60)
        machine.start()
        self.machines.append(machine)
        return machine

    # What the nodes have said

    def sql(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Ask the control database as its superuser, over a connection of its own."""
        with self.postgres.connect(DATABASE) as connection:
            cursor = connection.execute(query, parameters)  # type: ignore[call-overload]
            return list(cursor.fetchall()) if cursor.description else []

    def revision(self) -> int:
        return int(self.sql("SELECT revision FROM platform_state")[0][0])

    def conditions(self, machine: Machine) -> dict[str, str]:
        """Return what the node says is wrong: messages by type."""
        rows = self.sql("SELECT conditions FROM node WHERE name = %s", machine.name)
        return {condition["type"]: condition["message"] for condition in rows[0][0]}

    def has_applied(self, machine: Machine, revision: int) -> bool:
        """Whether the node has said that everything up to `revision` is served as desired."""
        return bool(
            self.sql(
                "SELECT 1 FROM node WHERE name = %s AND revision >= %s AND NOT EXISTS ("
                "SELECT 1 FROM node_site WHERE node_id = node.name AND state <> 'serving')",
                machine.name,
                revision,
            )
        )

    def converge(self, *machines: Machine, seconds: float = CONVERGE_SECONDS) -> float:
        """Wait until the nodes (all of them by default) have applied everything; returns the seconds that took."""
        begun, revision = time.monotonic(), self.revision()
        for machine in machines or self.machines:
            try:
                wait_until(lambda machine=machine: self.has_applied(machine, revision), seconds)
            except AssertionError:
                said = self.sql("SELECT * FROM node_site WHERE node_id = %s AND state <> 'serving'", machine.name)
                node = self.sql("SELECT revision, last_contact, conditions FROM node WHERE name = %s", machine.name)
                raise AssertionError(
                    f"{machine.name} has not applied {revision} in {seconds} s: {node}, {said}\n"
                    f"{machine.output('agent')[-4000:]}\n{machine.output('emperor')[-1000:]}"
                ) from None
        return time.monotonic() - begun

    def epoch(self) -> str:
        return str(self.sql("SELECT platform_epoch()")[0][0])

    def epochs_of_nodes(self) -> set[str]:
        """Return the epochs in which the nodes say they are."""
        return {str(row[0]) for row in self.sql("SELECT epoch FROM node")}

    def digests(self) -> set[str]:
        """Return what the nodes say they serve: one digest when they agree."""
        return {row[0] for row in self.sql("SELECT digest FROM node")}


@contextmanager
def cluster(golden: Path, nodes: int, application: str = APPLICATION) -> Iterator[Cluster]:
    """A cluster whose nodes run and serve nothing yet."""
    with network() as made:
        postgres = HostedPostgres(made.host("db"), made.scratch / "pg", golden)
        postgres.use()
        control.add_project()
        release = made.scratch / "release"
        build_release(release, control.RELEASE, application)
        running = Cluster(made, golden, postgres, [], release)
        for _ in range(nodes):
            running.add_machine()
        try:
            yield running
        finally:
            control.forget_connections()
