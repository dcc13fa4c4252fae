"""PostgreSQL goes away for a while, in every way that it can, and everything that can be restarted is."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from . import control
from .cluster import Cluster
from .scenes import visited


@contextmanager
def stopped(cluster: Cluster) -> Iterator[None]:
    cluster.postgres.halt()
    yield
    cluster.postgres.resume()


@contextmanager
def frozen(cluster: Cluster) -> Iterator[None]:
    cluster.postgres.freeze()
    try:
        yield
    finally:
        cluster.postgres.thaw()


@contextmanager
def cables_pulled(cluster: Cluster) -> Iterator[None]:
    for machine in cluster.machines:
        cluster.network.link(machine.host, up=False)
    yield
    for machine in cluster.machines:
        cluster.network.link(machine.host, up=True)


@contextmanager
def swallowed(cluster: Cluster, *ways: str) -> Iterator[None]:
    """Frames vanish without a word; the nodes' links stay up."""
    for machine in cluster.machines:
        for way in ways:
            cluster.network.weather(machine.host, way, cut=True)
    yield
    for machine in cluster.machines:
        for way in ways:
            cluster.network.weather(machine.host, way)


OUTAGES: dict[str, Callable[[Cluster], AbstractContextManager[None]]] = {
    "stopped": stopped,
    "hung": frozen,
    "unplugged": cables_pulled,
    "partitioned": lambda cluster: swallowed(cluster, "sent", "received"),
    "nothing-arrives-at-the-nodes": lambda cluster: swallowed(cluster, "received"),
    "nothing-arrives-at-the-database": lambda cluster: swallowed(cluster, "sent"),
}


CONTROL_STAYS = OUTAGES.keys() - {"stopped", "hung"}  # only the nodes are cut off


@dataclass(frozen=True, slots=True)
class Outcome:
    """What visitors met during an outage and until all was applied, and how long that took after it was over."""

    outage: str
    seconds: float
    requests: int
    repeated: int
    slowest: float
    failures: list[tuple[float, str, str]]
    caught_up_seconds: float

    def __str__(self) -> str:
        return (
            f"{self.outage} for {self.seconds:.0f} s: {self.requests} requests, {len(self.failures)} failed, "
            f"{self.repeated} repeated on a closed kept connection, slowest {self.slowest * 1000:.0f} ms; caught up "
            f"{self.caught_up_seconds:.1f} s after it was over"
        )


def ride_out(cluster: Cluster, outage: str, seconds: float) -> Outcome:
    """Have an outage. A change is made meanwhile where control can, else right afterwards; returns when all applied it.

    AssertionError when a node does what it cannot know to be wanted, or does not apply the change afterwards.
    """
    hostname = f"{outage}.example.test"
    with visited(cluster) as counts:
        with OUTAGES[outage](cluster):
            if outage in CONTROL_STAYS:
                control.add_hostname("one", hostname)
            restart_what_can_be(cluster, seconds)
            assert all(machine.get(hostname)[0] == 404 for machine in cluster.machines)
        returned = time.monotonic()
        control.forget_connections()
        if outage not in CONTROL_STAYS:
            control.add_hostname("one", hostname)
        cluster.converge()
        caught_up = time.monotonic() - returned
    assert all(machine.serves(hostname, "one") for machine in cluster.machines)
    return Outcome(
        outage,
        seconds,
        sum(count.requests for count in counts),
        sum(count.repeated for count in counts),
        max(count.slowest for count in counts),
        [failure for count in counts for failure in count.failures],
        caught_up,
    )


def restart_what_can_be(cluster: Cluster, seconds: float) -> None:
    """Spend the outage: agents killed and started, nginx reloaded and replaced."""
    begun = time.monotonic()
    time.sleep(seconds / 8)
    for machine in cluster.machines:
        machine.restart_agent()
    for machine in cluster.machines:
        machine.reload_nginx()
        machine.replace_nginx()
    time.sleep(max(begun + seconds - time.monotonic(), 0.0))
