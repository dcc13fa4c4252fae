"""A node of real parts: PostgreSQL with a double of agent_v1, nginx, the emperor, the agent, in an own directory."""

import asyncio
import atexit
import contextlib
import functools
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from tenantry.node.effects.limits import remove_groups
from tenantry.node.layout import Layout
from tenantry.sealing import Sealer, generate_key
from tenantry.spec.names import Fqdn, Slug
from tenantry.spec.sites import Mode, ReleaseName, ReleaseSpec, Runtime, SiteSpec
from tenantry.testing.postgres import find_postgres_bin

ROOT = Path(__file__).parents[2]
AS_ROOT = os.geteuid() == 0
SITE_PACKAGES = next(Path(p) for p in sys.path if p.endswith("site-packages"))
APPLICATION = """
import json, os, sys, time
STARTED = time.time()
def application(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/slow":
        time.sleep(float(environ["QUERY_STRING"] or 1))
    if path == "/echo":
        text = environ["REQUEST_METHOD"].encode() + b" " + environ["wsgi.input"].read()
        start_response("200 OK", [("Content-Type", "text/plain")]); return [text]
    if path == "/broken":
        start_response("500 Broken", []); return [b"broken"]
    body = json.dumps({
        "site": os.environ["TENANTRY_SITE"], "version": VERSION, "path": path, "pid": os.getpid(), "uid": os.getuid(),
        "gid": os.getgid(), "groups": sorted(os.getgroups()), "cwd": os.getcwd(), "environment": dict(os.environ),
        "request": {k: v for k, v in environ.items() if isinstance(v, str)},
        "fds": sorted(os.listdir("/proc/self/fd"), key=int),
        "status": open("/proc/self/status").read(),
    }).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]
"""

# The same for granian, with the changes to the release.
ASGI_APPLICATION = f"{APPLICATION}\nfrom asgiref.wsgi import WsgiToAsgi\nasgi = WsgiToAsgi(application)\n"
GRANIAN = {"engine": "granian", "asgi": "app:asgi"}


def make_spec(generation: int = 2, hostnames: tuple[Fqdn, ...] = (Fqdn("a.localhost"),), **release: object) -> SiteSpec:
    return SiteSpec(
        slug=Slug("blog"),
        number=1,
        project_number=1,
        revision=1,
        generation=generation,
        mode=Mode.LIVE,
        runtime=Runtime.ALWAYS_ON,
        processes=1,
        threads=1,
        release=replace(
            ReleaseSpec(ReleaseName(Slug("demo"), 1), "d", "w", "s", "manage.py", "static", True),
            **release,  # type: ignore[arg-type]
        ),
        health_path="/",
        hostnames=hostnames,
        database="site_1",
        sealed="",
    )


def answered_site(slug: str, revision: int = 1, **changes: Any) -> dict[str, Any]:
    """One site as `agent_v1.desired` answers it, for tests without a database."""
    return {
        "slug": slug, "number": 1, "project_number": 1, "revision": revision, "present": True, "generation": 1,
        "mode": "live", "runtime": "always_on", "processes": 1, "threads": 1,
        "release": {"name": "demo-1", "digest": "d", "wsgi": "a:b", "settings": "s", "manage": "manage.py",
                    "static": None, "serve_media": False},
        "health_path": "/", "hostnames": [f"{slug}.localhost"], "database": "site_1", "sealed": "",
    } | changes  # fmt: skip


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], Any], seconds: float = 20.0, what: str = "") -> Any:
    """Return the first true answer of `condition`; fail loudly otherwise."""
    deadline = time.monotonic() + seconds
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what or condition}")
        time.sleep(0.005)


def has_idle_groups(groups: dict[str, str]) -> bool:
    """Whether the kernel lets a group of the processor give way (since 5.15)."""
    probe = Path(groups.get("cpu", "/nowhere")) / "probe"
    try:
        probe.mkdir()
    except OSError:
        return False
    try:
        return (probe / "cpu.idle").exists()
    finally:
        probe.rmdir()


def reachable_python() -> str | None:
    """Return an interpreter of this version that any user can execute, None when there is none."""
    candidates = [f"/usr/bin/python3.{sys.version_info.minor}", os.path.realpath(sys.executable)]
    for candidate in candidates:
        if os.path.exists(candidate) and (not AS_ROOT or _world_executable(candidate)):
            return candidate
    return None


def _world_executable(path: str) -> bool:
    parents = [Path(path), *Path(path).parents]
    return all(p.stat().st_mode & 0o001 for p in parents)


@functools.cache
def borrowed_packages() -> list[str]:
    """Return the directories of what a release needs to run, readable by every user.

    They are the test run's own; where its directory is closed to others (a checkout below /root), copies of them.
    """
    own = [SITE_PACKAGES, ROOT / "library" / "src"]
    if not AS_ROOT or all(_world_executable(str(path)) for path in own):
        return [str(path) for path in own]
    copies = Path(tempfile.mkdtemp(prefix="tn-packages-"))
    atexit.register(shutil.rmtree, copies, ignore_errors=True)
    copies.chmod(0o755)
    names = ("django", "asgiref", "sqlparse", "granian")
    wanted = [*(SITE_PACKAGES / name for name in names), *SITE_PACKAGES.glob("*pyuwsgi*")]
    for source in [*wanted, ROOT / "library" / "src" / "django_tenantry"]:
        if source.is_dir():
            shutil.copytree(source, copies / source.name, ignore=shutil.ignore_patterns("__pycache__", "locale"))
        else:
            shutil.copy2(source, copies / source.name)
    return [str(copies)]


class Postgres:
    """A cluster of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._bin = find_postgres_bin()
        directory.mkdir(parents=True, exist_ok=True)
        self._as = []
        if AS_ROOT:
            shutil.chown(directory, "postgres", "postgres")
            self._as = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        self._run("initdb", "-D", str(directory / "data"), "-U", "super", "-A", "trust", "-N", "-E", "UTF8")
        self.start()
        with psycopg.connect(self.dsn("template1"), autocommit=True) as connection:
            connection.execute((Path(__file__).parent / "agent_v1.sql").read_text())
        self._databases = 0

    def dsn(self, database: str) -> str:
        return f"host={self.directory} user=super dbname={database}"

    def new_database(self) -> str:
        """Return the connection string of a fresh database with the double in it."""
        self._databases += 1
        name = f"node_{self._databases}"
        with psycopg.connect(self.dsn("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")  # type: ignore[call-overload]
            # A cloned database brings its template's epoch along.
        with psycopg.connect(self.dsn(name), autocommit=True) as connection:
            connection.execute("UPDATE agent_v1.state SET epoch = gen_random_uuid()")
        return self.dsn(name)

    def _run(self, program: str, *arguments: str) -> None:
        command = [*self._as, str(self._bin / program), *arguments]
        subprocess.run(command, check=True, capture_output=True, timeout=60, cwd="/")

    def start(self) -> None:
        options = f"-k {self.directory} -c listen_addresses='' -c fsync=off"
        log = str(self.directory / "log")
        self._run("pg_ctl", "-D", str(self.directory / "data"), "-l", log, "-w", "-o", options, "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-D", str(self.directory / "data"), "-m", "immediate", "-w", "stop")


class Node:
    """One home with its processes. Everything it started ends with `close`."""

    def __init__(self, postgres: Postgres) -> None:
        self.postgres = postgres
        self.dsn = postgres.new_database()
        self.home = Path(tempfile.mkdtemp(prefix="tn", dir="/tmp"))
        self.home.chmod(0o755)
        self.port = free_port()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.key = generate_key()
        self.uid_base = 1_900_000_000 if AS_ROOT else None
        (self.home / "secrets").mkdir()
        self.config = self.home / "secrets" / "agent.json"
        self.config.write_text(
            json.dumps(
                {
                    "home": str(self.home),
                    "node": "test",
                    "dsn": self.dsn,
                    "platform_key": self.key,
                    "bind": "127.0.0.1",
                    "http_port": self.port,
                    "uid_base": self.uid_base,
                    "nginx_group": "www-data" if AS_ROOT else None,
                    "tenant_database": {"host": str(postgres.directory), "port": 5432},
                    "redis_socket": None,
                }
            )
        )

    # Processes

    def python(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "tenantry.node", *arguments]

    def prepare(self) -> None:
        subprocess.run(self.python("prepare", "--config", str(self.config)), check=True, timeout=30)

    def spawn(self, name: str, command: list[str]) -> None:
        with (self.home / "logs" / f"{name}.out").open("ab") as log:
            self.processes[name] = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, cwd="/")

    def start_standby(self) -> None:
        self.spawn("standby", self.python("standby", "--config", str(self.config)))
        wait_until((self.home / "run" / "standby.sock").exists, what="standby")

    def start_nginx(self) -> None:
        log = str(self.home / "logs" / "nginx.log")
        self.spawn("nginx", ["/usr/sbin/nginx", "-e", log, "-p", str(self.home), "-c", f"{self.home}/etc/nginx.conf"])
        wait_until(lambda: _accepts(self.port), what="nginx")

    def start_emperor(self) -> None:
        self.spawn("emperor", self.python("emperor", "--config", str(self.config)))
        wait_until(lambda: (self.home / "run" / "emperor.sock").exists(), what="the emperor")

    def start_agent(self) -> None:
        self.spawn("agent", self.python("run", "--config", str(self.config)))

    def start(self) -> None:
        self.prepare()
        self.start_standby()
        self.start_nginx()
        self.start_emperor()
        self.start_agent()

    def stop(self, name: str, number: int = signal.SIGTERM) -> None:
        process = self.processes.pop(name)
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)

    def close(self) -> None:
        for name in ("agent", "emperor", "nginx", "standby"):
            if name in self.processes:
                # Killed, the emperor takes its vassals with it at once; asked, it waits 3 s.
                self.stop(name, signal.SIGKILL if name == "emperor" else signal.SIGTERM)
        left = asyncio.run(remove_groups(Layout(self.home)))
        shutil.rmtree(self.home)
        assert not left, f"control groups are left: {left}"

    def output(self, name: str) -> str:
        return (self.home / "logs" / f"{name}.out").read_text()

    # Releases and sites

    def release(self, name: str, application: str = APPLICATION, version: str = "") -> None:
        """A release built by hand: the application, a virtualenv that borrows the tests' packages, a static file."""
        directory = self.home / "releases" / name
        (directory / "src").mkdir(parents=True)
        (directory / "static").mkdir()
        (directory / "static" / "style.css").write_text(f"/* {version or name} */")
        (directory / "src" / "app.py").write_text(f"VERSION = {version or name!r}\n{application}")
        (directory / "src" / "manage.py").write_text(
            "import os, sys\nprint(os.environ['TENANTRY_SITE'], os.getuid(), os.getcwd(), sys.argv[1:])\n"
            "sys.exit(int(sys.argv[2]) if sys.argv[1:2] == ['exit'] else 0)\n"
        )
        python = reachable_python()
        assert python is not None
        venv = [python, "-m", "venv", "--without-pip", "--symlinks", str(directory / "venv")]
        subprocess.run(venv, check=True, timeout=60)
        packages = next((directory / "venv" / "lib").glob("python3.*/site-packages"))
        (packages / "borrowed.pth").write_text("".join(f"{path}\n" for path in borrowed_packages()))

    def document(self, slug: str, number: int, release: str, **changes: Any) -> dict[str, Any]:
        environment = changes.pop("environment", {})
        sealed = {
            "environment": environment,
            "secret_key": f"key of {slug}",
            "database_password": "pw-database",
            "bypass_key": f"bypass of {slug}",
        }
        document = {
            "slug": slug,
            "number": number,
            "project_number": 1,
            "present": True,
            "generation": 1,
            "mode": "live",
            "runtime": "always_on",
            "processes": 1,
            "threads": 1,
            "release": {
                "name": release,
                "digest": f"sha256:{release}",
                "wsgi": "app:application",
                "settings": "app",
                "manage": "manage.py",
                "static": "static",
                "serve_media": True,
            },
            "health_path": "/",
            "hostnames": [f"{slug}.localhost"],
            "database": f"site_{number}",
            "sealed": Sealer([self.key]).seal(sealed),
        }
        release_changes = changes.pop("release_changes", {})
        document["release"] = document["release"] | release_changes  # type: ignore[operator]
        return document | changes

    def put(self, document: dict[str, Any], quiet: bool = False) -> int:
        """What control does: the row, the next revision, the notification, in one transaction."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            row = connection.execute("SELECT agent_v1.put(%s, %s)", (Jsonb(document), quiet)).fetchone()
        assert row is not None
        return int(row[0])

    def sql(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            cursor = connection.execute(query, parameters)  # type: ignore[arg-type]
            return cursor.fetchall() if cursor.description else []

    def last_report(self, slug: str) -> dict[str, Any] | None:
        rows = self.sql("SELECT report->'sites' FROM agent_v1.received ORDER BY number DESC LIMIT 50")
        for (sites,) in rows:
            for site in sites:
                if site["slug"] == slug:
                    return dict(site)
        return None

    def reported(self, slug: str, revision: int, state: str = "serving", seconds: float = 20.0) -> dict[str, Any]:
        """Wait for the report that `slug` has `state` at `revision`."""

        def look() -> dict[str, Any] | None:
            report = self.last_report(slug)
            return report if report and report["revision"] >= revision and report["state"] == state else None

        try:
            return dict(wait_until(look, seconds))
        except AssertionError:
            raise AssertionError(
                f"{slug} is not {state} at {revision}: {self.last_report(slug)}\n{self.output('agent')[-3000:]}"
                f"\n{self.output('emperor')[-2000:]}"
            ) from None

    # Asking nginx

    def get(
        self, host: str, path: str = "/", method: str = "GET", headers: dict[str, str] | None = None, body: bytes = b""
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body or None, {"Host": host} | (headers or {}))
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def page(self, host: str, path: str = "/", **options: Any) -> dict[str, Any]:
        status, _, body = self.get(host, path, **options)
        assert status == 200, (status, body)
        return dict(json.loads(body))

    def raw(self, request: bytes) -> bytes:
        """Send bytes as they are; return all that comes back."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
            connection.sendall(request)
            chunks = []
            with contextlib.suppress(ConnectionResetError):
                while chunk := connection.recv(65_536):
                    chunks.append(chunk)
            return b"".join(chunks)


@contextlib.contextmanager
def prepared(postgres: Postgres) -> Iterator[Node]:
    """A home without processes, over an empty desired state; nothing of it is left."""
    made = Node(postgres)
    try:
        made.prepare()
        yield made
    finally:
        made.close()


def _accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


@contextlib.contextmanager
def running_postgres() -> Iterator[Postgres]:
    directory = Path(tempfile.mkdtemp(prefix="tnpg", dir="/tmp"))
    directory.chmod(0o755)
    try:
        postgres = Postgres(directory)
        try:
            yield postgres
        finally:
            with contextlib.suppress(subprocess.CalledProcessError):
                postgres.stop()
    finally:
        shutil.rmtree(directory)
