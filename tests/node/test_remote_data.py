"""A site on another machine than the database and Redis: its environment, against real servers with TLS."""

import datetime
import ipaddress
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from node_lab import AS_ROOT, Postgres, free_port, make_spec

from tenantry.embedded.certificates import make_ca, make_server_certificate, pem
from tenantry.node.config import Config, RedisAddress, parse_config
from tenantry.node.errors import ConfigError
from tenantry.node.render.document import Secrets, site_document
from tenantry.testing.postgres import has_postgres

PASSWORD = "p@ss/w:rd+%20?#&"  # every character that an address gives a meaning to
ADDRESS = "127.0.0.1"

READ_SETTINGS = {
    "configure": """
        DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "OPTIONS": {"sslmode": "disable"}}}
        CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
        from django_tenantry.settings import configure
        configure(globals())
    """,
    "django-environ": """
        import environ
        DATABASES = {"default": environ.Env().db()}
        CACHES = {"default": environ.Env().cache()}
    """,
    "dj-database-url": """
        import dj_database_url, os
        DATABASES = {"default": dj_database_url.config()}
        CACHES = {"default": {
            "BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": os.environ["REDIS_URL"]}}
    """,
    "single variables": """
        import os
        DATABASES = {"default": {"ENGINE": "django.db.backends.postgresql", "HOST": os.environ["DB_HOST"],
            "PORT": os.environ["DB_PORT"], "NAME": os.environ["DB_NAME"], "USER": os.environ["DB_USER"],
            "PASSWORD": os.environ["DB_PASSWORD"]}}
        CACHES = {"default": {
            "BACKEND": "django.core.cache.backends.redis.RedisCache",
            "LOCATION": os.environ["REDIS_URL"].partition("?")[0]}}
    """,
}
USE = """
import django, os
from django_tenantry.prefix import enforce_cache_prefix
enforce_cache_prefix()
django.setup()
from django.core.cache import cache
from django.db import connection
cache.set("color", "green")
with connection.cursor() as cursor:
    cursor.execute("SELECT current_user, (SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid())")
    print(*cursor.fetchone(), cache.get("color"))
"""


class TlsPostgres(Postgres):
    """A cluster that is reached over TLS, with a password."""

    port = 0

    def start(self) -> None:
        data = self.directory / "data"
        (data / "pg_hba.conf").write_text("local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n")
        for name in ("server.pem", "server.key"):
            shutil.copy(self.directory / name, data / name)
            (data / name).chmod(0o600)
            if AS_ROOT:
                shutil.chown(data / name, "postgres", "postgres")
        type(self).port = free_port()
        options = (
            f"-k {self.directory} -p {self.port} -c listen_addresses={ADDRESS} -c fsync=off"
            " -c ssl=on -c ssl_cert_file=server.pem -c ssl_key_file=server.key"
        )
        self._run("pg_ctl", "-D", str(data), "-l", str(self.directory / "log"), "-w", "-o", options, "start")

    def dsn(self, database: str) -> str:
        return f"host={self.directory} port={self.port} user=super dbname={database}"


@dataclass(frozen=True)
class Servers:
    config: Config
    directory: Path


def make_certificates(directory: Path, address: str = ADDRESS) -> None:
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    ca = make_ca(ca_key, "test", now)
    (directory / "ca.pem").write_text(pem(ca))
    (directory / "server.pem").write_text(
        pem(make_server_certificate(ca_key, ca, key, ipaddress.IPv4Address(address), now))
    )
    plain = serialization.NoEncryption()
    text = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    (directory / "server.key").write_bytes(text)


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    if not has_postgres() or shutil.which("redis-server") is None:
        pytest.skip("needs PostgreSQL and redis-server")
    directory = Path(tempfile.mkdtemp(prefix="tntls", dir="/tmp"))
    directory.chmod(0o755)
    make_certificates(directory)
    postgres = TlsPostgres(directory)
    redis_port = free_port()
    rights = "resetchannels -@all +get +set +del +exists +expire +ping +auth +hello +client"
    (directory / "users.acl").write_text(f"user default off\nuser site_1 on >{PASSWORD} ~blog:* {rights}\n")
    tls = ["--tls-port", str(redis_port), "--tls-cert-file", "server.pem", "--tls-key-file", "server.key"]
    more = ["--tls-auth-clients", "no", "--tls-ca-cert-file", "ca.pem", "--aclfile", "users.acl", "--save", ""]
    redis = subprocess.Popen(
        ["redis-server", "--port", "0", "--bind", ADDRESS, *tls, *more], cwd=directory, stdout=subprocess.DEVNULL
    )
    try:
        with psycopg.connect(postgres.dsn("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE ROLE site_1 LOGIN PASSWORD '{PASSWORD}'")
            connection.execute("CREATE DATABASE site_1 OWNER site_1")
        config = parse_config(
            {
                "home": str(directory), "node": "second", "dsn": "x", "platform_key": "k", "bind": ADDRESS,
                "http_port": 80, "uid_base": None, "nginx_group": None, "redis_socket": None,
                "tenant_database": {"host": ADDRESS, "port": postgres.port, "ca": str(directory / "ca.pem")},
                "redis": {"host": ADDRESS, "port": redis_port, "ca": str(directory / "ca.pem")},
            }
        )  # fmt: skip
        yield Servers(config, directory)
    finally:
        redis.terminate()
        redis.wait(10)
        postgres.stop()
        shutil.rmtree(directory)


def use(servers: Servers, config: Config, settings: str, tmp_path: Path) -> "subprocess.CompletedProcess[str]":
    """Run a project with these settings in the environment the node makes for the site."""
    secrets = Secrets({}, "key", PASSWORD, PASSWORD)
    environment = dict(site_document(make_spec(), secrets, config, None)["environment"])
    lines = [line.removeprefix("        ") for line in settings.splitlines()]
    (tmp_path / "project_settings.py").write_text("\n".join([*lines, "SECRET_KEY = 'x'", "USE_TZ = True"]))
    wanted = {
        "DJANGO_SETTINGS_MODULE": "project_settings",
        "PYTHONPATH": os.pathsep.join([str(tmp_path), *(path for path in sys.path if path)]),
        "HOME": str(tmp_path),
    }
    return subprocess.run(
        [sys.executable, "-c", USE], env=environment | wanted, capture_output=True, text=True, timeout=60, cwd=tmp_path
    )


@pytest.mark.parametrize("way", READ_SETTINGS)
def test_every_way_of_reading_the_environment_reaches_both_over_tls(servers: Servers, way: str, tmp_path: Path) -> None:
    result = use(servers, servers.config, READ_SETTINGS[way], tmp_path)
    assert result.stdout == "site_1 True green\n", result.stderr[-2000:]


@pytest.mark.parametrize("way", READ_SETTINGS)
@pytest.mark.parametrize("server", ["database", "redis"])
def test_servers_that_another_authority_signed_are_not_talked_to(
    servers: Servers, way: str, server: str, tmp_path: Path
) -> None:
    make_certificates(tmp_path)
    other = str(tmp_path / "ca.pem")
    assert servers.config.redis is not None
    config = (
        replace(servers.config, database_ca=other)
        if server == "database"
        else replace(servers.config, redis=RedisAddress(ADDRESS, servers.config.redis.port, other))
    )
    result = use(servers, config, READ_SETTINGS[way], tmp_path)
    assert result.returncode != 0
    assert "certificate verify failed" in result.stderr.lower()


def test_libpq_alone_finds_and_verifies_the_database(servers: Servers) -> None:
    secrets = Secrets({}, "key", PASSWORD, PASSWORD)
    environment = site_document(make_spec(), secrets, servers.config, None)["environment"]
    names = {name: value for name, value in environment.items() if name.startswith("PG")}
    assert names["PGSSLMODE"] == "verify-full"
    code = "import psycopg; print(psycopg.connect('').execute('SELECT current_user').fetchone()[0])"
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={"PATH": os.environ["PATH"]} | names,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.stdout == "site_1\n", result.stderr


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"redis": 6379}, "redis: must be null or an object"),
        ({"redis": {"host": "a", "port": 0}}, "redis.port: must be between"),
        ({"control_url": "ftp://x", "node_token": "tnn_x"}, "control_url: must begin with https://"),
        (
            {"control_url": "https://x", "node_token": "t", "control_ca": "ca.pem"},
            "control_ca: must be an absolute path",
        ),
        ({"artifact_directory": "artifacts"}, "artifact_directory: must be an absolute path"),
        ({"tenant_database": {"host": "a", "port": 1, "ca": 3}}, "ca: must be a text"),
    ],
)
def test_what_is_wrong_in_agent_json_is_named(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    document = {
        "home": "/tmp", "node": "n", "dsn": "x", "platform_key": "k", "bind": ADDRESS, "http_port": 80,
        "tenant_database": {"host": "/x", "port": 1},
    }  # fmt: skip
    with pytest.raises(ConfigError, match=message):
        parse_config(document | changes)
    assert parse_config(document).control is None
