"""The lab itself: what the other tests rest on."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster_lab import Cluster, Host, Network, control, wait_until


def connect(source: Host, target: Host, timeout: float = 2.0) -> socket.socket:
    return source.call(lambda: socket.create_connection((target.address, 99), timeout=timeout))


@pytest.fixture
def pair(network: Network) -> tuple[Host, Host]:
    """Two hosts; the second listens on port 99."""
    here, there = network.host("here"), network.host("there")
    server = there.call(lambda: socket.create_server((there.address, 99)))
    connect(here, there).close()
    network.server = server  # type: ignore[attr-defined]
    return here, there


def test_latency_and_loss(network: Network, pair: tuple[Host, Host]) -> None:
    here, there = pair
    network.storm(here, delay_seconds=0.1)
    begun = time.monotonic()
    connection = connect(here, there)
    assert 0.2 <= time.monotonic() - begun < 0.4
    connection.close()
    network.server.close()  # type: ignore[attr-defined]
    with (
        here.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender,
        there.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as receiver,
    ):
        receiver.bind((there.address, 98))
        network.storm(here, loss=0.5)
        for _ in range(200):
            sender.sendto(b"x", (there.address, 98))
            time.sleep(0.002)
        receiver.settimeout(0.5)
        arrived = 0
        with contextlib.suppress(TimeoutError):
            while receiver.recv(1):
                arrived += 1
    assert 50 < arrived < 150
    assert network.counts(here)["sent"]["dropped"] > 50


@pytest.mark.parametrize("ways", [("sent",), ("received",), ("sent", "received")])
def test_a_cut_swallows_everything_in_its_direction(
    network: Network, pair: tuple[Host, Host], ways: tuple[str, ...]
) -> None:
    here, there = pair
    for way in ways:
        network.weather(here, way, cut=True)
    with pytest.raises(TimeoutError):
        connect(here, there, timeout=0.5)
    for way in ways:
        network.weather(here, way)
    connect(here, there).close()
    network.server.close()  # type: ignore[attr-defined]


def test_a_pulled_cable(network: Network, pair: tuple[Host, Host]) -> None:
    here, there = pair
    network.link(here, up=False)
    with pytest.raises(OSError, match="unreachable"):
        connect(here, there)
    network.link(here, up=True)
    connect(here, there).close()
    network.server.close()  # type: ignore[attr-defined]


@pytest.mark.usefixtures("hosts")
def test_nothing_is_left_when_a_test_run_is_killed() -> None:
    code = (
        "import subprocess, time; from cluster_lab import Network; network = Network()\n"
        "child = network.host('a').spawn(['sh', '-c', 'echo here; exec sleep 600'], stdout=subprocess.PIPE)\n"
        "child.stdout.readline(); print(network.scratch, child.pid, flush=True); time.sleep(600)"
    )
    loader = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\nfrom conftest import lab\n"
    process = subprocess.Popen([sys.executable, "-c", loader + code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    scratch, pid = process.stdout.readline().split()
    os.kill(int(pid), 0)
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    process.stdout.close()
    wait_until(lambda: not Path(f"/proc/{int(pid)}").exists())
    wait_until(lambda: not Path(scratch.decode()).exists())


def test_nodes_serve_what_control_says(make_cluster: Callable[[int], Cluster]) -> None:
    cluster = make_cluster(2)
    control.create_site("one")
    print(f"a new site on two nodes: {cluster.converge():.2f} s")
    control.add_hostname("one", "one.example.test")
    print(f"a hostname on two nodes: {cluster.converge():.3f} s")
    assert all(machine.serves("one.example.test", "one") for machine in cluster.machines)
    assert len(cluster.digests()) == 1
    with cluster.machines[0].visitors("one.localhost") as visitors:
        time.sleep(1)
    assert visitors.count.requests > 20
    assert visitors.count.failures == []
