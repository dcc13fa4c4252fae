"""PostgreSQL is away, hangs, or cannot be reached: visitors notice nothing, and afterwards nodes catch up."""

import time
from collections.abc import Callable

import pytest
from cluster_lab import OUTAGES, Cluster, busy_cluster, control, ride_out, wait_until

CAUGHT_UP_SECONDS = 10.0
NOTICED_SECONDS = 5.0
LENGTHS = [pytest.param(8.0, id="8s"), pytest.param(60.0, id="60s", marks=pytest.mark.long)]


@pytest.mark.parametrize("seconds", LENGTHS)
@pytest.mark.parametrize("outage", OUTAGES)
def test_visitors_notice_no_outage(make_cluster: Callable[[int], Cluster], outage: str, seconds: float) -> None:
    cluster = busy_cluster(make_cluster(2))
    outcome = ride_out(cluster, outage, seconds)
    print(outcome)
    assert outcome.failures == []
    assert outcome.requests > 2 * seconds * 20
    assert outcome.caught_up_seconds <= CAUGHT_UP_SECONDS


def test_a_half_open_connection_is_noticed(make_cluster: Callable[[int], Cluster]) -> None:
    cluster = busy_cluster(make_cluster(2))
    machine = cluster.machines[0]
    said = len(machine.output("agent"))
    # Just after a sign of life: the longest wait until the next one is due.
    contact = cluster.sql("SELECT last_contact FROM node WHERE name = %s", machine.name)
    wait_until(lambda: cluster.sql("SELECT last_contact FROM node WHERE name = %s", machine.name) != contact)
    with OUTAGES["partitioned"](cluster):
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
