"""The database is another one than before: a promoted replica, a restored backup, an emptied table.

Nodes notice by the epoch, and never take for a wish what is a loss.
"""

import json
import re
import time
from collections.abc import Callable

import pytest
from cluster_lab import SITES, Cluster, HostedPostgres, Machine, busy_cluster, control, remembers, visited, wait_until

TOKEN = re.compile(r"\b[0-9a-f]{8}$")


def pids(cluster: Cluster) -> dict[str, int]:
    """Return the process of each site on each node: who is restarted has another one."""
    return {
        f"{slug} on {machine.name}": json.loads(machine.get(f"{slug}.localhost")[1])["pid"]
        for machine in cluster.machines
        for slug in SITES
    }


def with_standby(make_cluster: Callable[[int], Cluster]) -> tuple[Cluster, HostedPostgres]:
    """A cluster of two nodes that know two servers: the primary and its streaming standby."""
    cluster = make_cluster(0)
    host = cluster.network.host("standby")
    for _ in range(2):
        cluster.add_machine(host)
    standby = cluster.postgres.replica(host, cluster.network.scratch / "standby")
    return busy_cluster(cluster), standby


def fail_over(cluster: Cluster, standby: HostedPostgres) -> HostedPostgres:
    """Crash the primary, promote the standby; returns the old primary."""
    old = cluster.postgres
    if old.process.poll() is None:
        old.crash()
    standby.promote()
    standby.take_over()
    cluster.postgres = standby
    return old


def says(cluster: Cluster, machine: Machine, condition: str) -> str:
    """Wait until the node reports the condition; return its message."""
    wait_until(lambda: condition in cluster.conditions(machine), what=f"{condition} from {machine.name}")
    return cluster.conditions(machine)[condition]


def test_failover_to_a_promoted_replica(make_cluster: Callable[[int], Cluster]) -> None:
    cluster, standby = with_standby(make_cluster)
    control.add_hostname("one", "before.example.test")
    cluster.converge()
    standby.caught_up_with(cluster.postgres)
    epoch, processes = cluster.epoch(), pids(cluster)
    with visited(cluster) as counts:
        fail_over(cluster, standby)
        promoted = time.monotonic()
        assert cluster.epoch() != epoch
        (now,) = cluster.sql("SELECT clock_timestamp()")
        wait_until(lambda: cluster.epochs_of_nodes() == {cluster.epoch()}, what="the new epoch on all nodes")
        noticed = time.monotonic() - promoted
        control.add_hostname("two", "after.example.test")
        cluster.converge()
    print(f"failover: on the promoted replica and in its epoch {noticed:.1f} s after the promotion")
    assert noticed <= 10
    # Everything was read and reported anew; nothing was restarted or lost.
    assert cluster.sql("SELECT min(reported_at) > %s FROM node_site", *now) == [(True,)]
    assert pids(cluster) == processes
    assert [failure for count in counts for failure in count.failures] == []
    for machine in cluster.machines:
        assert machine.serves("before.example.test", "one")
        assert machine.serves("after.example.test", "two")


def test_what_the_replica_never_got_is_not_taken_for_deleted(make_cluster: Callable[[int], Cluster]) -> None:
    cluster, standby = with_standby(make_cluster)
    standby.caught_up_with(cluster.postgres)
    cluster.network.storm(standby.location, cut=True)
    control.create_site("late")
    control.add_hostname("one", "late.example.test")
    cluster.converge()
    cluster.postgres.crash()
    cluster.network.storm(standby.location)
    fail_over(cluster, standby)
    for machine in cluster.machines:
        message = says(cluster, machine, "RemovalHeld")
        assert "late" in message
    wait_until(lambda: all(m.get("late.example.test")[0] == 404 for m in cluster.machines), what="the other difference")
    assert all(machine.serves("late.localhost", "late") for machine in cluster.machines)


def test_the_old_primary_that_comes_back_is_not_followed(make_cluster: Callable[[int], Cluster]) -> None:
    cluster, standby = with_standby(make_cluster)
    standby.caught_up_with(cluster.postgres)
    old = fail_over(cluster, standby)
    control.add_hostname("one", "after.example.test")
    control.create_site("late")
    cluster.converge()
    for machine in cluster.machines:
        wait_until(lambda machine=machine: remembers(machine, cluster.revision()))
    old.resume()  # it knows nothing of the promotion and takes writes; nodes try its address first
    for machine in cluster.machines:
        said = len(machine.output("agent"))
        machine.restart_agent()
        wait_until(lambda machine=machine, said=said: "refused" in machine.output("agent")[said:], what="the refusal")
    time.sleep(1)
    for machine in cluster.machines:
        assert machine.serves("after.example.test", "one")
        assert machine.serves("late.localhost", "late")
    old.halt()
    assert cluster.converge() < 10


def promoted_beside(cluster: Cluster, standby: HostedPostgres) -> HostedPostgres:
    """Promote the standby, which no longer hears the primary, while that lives and takes writes; returns the former."""
    standby.caught_up_with(cluster.postgres)
    cluster.network.storm(standby.location, cut=True)
    standby.promote()
    cluster.network.storm(standby.location)
    former = cluster.postgres
    standby.take_over()
    cluster.postgres = standby
    return former


def test_a_former_primary_that_is_made_read_only_is_left_at_once(make_cluster: Callable[[int], Cluster]) -> None:
    cluster, standby = with_standby(make_cluster)
    former = promoted_beside(cluster, standby)
    with former.connect() as connection:
        connection.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        connection.execute("SELECT pg_reload_conf()")
    fenced = time.monotonic()
    control.add_hostname("one", "after.example.test")
    cluster.converge()
    print(f"read-only: nodes were on the other server {time.monotonic() - fenced:.1f} s after")
    assert time.monotonic() - fenced <= 10
    assert all(machine.serves("after.example.test", "one") for machine in cluster.machines)


@pytest.mark.long
def test_a_former_primary_that_lives_is_left_for_the_one_promoted_after_it(
    make_cluster: Callable[[int], Cluster],
) -> None:
    cluster, standby = with_standby(make_cluster)
    processes = pids(cluster)
    with visited(cluster) as counts:
        promoted_beside(cluster, standby)
        promoted = time.monotonic()
        control.add_hostname("one", "after.example.test")
        wait_until(
            lambda: all(machine.serves("after.example.test", "one") for machine in cluster.machines),
            45,
            what="the change on the promoted server",
        )
        print(f"promoted beside a living primary: followed after {time.monotonic() - promoted:.1f} s")
    for machine in cluster.machines:  # they try the former primary's address first
        machine.restart_agent()
    restarted = time.monotonic()
    control.add_hostname("two", "again.example.test")
    wait_until(
        lambda: all(machine.serves("again.example.test", "two") for machine in cluster.machines),
        30,
        what="the promoted server after a restart",
    )
    print(f"started with the former primary first: on the promoted one after {time.monotonic() - restarted:.1f} s")
    assert pids(cluster) == processes
    assert [failure for count in counts for failure in count.failures] == []


def test_an_older_backup_is_restored(make_cluster: Callable[[int], Cluster]) -> None:
    cluster = busy_cluster(make_cluster(2))
    control.add_hostname("two", "removed-later.example.test")
    cluster.converge()
    backup = cluster.network.scratch / "backup"
    cluster.postgres.backup(backup)
    control.create_site("since")
    control.add_hostname("one", "since.example.test")
    control.remove_hostname("two", "removed-later.example.test")
    cluster.converge()
    epoch, processes = cluster.epoch(), pids(cluster)
    with visited(cluster) as counts:
        cluster.postgres.restore(backup)
        restored = time.monotonic()
        assert cluster.epoch() != epoch
        wait_until(lambda: cluster.epochs_of_nodes() == {cluster.epoch()}, what="the new epoch on all nodes")
        noticed = time.monotonic() - restored
        messages = [says(cluster, machine, "RemovalHeld") for machine in cluster.machines]
        wait_until(
            lambda: all(
                machine.serves("removed-later.example.test", "two") and machine.get("since.example.test")[0] == 404
                for machine in cluster.machines
            ),
            what="what the backup says otherwise",
        )
    print(f"restored backup: its epoch noticed {noticed:.1f} s after it could be read")
    assert noticed <= 10
    assert all("since" in message for message in messages)
    assert all(machine.serves("since.localhost", "since") for machine in cluster.machines)
    assert pids(cluster) == processes
    assert [failure for count in counts for failure in count.failures] == []
    # What is made after the restore comes as ever, and a person can have the held removal.
    control.add_hostname("three", "after.example.test")
    wait_until(lambda: all(machine.serves("after.example.test", "three") for machine in cluster.machines))
    assert all(machine.serves("since.localhost", "since") for machine in cluster.machines)
    for machine in cluster.machines:
        control.confirm(machine.name, token_in(cluster.conditions(machine)["RemovalHeld"]))
    wait_until(lambda: all(machine.get("since.localhost")[0] == 404 for machine in cluster.machines))
    wait_until(lambda: not any("RemovalHeld" in cluster.conditions(machine) for machine in cluster.machines))


LOSSES = {"emptied": "TRUNCATE site CASCADE", "shrunken": "DELETE FROM site WHERE slug LIKE 's%'"}


@pytest.mark.parametrize("loss", LOSSES)
def test_sites_that_vanish_from_the_table_are_kept(make_cluster: Callable[[int], Cluster], loss: str) -> None:
    cluster = busy_cluster(make_cluster(2))
    for number in range(4):
        control.create_site(f"s{number}")
    cluster.converge()
    processes = pids(cluster)
    with visited(cluster) as counts:
        cluster.sql("DELETE FROM hostname WHERE name LIKE 's%%'")
        cluster.sql("DELETE FROM node_secret WHERE site_number IN (SELECT number FROM site WHERE slug LIKE 's%%')")
        cluster.sql(LOSSES[loss].replace("%", "%%"))
        for machine in cluster.machines:  # else it is seen with the next full reading, within a minute
            machine.restart_agent()
        messages = {machine.name: says(cluster, machine, "MassRemovalRefused") for machine in cluster.machines}
        time.sleep(1)
        for machine in cluster.machines:
            assert all(machine.serves(f"s{number}.localhost", f"s{number}") for number in range(4))
    assert pids(cluster) == processes
    assert [failure for count in counts for failure in count.failures] == []
    # A wrong confirmation changes nothing; the right one lets the removal through.
    cluster.sql("UPDATE node SET confirmed = '00000000'")
    control.add_release_request()
    time.sleep(1)
    assert all(machine.serves("s0.localhost", "s0") for machine in cluster.machines)
    for name, message in messages.items():
        control.confirm(name, token_in(message))
    begun = time.monotonic()
    wait_until(
        lambda: all(machine.get(f"s{n}.localhost")[0] == 404 for machine in cluster.machines for n in range(4)),
        what="the confirmed removal",
    )
    print(f"{loss}: refused by both nodes; confirmed, the removal was done after {time.monotonic() - begun:.1f} s")
    kept = loss == "shrunken"
    assert all(
        machine.get(f"{slug}.localhost")[0] == (200 if kept else 404) for machine in cluster.machines for slug in SITES
    )
    wait_until(lambda: not any("MassRemovalRefused" in cluster.conditions(machine) for machine in cluster.machines))


def token_in(message: str) -> str:
    found = TOKEN.search(message)
    assert found, message
    return found[0]
