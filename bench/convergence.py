"""From a committed change to the last node's report that it serves as desired, on nodes that hold many sites.

The nodes are real: agent, nginx and emperor, each node in a network namespace of its own, one PostgreSQL with control's
schema reached over TCP. Each site has its own database row, secrets, vassal, process, socket and hostname on each node.
The processes of the sites that are only held are small stand-ins (standin.c), because the real ones need more memory
than one machine has; the sites that are created while measuring run Python under uWSGI. `--real-processes` uses
uWSGI for all: then choose fewer sites.

Beside it: what a change of one hostname takes where every site is a server block and nginx is reloaded.
"""

import http.client
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles
from typing import Any

from bench.lab import lab
from bench.programs import compiled
from bench.results import Row, Table

SITE_SECONDS = 1.0  # that each site may take until all of them are served at the beginning
APPLIED_SECONDS = 30.0
PAUSE_SECONDS = 0.05  # between changes: each is measured alone
RELOADS = 20
PROMISED = {"hostname": 0.25, "mode": 0.25, "new site": 0.5}
APPLICATION = """
import os
BODY = ('{"site": "%s"}' % os.environ["TENANTRY_SITE"]).encode()
def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(BODY)))])
    return [BODY]
"""
# The clock is PostgreSQL's. `created_at` is read while the change is written, a moment before its commit.
APPLIED = """
SELECT count(n.reported_at), extract(epoch FROM max(n.reported_at) - min(c.created_at))
FROM change c LEFT JOIN node_site n ON n.slug = c.site_slug AND n.revision >= c.revision AND n.state = 'serving'
WHERE c.revision = (SELECT revision FROM site WHERE slug = %s)
"""


@dataclass(frozen=True, slots=True)
class Size:
    """What is measured. `new_sites` are made one after another, beside the `sites` that are held."""

    sites: int
    nodes: int
    changes: int
    new_sites: int
    real_processes: bool


@dataclass(slots=True)
class Measured:
    """Seconds from each change to the last node's report."""

    name: str
    seconds: list[float] = field(default_factory=list)

    def row(self, promised: float | None = None) -> Row:
        cuts = quantiles(self.seconds, n=100, method="inclusive")
        values: dict[str, Any] = {"changes": len(self.seconds), "p50": cuts[49], "p99": cuts[98]}
        values |= {"slowest": max(self.seconds), "promised p99": promised}
        return Row(self.name, values, [{"seconds": value} for value in self.seconds])


def measure(size: Size) -> Table:
    """Return the times of all kinds of changes; `RuntimeError` where machines cannot be made."""
    reason = lab.why_no_network()
    if reason is not None:
        raise RuntimeError(reason)
    with tempfile.TemporaryDirectory(prefix="tt-bench-") as text:
        golden = Path(text) / "golden"
        lab.make_golden(golden)
        with lab.cluster(golden, size.nodes, APPLICATION) as cluster:
            filled = _fill(cluster, size)
            rows = [_measure(cluster, size, *kind) for kind in _kinds(size)]
            memory = _memory(cluster)
            processor = _idle(cluster)
        rows.append(_by_hand(size))
    kept = all(row.values["p99"] <= PROMISED[row.name] for row in rows if row.name in PROMISED)
    processes = "uWSGI" if size.real_processes else "stand-ins, uWSGI for the new sites"
    return Table(
        "convergence",
        f"From a committed change to «applied and read back» on {size.nodes} nodes with {size.sites} sites each, "
        f"seconds (processes: {processes})",
        ("changes", "p50", "p99", "slowest", "promised p99"),
        rows,
        f"The promise is {'kept' if kept else 'NOT kept'}. All {size.nodes} × {size.sites} sites were served "
        f"{filled:.0f} s after the nodes started on them. Agents: {memory:.0f} MB and {processor * 100:.1f} % of a "
        "processor each, idle.",
    )


def _fill(cluster: Any, size: Size) -> float:
    """Create the sites that the nodes hold; returns the seconds until all nodes serve them."""
    release = None if size.real_processes else _add_standin(cluster)
    print(f"creating {size.sites} sites …", flush=True)
    for machine in cluster.machines:
        machine.stop("agent")
    for number in range(size.sites):
        lab.control.create_site(_slug(number), release=release, runtime="always_on")
    print("the nodes start on them …", flush=True)
    for machine in cluster.machines:
        machine.start_agent()
    taken: float = cluster.converge(seconds=60 + size.sites * size.nodes * SITE_SECONDS)
    time.sleep(5)  # the full comparison and the saving of what was read end
    return taken


def _add_standin(cluster: Any) -> str:
    """Give every node a release whose «Python» is the stand-in; returns its name."""
    name: str = lab.control.add_release()
    program = compiled(cluster.network.scratch, "standin")
    for machine in cluster.machines:
        directory = machine.home / "releases" / name
        lab.build_release(directory, name, APPLICATION)
        python = directory / "venv" / "bin" / "python"
        python.unlink()
        shutil.copy(program, python)
    return name


def _kinds(size: Size) -> Iterator[tuple[str, int, Callable[[int], str]]]:
    """Yield name, count and deed of each kind of change. A deed makes change `number` and returns its site."""
    chosen = random.Random(1)

    def site() -> str:
        return _slug(chosen.randrange(size.sites))

    def hostname(number: int) -> str:
        slug = site()
        lab.control.add_hostname(slug, f"n{number}.example.test")
        return slug

    def mode(number: int) -> str:
        slug = _slug(number // 2 % size.sites)
        lab.control.set_mode(slug, "live" if number % 2 else "maintenance")
        return slug

    def new_site(number: int) -> str:
        lab.control.create_site(f"new-{number}", release=lab.control.RELEASE, runtime="always_on")
        return f"new-{number}"

    yield "hostname", size.changes, hostname
    yield "mode", size.changes, mode
    yield "new site", size.new_sites, new_site


def _measure(cluster: Any, size: Size, name: str, count: int, deed: Callable[[int], str]) -> Row:
    print(f"measuring: {name} …", flush=True)
    measured = Measured(name)
    with cluster.postgres.connect("control") as connection, cluster.postgres.connect("control") as listening:
        listening.execute("LISTEN tenantry_report")
        for number in range(count):
            slug = deed(number)
            deadline = time.monotonic() + APPLIED_SECONDS
            while True:
                nodes, seconds = connection.execute(APPLIED, (slug,)).fetchone()
                if nodes == size.nodes:
                    break
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{name} {number}: {slug} is not applied on all nodes in {APPLIED_SECONDS} s")
                for _ in listening.notifies(timeout=0.5, stop_after=1):
                    pass
            measured.seconds.append(float(seconds))
            time.sleep(PAUSE_SECONDS)
    return measured.row(PROMISED[name])


def _memory(cluster: Any) -> float:
    """Return the proportional memory of an agent, in MB, the mean of all."""
    sizes = []
    for machine in cluster.machines:
        lines = Path(f"/proc/{machine.pid('agent')}/smaps_rollup").read_text().splitlines()
        sizes.append(next(int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:")))
    return sum(sizes) / len(sizes)


def _idle(cluster: Any, seconds: float = 60.0) -> float:
    """Return the part of a processor that an agent takes while nothing changes, comparisons of everything included."""
    print("measuring: idle …", flush=True)

    def used() -> float:
        total = 0
        for machine in cluster.machines:
            stat = Path(f"/proc/{machine.pid('agent')}/stat").read_text().rpartition(")")[2].split()
            total += int(stat[11]) + int(stat[12])
        return total / os.sysconf("SC_CLK_TCK")

    before = used()
    time.sleep(seconds)
    return (used() - before) / seconds / len(cluster.machines)


def _slug(number: int) -> str:
    return f"site-{number}"


# The way without the platform


def _by_hand(size: Size) -> Row:
    """nginx with a server block per site on as many machines: write the changed one, reload, ask until it answers."""
    print("measuring: nginx with server blocks …", flush=True)
    measured = Measured("hostname, by reload of server blocks")
    with lab.network() as network, _servers(network, size) as servers:
        for number in range(RELOADS):
            begun = time.time()
            for server in servers:
                server.rename(number % size.sites, f"n{number}.example.test")
            for server in servers:
                server.wait_for(f"n{number}.example.test")
            measured.seconds.append(time.time() - begun)
            time.sleep(1)  # the workers of the reload before have ended
    return measured.row()


@contextmanager
def _servers(network: Any, size: Size) -> Iterator[list["_Server"]]:
    servers = [_Server(network.host(f"by-hand-{number}"), network.scratch, size.sites) for number in range(size.nodes)]
    yield servers


class _Server:
    """An nginx as people configure it: a file for every site."""

    def __init__(self, host: Any, scratch: Path, sites: int) -> None:
        self._host = host
        self._directory = scratch / host.name
        (self._directory / "sites").mkdir(parents=True)
        self._pid = self._directory / "pid"
        for number in range(sites):
            self._write(number, f"{_slug(number)}.localhost")
        configuration = self._directory / "nginx.conf"
        configuration.write_text(
            f"daemon off; worker_processes auto; pid {self._pid}; error_log {self._directory}/error.log;\n"
            "events { worker_connections 1024; }\n"
            "http { access_log off; server_names_hash_bucket_size 512; server_names_hash_max_size 8192;\n"
            "server { listen 127.0.0.1:8080 default_server; return 404; }\n"
            f"include {self._directory}/sites/*; }}\n"
        )
        host.spawn(["/usr/sbin/nginx", "-e", str(self._directory / "error.log"), "-c", str(configuration)])
        self.wait_for(f"{_slug(0)}.localhost")

    def rename(self, number: int, hostname: str) -> None:
        """Give a site another hostname and have nginx reload."""
        self._write(number, hostname)
        os.kill(int(self._pid.read_text()), 1)

    def wait_for(self, hostname: str) -> None:
        """Ask until the site answers to the name."""
        self._host.call(lambda: self._wait_for(hostname))

    def _wait_for(self, hostname: str) -> None:
        deadline = time.monotonic() + APPLIED_SECONDS
        while time.monotonic() < deadline:
            connection = http.client.HTTPConnection("127.0.0.1", 8080, timeout=5)
            try:
                connection.request("GET", "/", headers={"Host": hostname, "Connection": "close"})
                if connection.getresponse().status == http.client.NO_CONTENT:
                    return
            except OSError:
                pass  # not listening yet
            finally:
                connection.close()
            time.sleep(0.005)
        raise RuntimeError(f"{hostname} is not served in {APPLIED_SECONDS} s")

    def _write(self, number: int, hostname: str) -> None:
        text = f"server {{ listen 127.0.0.1:8080; server_name {hostname}; location / {{ return 204; }} }}\n"
        (self._directory / "sites" / _slug(number)).write_text(text)
