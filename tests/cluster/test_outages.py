"""PostgreSQL is away, hangs, or cannot be reached: visitors notice nothing, and afterwards nodes catch up."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from cluster_lab import Cluster, busy_cluster, control, visited, wait_until

CAUGHT_UP_SECONDS = 10.0
NOTICED_SECONDS = 5.0
LENGTHS = [pytest.param(8.0, id="8s"), pytest.param(60.0, id="60s", marks=pytest.mark.long)]


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


OUTAGES = {
    "stopped": stopped,
    "hung": frozen,
    "unplugged": cables_pulled,
    "partitioned": lambda cluster: swallowed(cluster, "sent", "received"),
    "nothing-arrives-at-the-nodes": lambda cluster: swallowed(cluster, "received"),
    "nothing-arrives-at-the-database": lambda cluster: swallowed(cluster, "sent"),
}


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


@pytest.mark.parametrize("seconds", LENGTHS)
@pytest.mark.parametrize("outage", OUTAGES)
def test_visitors_notice_no_outage(make_cluster: Callable[[int], Cluster], outage: str, seconds: float) -> None:
    cluster = busy_cluster(make_cluster(2))
    if outage in ("stopped", "hung"):
        pending = None
    else:
        pending = "while.example.test"
    with visited(cluster) as counts:
        with OUTAGES[outage](cluster):
            if pending:
                control.add_hostname("one", pending)  # control and its database are fine: only the nodes are cut off
            restart_what_can_be(cluster, seconds)
            if pending:
                assert not any(machine.serves("one.localhost", "two") for machine in cluster.machines)
                assert all(machine.get(pending)[0] == 404 for machine in cluster.machines)
        returned = time.monotonic()
        control.forget_connections()
        if not pending:
            control.add_hostname("one", "after.example.test")
        cluster.converge()
        caught_up = time.monotonic() - returned
    assert all(machine.serves(pending or "after.example.test", "one") for machine in cluster.machines)
    requests, repeated = sum(c.requests for c in counts), sum(c.repeated for c in counts)
    print(
        f"{outage} for {seconds:.0f} s: {requests} requests, {sum(len(c.failures) for c in counts)} failed, {repeated} "
        f"repeated on a closed kept connection, slowest {max(c.slowest for c in counts) * 1000:.0f} ms; caught up "
        f"{caught_up:.1f} s after it was over"
    )
    assert [failure for count in counts for failure in count.failures] == []
    assert requests > 2 * seconds * 20
    assert caught_up <= CAUGHT_UP_SECONDS


def test_a_half_open_connection_is_noticed(make_cluster: Callable[[int], Cluster]) -> None:
    cluster = busy_cluster(make_cluster(2))
    machine = cluster.machines[0]
    said = len(machine.output("agent"))
    # Just after a sign of life: the longest wait until the next one is due.
    contact = cluster.sql("SELECT last_contact FROM node WHERE name = %s", machine.name)
    wait_until(lambda: cluster.sql("SELECT last_contact FROM node WHERE name = %s", machine.name) != contact)
    with swallowed(cluster, "sent", "received"):
        begun = time.monotonic()
        wait_until(lambda: "WARNING tenantry.node" in machine.output("agent")[said:], 30)
        noticed = time.monotonic() - begun
    print(f"half-open connection noticed after {noticed:.1f} s")
    assert noticed <= NOTICED_SECONDS


def test_one_node_cut_off_does_not_hold_up_the_others(make_cluster: Callable[[int], Cluster]) -> None:
    cluster = busy_cluster(make_cluster(2))
    away, here = cluster.machines
    cluster.network.storm(away.host, cut=True)
    control.add_hostname("two", "new.example.test")
    applied = cluster.converge(here)
    print(f"applied in {applied:.3f} s on the node that is reached")
    assert here.serves("new.example.test", "two")
    assert away.get("new.example.test")[0] == 404
    assert away.serves("two.localhost", "two")
    cluster.network.storm(away.host)
    assert cluster.converge() <= CAUGHT_UP_SECONDS


BAD_WEATHER = {
    "5 % of packets lost": {"loss": 0.05},
    "200 ms each way": {"delay_seconds": 0.2},
    "both": {"loss": 0.05, "delay_seconds": 0.2},
}


@pytest.mark.parametrize("weather", BAD_WEATHER)
def test_nodes_converge_in_bad_weather(make_cluster: Callable[[int], Cluster], weather: str) -> None:
    cluster = busy_cluster(make_cluster(2))
    for machine in cluster.machines:
        cluster.network.storm(machine.host, **BAD_WEATHER[weather])
    measured = []
    for number in range(8):
        control.add_hostname("one", f"n{number}.example.test")
        measured.append(cluster.converge())
    control.create_site("four")
    new_site = cluster.converge()
    assert all(machine.serves("n7.example.test", "one") for machine in cluster.machines)
    assert all(machine.serves("four.localhost", "four") for machine in cluster.machines)
    dropped = sum(
        way["dropped"] for machine in cluster.machines for way in cluster.network.counts(machine.host).values()
    )
    measured.sort()
    print(
        f"{weather}: hostname on 2 nodes {measured[len(measured) // 2]:.2f} s, slowest {measured[-1]:.2f} s, "
        f"new site {new_site:.2f} s ({dropped} frames lost)"
    )
    assert len(cluster.digests()) == 1
    assert ("lost" in weather or "both" in weather) == (dropped > 0)
