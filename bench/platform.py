"""A running platform as the suites see it: its REST API, its command line, its nginx, its PostgreSQL."""

import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg

ROOT = Path(__file__).parents[1]
UP_SECONDS = 400
POLL_SECONDS = 0.003  # finer polling would take the processor from what is measured
FIRST_SECONDS = 60  # a site that has not answered by then never will


class Platform:
    """The platform in `home`."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.http_port = int(json.loads((home / "config.json").read_text())["http_port"])
        self.command = home / "venv" / "bin" / "tenantry"
        client = json.loads((home / "client.json").read_text())
        self.api = httpx.Client(
            base_url=f"{client['url']}/api/v1",
            headers={"Authorization": f"Bearer {client['token']}"},
            timeout=120,
            trust_env=False,
        )

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {"TENANTRY_HOME": str(self.home), "NO_COLOR": "1"}

    def tenantry(self, *arguments: str) -> str:
        done = subprocess.run(
            [str(self.command), *arguments],
            env=self.environment,
            text=True,
            capture_output=True,
            timeout=300,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"tenantry {' '.join(arguments)}: {done.stderr}")
        return done.stdout

    def delete(self, slug: str) -> None:
        """Delete a site and wait until nothing of it is left, so that the next measurement is alone."""
        self.api.delete(f"/sites/{slug}", params={"confirm": slug, "dump": "false"}).raise_for_status()
        deadline = time.monotonic() + FIRST_SECONDS
        while self.api.get(f"/sites/{slug}/convergence", params={"wait": 5}).status_code != httpx.codes.NOT_FOUND:
            if self.api.get(f"/sites/{slug}").status_code == httpx.codes.NOT_FOUND:
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"{slug} is not gone after {FIRST_SECONDS} s")

    def site_environment(self, slug: str) -> dict[str, str]:
        """The environment that the site's code sees."""
        code = "import json, os; print('@' + json.dumps(dict(os.environ)))"
        printed = self.tenantry("site", "manage", slug, "shell", "-c", code)
        environment: dict[str, str] = json.loads(printed.partition("@")[2].splitlines()[0])
        return environment

    def superuser(self, database: str) -> psycopg.Connection[Any]:
        secret = json.loads((self.home / "secrets" / "postgres.json").read_text())
        return psycopg.connect(
            host=secret["host"],
            port=secret["port"],
            user=secret["user"],
            password=secret["passwords"][secret["user"]],
            dbname=database,
            autocommit=True,
        )


def first_answer(port: int, hostname: str, path: str) -> float:
    """Ask until `path` is answered 200; returns when, as `time.time()` says."""
    request = f"GET {path} HTTP/1.1\r\nHost: {hostname}\r\nConnection: close\r\n\r\n".encode()
    deadline = time.monotonic() + FIRST_SECONDS
    while time.monotonic() < deadline:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
                connection.sendall(request)
                if connection.recv(64).startswith(b"HTTP/1.1 200"):
                    return time.time()
        except OSError:
            pass
        time.sleep(POLL_SECONDS)
    raise RuntimeError(f"http://{hostname}:{port}{path} did not answer 200 within {FIRST_SECONDS} s")


@contextmanager
def platform(home: Path | None) -> Iterator[Platform]:
    """The platform in `home`; without one, a platform of our own that is ended and removed afterwards."""
    if home is not None:
        yield Platform(home)
        return
    parent = Path(tempfile.mkdtemp(prefix="tt-bench-", dir="/tmp"))
    parent.chmod(0o755)
    own = parent / "home"
    port = free_port()
    try:
        print(f"starting a platform in {own} …", flush=True)
        up = [str(ROOT / "bin" / "up"), "--detach", "--home", str(own), "--http-port", str(port)]
        subprocess.run(up, check=True, timeout=UP_SECONDS, stdout=subprocess.DEVNULL)
        yield Platform(own)
    finally:
        if (own / "venv" / "bin" / "tenantry").exists():
            subprocess.run(
                [str(own / "venv/bin/tenantry"), "down", "--home", str(own)],
                check=False,
                timeout=120,
                stdout=subprocess.DEVNULL,
            )
        shutil.rmtree(parent, ignore_errors=True)


def free_port() -> int:
    """A TCP port that nobody listens on, with a free one after it."""
    for port in range(26_000, 32_000, 2):
        with socket.socket() as one, socket.socket() as other:
            try:
                one.bind(("127.0.0.1", port))
                other.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port
    raise RuntimeError("no free port")
