"""What many tests begin with: a cluster that serves, and visitors on all of it."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from . import control
from .cluster import Cluster
from .machine import Machine, wait_until
from .visitors import Count

SITES = ("one", "two", "three")


def busy_cluster(cluster: Cluster) -> Cluster:
    """Give the cluster a few sites; returns it when they serve everywhere and the nodes remember them."""
    for slug in SITES:
        control.create_site(slug)
    cluster.converge()
    for machine in cluster.machines:
        wait_until(lambda machine=machine: remembers(machine, cluster.revision()), what="the state on disk")
    return cluster


def remembers(machine: Machine, revision: int) -> bool:
    """Whether the state on the machine's disk is that of `revision`."""
    head = machine.home / "state" / "head.json"
    return head.exists() and f'"revision": {revision}' in head.read_text()


@contextmanager
def visited(cluster: Cluster) -> Iterator[list[Count]]:
    """Visitors of every node ask all the while; afterwards the list holds what they met."""
    counts: list[Count] = []
    hostnames = [f"{slug}.localhost" for slug in SITES]
    with ExitStack() as stack:
        visitors = [stack.enter_context(machine.visitors(*hostnames)) for machine in cluster.machines]
        yield counts
    counts += [one.count for one in visitors]
