"""The node's file system is full at random moments while changes come: the last good state serves, and that is said."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from node_lab import Node, Postgres, wait_until
from stress_world import Visitors, World

SIZE = "24m"
CONVERGED_SECONDS = 15.0  # after space is free: a site that failed a few times waits up to 8 s for its next turn


@pytest.fixture
def small_node(postgres: Postgres) -> Iterator[Node]:
    """A prepared home on a small file system of its own."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount")
    node = Node(postgres)
    secrets = {path.name: path.read_bytes() for path in (node.home / "secrets").iterdir()}
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=755", "tmpfs", str(node.home)],
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        if mounted.returncode:
            pytest.skip(f"cannot mount: {mounted.stderr.strip()}")
        (node.home / "secrets").mkdir()
        for name, content in secrets.items():
            (node.home / "secrets" / name).write_bytes(content)
        node.prepare()
        yield node
    finally:
        home, node.home = node.home, node.home / "ends-here"
        node.home.mkdir(exist_ok=True)
        node.close()  # the processes; the directory is a mount point
        subprocess.run(["umount", "--lazy", str(home)], check=False)
        shutil.rmtree(home, ignore_errors=True)


@contextlib.contextmanager
def full(home: Path) -> Iterator[None]:
    """Take every free block, and again whatever is freed meanwhile is left to whoever comes first."""
    filler = home / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        for size in (1 << 20, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"x" * size)
    try:
        yield
    finally:
        filler.unlink()


def fill_at_random(node: Node, sites: int, times: int) -> None:
    world = World(node, sites, seed=times, idle_seconds=2)
    world.start()
    said = torn = 0
    seconds = []
    with Visitors(world) as visitors:
        for number in range(times):
            world.change()
            time.sleep(world.random.random() * 0.5)
            with full(node.home):
                for _ in range(4):
                    world.change()
                    time.sleep(world.random.random() * 0.5)
                restarted = number % 3 == 2
                if restarted:
                    node.stop("agent", signal.SIGKILL)
                    node.start_agent()
                said += _is_said(node)
                torn += len(world.torn_files())
            seconds.append(world.converge(60.0))
    print(
        f"{times} times full, {5 * times} changes: {torn} torn, said {said} times, converged at most "
        f"{max(seconds):.1f} s after space was free; {visitors.visits} visits, {sum(visitors.failures.values())} failed"
    )
    assert torn == 0
    assert not visitors.failures
    assert said == times
    assert max(seconds) <= CONVERGED_SECONDS


def _is_said(node: Node) -> bool:
    """Whether a person is told within a few seconds: in a condition of the node, or of a site that waits for space."""
    query = (
        "SELECT count(*) FROM agent_v1.received WHERE report::text LIKE '%%No space left%%'"
        " AND at > clock_timestamp() - interval '8 s'"
    )
    try:
        wait_until(lambda: node.sql(query)[0][0], 8.0)
    except AssertionError:
        return False
    return True


@pytest.mark.timeout(300)
def test_a_full_disk_harms_nobody(small_node: Node) -> None:
    fill_at_random(small_node, 8, 3)


@pytest.mark.long
@pytest.mark.timeout(1_800)
def test_a_disk_that_is_full_again_and_again(small_node: Node) -> None:
    fill_at_random(small_node, 20, 50)
