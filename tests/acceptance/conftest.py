"""One real platform for the whole run: begun by `bin/up --detach`, used through its surfaces, ended by `tenantry down`.

Run with `pytest -m acceptance -n 0 tests/acceptance`: the platform is one, and so is the order of the tests.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from tenantry.node.effects.limits import remove_abandoned_groups

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
UP_SECONDS = 400  # the first time on a machine: packages, a virtualenv, the demo's release
COMMAND_SECONDS = 120
BUILD_SECONDS = 280


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything below this directory; a test may have to start the platform or to build a project."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.acceptance)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(UP_SECONDS + 60))


def free_ports() -> tuple[int, int]:
    """Two neighbouring TCP ports that nobody listens on, below the kernel's range for outgoing connections."""
    for port in range(18_000 + os.getpid() % 5_000, 32_000, 2):
        with socket.socket() as one, socket.socket() as other:
            try:
                one.bind(("127.0.0.1", port))
                other.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port, port + 1
    raise RuntimeError("no free port")


def processes_of(home: Path) -> dict[int, str]:
    """Every process that has `home` in its command line, its environment or its working directory."""
    found = {}
    needle = os.fsencode(home)
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            argv = (entry / "cmdline").read_bytes()
            texts = [argv, (entry / "environ").read_bytes(), os.fsencode(os.readlink(entry / "cwd"))]
        except OSError:
            continue
        if int(entry.name) != os.getpid() and any(needle in text for text in texts):
            found[int(entry.name)] = argv.replace(b"\0", b" ").decode(errors="replace").strip()
    return found


class Platform:
    """A platform in its home, as a person meets it: `bin/up`, the command line, HTTP."""

    def __init__(self, home: Path, http_port: int, control_port: int) -> None:
        self.home = home
        self.http_port = http_port
        self.control_port = control_port
        self.up_output = ""

    @property
    def environment(self) -> dict[str, str]:
        """A person's environment with this home chosen."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("TENANTRY_", "PYTEST_"))}
        kept.pop("VIRTUAL_ENV", None)
        return kept | {"TENANTRY_HOME": str(self.home), "NO_COLOR": "1", "COLUMNS": "200"}

    def up(self, *options: str, seconds: float = UP_SECONDS) -> float:
        """Run `bin/up --detach`; returns the seconds it took."""
        began = time.monotonic()
        argv = [str(ROOT / "bin" / "up"), "--detach", "--home", str(self.home), "--http-port", str(self.http_port)]
        done = self._run([*argv, *options], seconds)
        self.up_output = done.stdout + done.stderr
        assert done.returncode == 0, self.up_output[-6000:]
        return time.monotonic() - began

    def down(self) -> None:
        """Run `tenantry down`."""
        self.tenantry("down")

    def run(
        self, *arguments: str, seconds: float = COMMAND_SECONDS, given: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run `tenantry …`, whatever its exit code; `given` is typed on its standard input."""
        return self._run([str(self.home / "venv" / "bin" / "tenantry"), *arguments], seconds, given)

    def tenantry(self, *arguments: str, seconds: float = COMMAND_SECONDS, given: str = "") -> str:
        """Run `tenantry …`, which must succeed; returns what it printed."""
        done = self.run(*arguments, seconds=seconds, given=given)
        assert done.returncode == 0, f"tenantry {' '.join(arguments)}: {done.stdout[-3000:]}{done.stderr[-6000:]}"
        return done.stdout

    def json(self, *arguments: str, seconds: float = COMMAND_SECONDS) -> Any:
        """Run `tenantry … --json`, which must succeed; returns the document."""
        return json.loads(self.tenantry(*arguments, "--json", seconds=seconds))

    def create(self, slug: str, project: str, *options: str) -> Any:
        """Create a site with the hostname `<slug>.localhost` and wait until it serves."""
        return self.json(
            "site", "create", slug, "--project", project, "--hostname", f"{slug}.localhost", "--wait", *options
        )

    def delete(self, slug: str) -> None:
        """Delete a site without a dump and wait until it is gone."""
        self.tenantry("site", "delete", slug, "--confirm", slug, "--no-dump", "--wait")

    def visitor(self, hostname: str) -> httpx.Client:
        """A visitor of `hostname` who keeps cookies."""
        return httpx.Client(
            base_url=f"http://127.0.0.1:{self.http_port}",
            headers={"Host": hostname},
            timeout=20,
            trust_env=False,
        )

    def get(self, hostname: str, path: str = "/") -> httpx.Response:
        """What a new visitor gets."""
        with self.visitor(hostname) as visitor:
            return visitor.get(path)

    def api(self) -> httpx.Client:
        """The REST API with the first administrator's token."""
        client = json.loads((self.home / "client.json").read_text())
        return httpx.Client(
            base_url=f"{client['url']}/api/v1",
            headers={"Authorization": f"Bearer {client['token']}"},
            timeout=60,
            trust_env=False,
        )

    def superuser(self, database: str = "tenantry") -> psycopg.Connection[Any]:
        """A session of PostgreSQL's superuser, to look behind the platform's back."""
        secret = json.loads((self.home / "secrets" / "postgres.json").read_text())
        return psycopg.connect(
            host=secret["host"],
            port=secret["port"],
            user=secret["user"],
            password=secret["passwords"][secret["user"]],
            dbname=database,
            autocommit=True,
        )

    def pids(self, *words: str) -> list[int]:
        """The pids of this platform's processes whose command line has all of `words`."""
        return sorted(pid for pid, argv in processes_of(self.home).items() if all(word in argv for word in words))

    def processes(self) -> dict[int, str]:
        """Every process of this platform, with its command line."""
        return processes_of(self.home)

    @staticmethod
    def eventually(probe: Callable[[], Any], seconds: float = 20.0) -> Any:
        """Call `probe` until it returns something true, and return that; the last answer fails the test."""
        deadline = time.monotonic() + seconds
        while not (answer := probe()):
            assert time.monotonic() < deadline, f"not within {seconds} s; the last answer was {answer!r}"
            time.sleep(0.1)
        return answer

    def nginx_workers(self) -> list[int]:
        """The pids of nginx's workers: children of the master, whose pid is in its file."""
        master = int((self.home / "run" / "nginx.pid").read_text())
        children = Path(f"/proc/{master}/task/{master}/children").read_text().split()
        return sorted(int(pid) for pid in children)

    def _run(self, argv: list[str], seconds: float, given: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            argv, env=self.environment, input=given, text=True, capture_output=True, timeout=seconds, check=False
        )


def new_home() -> Path:
    """A home that does not exist yet, short enough for unix sockets and reachable for the sites' users."""
    parent = Path(tempfile.mkdtemp(prefix="tt-", dir="/tmp"))
    parent.chmod(0o755)
    return parent / "home"


def end_and_remove(platform: Platform) -> dict[int, str]:
    """Stop what is left of a platform by pid, remove its home, return what had been left running."""
    left = processes_of(platform.home)
    for pid in left:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    if not os.environ.get("TENANTRY_KEEP"):  # to look at what a failed run left
        shutil.rmtree(platform.home.parent, ignore_errors=True)
        remove_abandoned_groups()
    return left


@pytest.fixture(scope="session")
def platform() -> Iterator[Platform]:
    """The platform of this run, with the demo project's three sites, whose processes are looked at: none sleeps."""
    platform = Platform(new_home(), *free_ports())
    try:
        platform.up()
        for slug in ("alpha", "beta", "gamma"):
            platform.tenantry("site", "runtime", slug, "always_on", "--wait")
        yield platform
        platform.down()
    finally:
        left = end_and_remove(platform)
    assert not left, f"still running after «tenantry down»: {left}"


@pytest.fixture
def another(request: pytest.FixtureRequest) -> Iterator[Platform]:
    """A second platform's home and ports, not started; ended and removed afterwards."""
    platform = Platform(new_home(), *free_ports())
    try:
        yield platform
    finally:
        if (platform.home / "venv" / "bin" / "tenantry").exists():
            platform.run("down")
        end_and_remove(platform)


@pytest.fixture
def root() -> None:
    """Skip unless the platform runs as root."""
    if os.geteuid() != 0:
        pytest.skip("sites have users of their own only when root runs the platform")
