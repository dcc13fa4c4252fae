"""A fresh, migrated control database for each test, and the people and things that tests begin with."""

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tenantry.testing.control import CONTROL_ROLE, DATABASE, NODE_ROLE, ControlDatabase, prepare_django
from tenantry.testing.fixtures import control_database, control_template, postgres_server
from tenantry.testing.postgres import PORT, PostgresServer

prepare_django()

from django.conf import settings  # noqa: E402
from django.test import Client  # noqa: E402

from tenantry.control.access.actors import Actor  # noqa: E402
from tenantry.control.access.services import create_token, ensure_administrator  # noqa: E402
from tenantry.control.config import Cluster  # noqa: E402
from tenantry.control.fleet import services as fleet  # noqa: E402
from tenantry.control.releases import services as releases  # noqa: E402
from tenantry.control.sites import services as sites  # noqa: E402
from tenantry.control.sites.models import Site  # noqa: E402

__all__ = ["control_database", "control_template", "postgres_server"]

START_SECONDS = 90.0  # on a busy machine
FACTS = releases.ReleaseFacts(
    digest="sha256:aa",
    commit="abc",
    python="3.11.2",
    django="5.2.1",
    wsgi="demo.wsgi:application",
    settings="demo.settings",
    manage="manage.py",
    static="static",
)


@pytest.fixture
def admin(control_database: ControlDatabase) -> Actor:
    ensure_administrator("admin", "correct horse battery")
    return Actor(name="admin", is_admin=True, username="admin")


@pytest.fixture
def token(admin: Actor) -> str:
    return create_token(admin, "tests")[1]


@pytest.fixture(scope="session")
def ca() -> str:
    """The certificate of an authority, PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tests")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


@pytest.fixture
def cluster(ca: str, settings: Any) -> Cluster:
    """This platform has an address for other machines."""
    made = Cluster("192.0.2.1", 5432, 6380, "https://192.0.2.1:8081", ca)
    settings.TENANTRY = replace(settings.TENANTRY, cluster=made, uid_base=200_000)
    return made


class Api:
    """Django's test client below /api/v1, sending JSON and a token."""

    def __init__(self, token: str | None) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._client = Client(headers=headers, raise_request_exception=False)

    def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        options: dict[str, Any] = {"headers": {name.replace("_", "-"): value for name, value in headers.items()}}
        if body is not None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            options |= {"data": data, "content_type": "application/json"}
        return self._client.generic(method, f"/api/v1{path}", **options)

    def get(self, path: str) -> Any:
        response = self("GET", path)
        assert response.status_code == 200, response.content
        return response.json()


@pytest.fixture
def api(token: str) -> Api:
    return Api(token)


@pytest.fixture
def project(admin: Actor) -> str:
    """The project «demo» with its ready release demo-1."""
    releases.add_project(admin, releases.ProjectRequest(name="demo", source="/srv/demo"))
    releases.finish_release("demo-1", FACTS)
    return "demo"


@pytest.fixture
def make_site(admin: Actor, project: str) -> Callable[..., Site]:
    """Create a site; a ready one unless told otherwise."""

    def make(slug: str, *, ready: bool = True, **fields: Any) -> Site:
        site = sites.create_site(admin, sites.SiteRequest(slug=slug, project=project, **fields))
        if ready:
            sites.mark_site_provisioned(site.number)
        return Site.objects.get(number=site.number)

    return make


class Agent:
    """What an agent does, by hand."""

    def __init__(self, connection: "psycopg.Connection[Any]") -> None:
        self.connection = connection

    def call(self, name: str, *arguments: Any) -> Any:
        marks = ", ".join(["%s"] * len(arguments))
        row = self.connection.execute(f"SELECT agent_v1.{name}({marks})", arguments).fetchone()
        assert row is not None
        return row[0]

    def desired(self, since: int = 0) -> Any:
        return self.call("desired", since)

    def report(self, *site_reports: dict[str, Any], **fields: Any) -> None:
        head = self.call("head")
        document = {**head, "digest": "d", "conditions": [], **fields, "sites": list(site_reports)}
        self.connection.execute("SELECT agent_v1.report(%s::jsonb)", [json.dumps(document)])

    def serve_all(self) -> None:
        """Report every desired site as serving."""
        self.report(
            *(
                {"slug": s["slug"], "revision": s["revision"], "generation": s["generation"], "state": "serving"}
                for s in self.desired()["sites"]
            )
        )


@pytest.fixture
def agent(control_database: ControlDatabase) -> Iterator[Agent]:
    with psycopg.connect(control_database.dsn(NODE_ROLE), autocommit=True) as connection:
        yield Agent(connection)


@pytest.fixture
def second_agent(control_database: ControlDatabase) -> Iterator[Agent]:
    """The agent of another node, «node-2»."""
    role = "tenantry_node_2"
    with control_database.server.connect() as superuser:
        superuser.execute(f"DROP ROLE IF EXISTS {role}")
        superuser.execute(f"CREATE ROLE {role} LOGIN")
    fleet.adopt_node("node-2", role)
    try:
        with psycopg.connect(control_database.dsn(role), autocommit=True) as connection:
            yield Agent(connection)
    finally:
        with control_database.server.connect(control_database.name) as superuser:
            superuser.execute(f"DROP OWNED BY {role}")
            superuser.execute(f"DROP ROLE {role}")


@dataclass(frozen=True)
class Live:
    """A control process as it runs on a platform: granian, ASGI."""

    url: str
    headers: dict[str, str]
    home: Path


@pytest.fixture(scope="session")
def live_process(
    control_template: PostgresServer, tmp_path_factory: pytest.TempPathFactory, ca: str
) -> Iterator[tuple[str, Path]]:
    """One process for all tests, because a start takes seconds: each test's database replaces the one before."""
    home = tmp_path_factory.mktemp("live")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    database = {"host": control_template.host, "port": PORT, "name": DATABASE, "user": CONTROL_ROLE, "password": ""}
    config = {
        "home": str(home),
        "database": database,
        "platform_key": settings.TENANTRY.platform_key,
        "secret_key": "tests only",
        "allowed_hosts": ["127.0.0.1"],
        "control_url": url,
        "http_port": 8080,
        "cluster": {
            "address": "192.0.2.1",
            "postgres_port": 5432,
            "redis_port": 6380,
            "gateway_url": "https://192.0.2.1:8081",
            "ca": ca,
        },
    }
    (home / "control.json").write_text(json.dumps(config))
    command = ["setpriv", "--pdeathsig", "TERM", sys.executable, "-m", "granian", "--interface", "asginl"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    with (home / "granian.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "tenantry.control.asgi:application"],
            env={"TENANTRY_CONTROL_CONFIG": str(home / "control.json"), "PATH": "/usr/bin:/bin", "HOME": str(home)},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield url, home
    finally:
        process.terminate()
        process.wait(START_SECONDS)


@pytest.fixture
def live(control_database: ControlDatabase, token: str, live_process: tuple[str, Path]) -> Live:
    url, home = live_process
    shutil.rmtree(home / "logs", ignore_errors=True)
    deadline = time.monotonic() + START_SECONDS
    while not _is_ready(url):
        if time.monotonic() > deadline:
            pytest.fail((home / "granian.log").read_text()[-5000:])
        time.sleep(0.05)
    return Live(url, {"Authorization": f"Bearer {token}"}, home)


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=10).status_code == 200
    except httpx.TransportError:
        return False
