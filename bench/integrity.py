"""Suite `integrity`: what a whole check of a node costs where nothing was changed, beside reading everything.

The sites are real as far as files go: made by the agent's own actions, each with a listening socket, which this process
holds in place of 10,000 uWSGI. nginx is not there; an emperor's list of that length is served to be read and compared.
"""

import asyncio
import json
import resource
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.results import Row, Table
from tenantry.node.actions import AwaitReady
from tenantry.node.config import Config, parse_config
from tenantry.node.effects.host import LocalHost
from tenantry.node.planner import ObservedSite, plan_site
from tenantry.node.prepare import prepare
from tenantry.node.vassal import SOCKET_MODE
from tenantry.sealing import Sealer, generate_key
from tenantry.spec.names import Slug
from tenantry.spec.sites import SiteSpec

CHECKS = 5
TARGET_SECONDS = 1.0
SITES_A_TURN = 100  # before other tasks get the event loop


def measure(sites: int) -> Table:
    """Build a node of so many sites, check it, read all of it in two other ways."""
    _need_files(2 * sites + 500)
    home = Path(tempfile.mkdtemp(prefix="tnb", dir="/tmp"))
    home.chmod(0o755)
    try:
        with _node(home, sites) as node:
            return _table(node, home, sites)
    finally:
        shutil.rmtree(home)


def _table(node: "_Node", home: Path, sites: int) -> Table:
    print("the first check, which reads every file …", flush=True)
    first = _measured(node.check)
    time.sleep(0.1)  # files changed a moment ago are read once more
    node.check()
    print(f"{CHECKS} checks with nothing changed …", flush=True)
    unchanged = [_measured(node.check) for _ in range(CHECKS)]
    paths = sum(1 for _ in (home / "run").rglob("*")) + sum(1 for _ in (home / "data").rglob("*"))
    listing = [_measured(lambda: _run(f"find {home}/run {home}/data -ls > /dev/null")) for _ in range(CHECKS)]
    hashing = [
        _measured(lambda: _run(f"find {home}/run {home}/data -type f -print0 | xargs -0 sha256sum > /dev/null"))
        for _ in range(CHECKS)
    ]
    rows = [
        _row("tenantry: whole check, nothing changed", unchanged, node.longest),
        _row("tenantry: first check after a start", [first]),
        _row("find -ls of run/ and data/", listing),
        _row("sha256sum of every file in run/ and data/", hashing),
    ]
    cpu = float(rows[0].values["cpu_s"])
    word = "met" if cpu < TARGET_SECONDS else "MISSED"
    return Table(
        suite="integrity",
        title=f"Integrity check of a node of {sites:,} sites ({paths:,} paths), seconds (medians)",
        columns=("runs", "cpu_s", "wall_s", "longest_turn_ms"),
        rows=rows,
        verdict=f"Target, under {TARGET_SECONDS:g} s of CPU with nothing changed: {word} ({cpu:.2f} s).",
    )


class _Node:
    """A home with sites, and the check as the agent does it."""

    def __init__(self, host: LocalHost, specs: dict[Slug, SiteSpec]) -> None:
        self._host = host
        self._specs = specs
        self.longest = 0.0

    def check(self) -> None:
        """Examine every site and the node; a difference in a site ends the measurement."""
        asyncio.run(self._check())

    async def _check(self) -> None:
        self.longest, began = 0.0, time.perf_counter()
        self._host.scan()
        for number, (slug, spec) in enumerate(self._specs.items()):
            drifts = self._host.examine(slug, spec)
            assert not drifts, drifts
            if number % SITES_A_TURN == SITES_A_TURN - 1:
                self.longest = max(self.longest, time.perf_counter() - began)
                await asyncio.sleep(0)
                began = time.perf_counter()
        differing = {(drift.kind, drift.path) for drift in await self._host.examine_node()}
        assert differing <= {("nginx", "etc/nginx.conf")}, differing


@contextmanager
def _node(home: Path, sites: int) -> Iterator[_Node]:
    key = generate_key()
    config = _config(home, key)
    prepare(config)
    release = home / "releases" / "demo-1"
    (release / "static").mkdir(parents=True)
    host = LocalHost(config)
    sealed = Sealer([key]).seal({"environment": {}, "secret_key": "k" * 50, "database_password": "p" * 40})
    specs = {}
    listeners: list[socket.socket] = []
    print(f"making {sites:,} sites …", flush=True)
    for number in range(1, sites + 1):
        spec = _spec(number, sealed)
        specs[spec.slug] = spec
        listeners.append(asyncio.run(_make(host, config, spec)))
    with _emperor(config, specs):
        yield _Node(host, specs)
    for listener in listeners:
        listener.close()


async def _make(host: LocalHost, config: Config, spec: SiteSpec) -> socket.socket:
    """Do what the planner says for a new site; the wrapper's part, the socket, here."""
    listener = socket.socket(socket.AF_UNIX)
    for action in plan_site(spec, ObservedSite(spec.slug)).actions:
        if isinstance(action, AwaitReady):
            path = config.layout.socket(spec.slug, spec.generation)
            listener.bind(str(path))
            path.chmod(SOCKET_MODE)
            listener.listen(1)
        else:
            await host.apply(action, spec)
    return listener


@contextmanager
def _emperor(config: Config, specs: dict[Slug, SiteSpec]) -> Iterator[None]:
    """Answer on the emperor's socket with its list."""
    now = int(time.time())
    vassals = []
    for slug, spec in specs.items():
        path = config.layout.vassal(slug, spec.generation)
        known = {"id": path.name, "pid": 1000, "born": now, "last_mod": int(path.stat().st_mtime), "last_heartbeat": 0}
        vassals.append(known | {"loyal": 1, "ready": 1, "accepting": 1, "respawns": 0, "uid": 0, "gid": 0, "cursed": 0})
    text = json.dumps({"version": "2.0.31", "vassals": vassals, "blacklist": []}).encode()
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(config.layout.emperor_socket))
    config.layout.emperor_socket.chmod(0o700)
    server.listen()

    def answer() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.sendall(text)

    threading.Thread(target=answer, daemon=True).start()
    try:
        yield
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()


def _config(home: Path, key: str) -> Config:
    return parse_config(
        {
            "home": str(home),
            "node": "bench",
            "dsn": "dbname=none",
            "platform_key": key,
            "bind": "127.0.0.1",
            "http_port": 1,  # nobody listens there
            "uid_base": None,
            "nginx_group": None,
            "tenant_database": {"host": "/nonexistent", "port": 5432},
        }
    )


def _spec(number: int, sealed: str) -> SiteSpec:
    release = {"name": "demo-1", "digest": "sha256:0", "wsgi": "app:application", "settings": "app"}
    release |= {"manage": "manage.py", "static": "static", "serve_media": True}  # type: ignore[dict-item]
    slug = f"site-{number:05d}"
    return SiteSpec.from_document(
        {
            "slug": slug, "number": number, "project_number": 1, "revision": number, "generation": 1, "mode": "live",
            "runtime": "always_on", "processes": 1, "threads": 1, "release": release, "health_path": "/",
            "hostnames": [f"{slug}.example.org"], "database": f"site_{number}", "sealed": sealed,
        }
    )  # fmt: skip


def _need_files(count: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = count if hard == resource.RLIM_INFINITY else min(count, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def _measured(work: Callable[[], None]) -> dict[str, float]:
    """Return the CPU seconds (of children, too) and the seconds that `work` takes."""
    before, began = _cpu(), time.perf_counter()
    work()
    return {"cpu_s": _cpu() - before, "wall_s": time.perf_counter() - began}


def _cpu() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _run(command: str) -> None:
    subprocess.run(command, shell=True, check=True)


def _row(name: str, measured: list[dict[str, float]], longest: float | None = None) -> Row:
    values: dict[str, Any] = {"runs": len(measured)}
    for column in ("cpu_s", "wall_s"):
        found = sorted(one[column] for one in measured)
        values[column] = found[len(found) // 2]
    if longest is not None:
        values["longest_turn_ms"] = longest * 1000
    return Row(name, values, measured)
