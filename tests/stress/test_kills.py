"""kill -9 of the agent, the emperor and nginx at random moments while changes are applied."""

import os
import signal
import time
from dataclasses import dataclass, field

import pytest
from node_lab import Node, wait_until
from stress_world import Visitors, World

BURST = 5  # kills between two rests in which the node has to converge
IDLE_SECONDS = 1  # sites on demand fall asleep and wake all the time
ASKED_PART = 0.2  # of the sites on demand, after each kill
AWAKE_SECONDS = 3_600
CONVERGED_SECONDS = 10.0  # promised, from the last start of the agent


@dataclass
class Kills:
    """What was found after the kills."""

    kills: int = 0
    changes: int = 0
    left_staged: int = 0  # kills in the middle of writing: the file that was being made still lies there
    torn: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)  # from the last start to convergence


def kill_at_random(world: World, kills: int, changes: int) -> Kills:
    """Kill the agent `kills` times while `changes` changes are made, and look at the node after every kill."""
    found = Kills()
    world.node.stop("agent", signal.SIGKILL)
    while found.kills < kills:
        for _ in range(min(BURST, kills - found.kills)):
            world.node.start_agent()
            each = changes * (found.kills + 1) // kills - found.changes
            _change_and_wait(world, each)
            found.changes += each
            world.node.stop("agent", signal.SIGKILL)
            found.kills += 1
            found.torn += world.torn_files()
            found.left_staged += any("/." in path for path in world.leftovers())
            found.lost += _lost(world)
        started = time.monotonic()
        world.node.start_agent()
        found.seconds.append(world.converge(60.0, started))
        world.node.stop("agent", signal.SIGKILL)
    world.node.start_agent()
    return found


def _change_and_wait(world: World, changes: int) -> None:
    """Make the changes at random moments of the agent's life, up to a random end of it."""
    chance = world.random
    life = chance.choice((0.3, 1.0, 1.5, 2.0)) * chance.random()
    moments = sorted(chance.random() * life for _ in range(changes))
    began = time.monotonic()
    for moment in moments:
        time.sleep(max(began + moment - time.monotonic(), 0.0))
        world.change()
    if chance.random() < 0.5:
        _wait_for_work(world, began + 5.0)
        time.sleep(chance.random() * 0.05)
    time.sleep(max(began + life - time.monotonic(), 0.0))


def _wait_for_work(world: World, until: float) -> None:
    """Wait until the agent touches its directories."""
    run = world.node.home / "run"
    watched = (run / "vassals", run / "hosts", world.node.home / "state" / "sites")
    before = [path.stat().st_mtime_ns for path in watched]
    while [path.stat().st_mtime_ns for path in watched] == before and time.monotonic() < until:
        time.sleep(0.001)


def _lost(world: World) -> list[str]:
    """Return the sites that do not answer although no change asked for that."""
    lost = []
    for slug, allowed in world.allowed.items():
        if world.is_on_demand(slug) and world.random.random() > ASKED_PART:
            continue  # it would never sleep
        status, body = world.visit(f"{slug}.localhost")
        if status != 200 and status not in allowed:
            lost.append(f"{slug}: {status} {body[:80]!r}")
    return lost


def judge(node: Node, sites: int, kills: int, changes: int) -> None:
    world = World(node, sites, seed=kills, idle_seconds=IDLE_SECONDS)
    world.start()
    with Visitors(world) as visitors:
        found = kill_at_random(world, kills, changes)
    slept = node.output("standby").count(": sleeps")
    print(
        f"{found.kills} kills, {found.changes} changes, {sites} sites, {slept} times asleep: {len(found.torn)} torn, "
        f"{len(found.lost)} lost; {found.left_staged} kills in the middle of a write; "
        f"converged after at most {max(found.seconds):.1f} s; "
        f"{visitors.visits} visits, {sum(visitors.failures.values())} failed, slowest {visitors.slowest:.2f} s"
    )
    for line in (*found.torn[:20], *found.lost[:20], *map(str, visitors.failures.most_common(20))):
        print(f"  {line}")
    assert found.torn == []
    assert found.lost == []
    assert slept > kills // 5
    assert not visitors.failures
    assert max(found.seconds) <= CONVERGED_SECONDS


def test_15_kills(node: Node) -> None:
    judge(node, 16, 15, 30)


@pytest.mark.long
@pytest.mark.timeout(3_600)
def test_500_kills(node: Node) -> None:
    judge(node, 30, 500, 1_000)


def test_the_emperor_is_killed(node: Node) -> None:
    """Its sites' processes end with it, so visitors get 503 until it is back and the sites are loaded again."""
    world = World(node, 12, seed=1, idle_seconds=AWAKE_SECONDS)
    world.start()
    node.stop("emperor", signal.SIGKILL)
    killed = time.monotonic()
    wait_until(lambda: world.visit("s1.localhost")[0] == 503, 5, "the sites end with the emperor")
    node.start_emperor()
    wait_until(lambda: not world.wrong_answers(), 60, "all sites again")
    print(f"12 sites served again {time.monotonic() - killed:.1f} s after the emperor was killed")
    world.change()
    world.converge(30)


def test_nginx_is_killed(node: Node) -> None:
    """Its workers outlive the master and go on serving, on the port that a new master needs: they have to end first."""
    world = World(node, 3, seed=1, idle_seconds=AWAKE_SECONDS)
    world.start()
    group = node.processes["nginx"].pid
    node.stop("nginx", signal.SIGKILL)
    killed = time.monotonic()
    assert world.wrong_answers() == []
    os.killpg(group, signal.SIGTERM)
    wait_until(lambda: world.visit("s1.localhost")[0] == 0, 5, "the workers end")
    node.start_nginx()
    wait_until(lambda: not world.wrong_answers(), 10, "all sites again")
    print(f"served again {time.monotonic() - killed:.2f} s after nginx's master was killed and its workers ended")
    world.change()
    world.converge(30)
