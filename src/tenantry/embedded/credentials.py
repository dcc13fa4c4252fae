"""The platform's passwords and keys: made once at random, kept in <home>/secrets, one file for each reader.

`secrets/postgres.json` and `secrets/redis.json` are the originals; the readers' files (`control.json`, `jobs.json`,
`agent.json`) are rendered from them at every up, so a changed port or path reaches them.
"""

import base64
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psycopg.conninfo import make_conninfo

from tenantry.embedded.certificates import Certificates
from tenantry.embedded.config import Config
from tenantry.embedded.errors import HomeUnusable
from tenantry.embedded.files import read_json, write_file, write_json
from tenantry.embedded.home import Home
from tenantry.spec.users import control_uid

SUPERUSER = "tenantry_super"
CONTROL_ROLE = "tenantry_control"
JOBS_ROLE = "tenantry_jobs"
NODE_ROLE = "tenantry_node_1"
DATABASE = "tenantry"
# Every node's role belongs to it: pg_hba.conf lets its members in over TLS.
NODES_ROLE = "tenantry_nodes"
# The name inside the socket's file name, whatever port the server listens on for other nodes.
SOCKET_PORT = 5432
REDIS_ADMIN = "admin"
NGINX_GROUP = "www-data"
LOCAL_HOSTS = ("127.0.0.1", "localhost", "[::1]")


@dataclass(frozen=True, slots=True)
class Credentials:
    """Everything secret that the embedded platform made. `passwords` has one entry for each PostgreSQL role."""

    passwords: dict[str, str]
    redis_password: str
    platform_key: str
    secret_key: str
    node_key: str
    node_token: str


def keep_credentials(home: Home) -> Credentials:
    """Return the home's credentials, making at random whatever is missing. Existing ones never change."""
    postgres = read_json(home.secrets / "postgres.json") or {}
    passwords = dict(postgres.get("passwords") or {})
    for role in (SUPERUSER, CONTROL_ROLE, JOBS_ROLE, NODE_ROLE):
        passwords.setdefault(role, secrets.token_urlsafe(24))
    write_json(
        home.secrets / "postgres.json",
        {"host": str(socket_directory(home)), "port": SOCKET_PORT, "user": SUPERUSER, "passwords": passwords},
        0o600,
    )
    kept = read_json(home.secrets / "redis.json") or {}
    redis_password = str(kept.get("password") or secrets.token_urlsafe(24))
    write_json(home.secrets / "redis.json", {"user": REDIS_ADMIN, "password": redis_password}, 0o600)
    # 32 bytes, url-safe base64: the form of a Fernet key.
    platform_key = _keep_text(home, "platform.key", base64.urlsafe_b64encode(os.urandom(32)).decode())
    secret_key = _keep_text(home, "secret.key", secrets.token_urlsafe(50))
    _keep_text(home, "admin-password", secrets.token_urlsafe(12))
    # The first node's own, as joined nodes get theirs.
    node_key = _keep_text(home, "node.key", base64.urlsafe_b64encode(os.urandom(32)).decode())
    node_token = _keep_text(home, "node.token", f"tnn_{secrets.token_urlsafe(32)}")
    return Credentials(passwords, redis_password, platform_key, secret_key, node_key, node_token)


def write_reader_files(
    home: Home, config: Config, credentials: Credentials, postgres_bin: str, certificates: Certificates | None = None
) -> None:
    """Write the files of control, jobs and the agent, each owned by its reader, 0600."""
    cluster = cluster_document(config, certificates)
    control = control_document(home, config, credentials, postgres_bin, CONTROL_ROLE) | {"cluster": cluster}
    jobs = control_document(home, config, credentials, postgres_bin, JOBS_ROLE) | {"cluster": cluster}
    owner = None if config.uid_base is None else control_uid(config.uid_base)
    write_json(home.secrets / "control.json", control, 0o600, owner)
    write_json(home.secrets / "jobs.json", jobs, 0o600)
    write_json(home.secrets / "agent.json", agent_document(home, config, credentials), 0o600)


def control_document(
    home: Home, config: Config, credentials: Credentials, postgres_bin: str, role: str
) -> dict[str, Any]:
    """Return what a control process that logs in as `role` reads."""
    place = {"host": str(socket_directory(home)), "port": SOCKET_PORT}
    return {
        "home": str(home.root),
        "database": {**place, "name": DATABASE, "user": role, "password": credentials.passwords[role]},
        "platform_key": credentials.platform_key,
        "secret_key": credentials.secret_key,
        "allowed_hosts": [
            *LOCAL_HOSTS,
            *([config.cluster_address] if config.cluster_address else []),
        ],
        "control_url": config.control_url,
        "http_port": config.http_port,
        "uid_base": config.uid_base,
        "tenant_database": place,
        "redis": {
            "socket": str(redis_socket(home)),
            "admin_user": REDIS_ADMIN,
            "admin_password": credentials.redis_password,
        },
        "library_wheel": config.library_wheel or "",
        "postgres_bin": postgres_bin,
        "artifacts": artifacts_document(home),
    }


def artifacts_document(home: Home) -> dict[str, Any]:
    """Return where releases are kept for nodes: what a person wrote to `secrets/artifacts.json`, else the home's own
    directory. `HomeUnusable` when that file holds no JSON object."""
    path = home.secrets / "artifacts.json"
    if not path.exists():
        return {"kind": "directory", "directory": str(home.artifacts)}
    document = read_json(path)
    if document is None:
        raise HomeUnusable(f"{path}: must hold one JSON object (docs/how-to/artifact-store.md has examples).")
    return document


def cluster_document(config: Config, certificates: Certificates | None) -> dict[str, Any] | None:
    """Return what other nodes are told of the servers, None when there is no cluster address."""
    if certificates is None:
        return None
    return {
        "address": config.cluster_address,
        "postgres_port": config.postgres_port,
        "redis_port": config.redis_port,
        "ca": certificates.ca_text,
        "gateway_url": config.gateway_url,
    }


def agent_document(home: Home, config: Config, credentials: Credentials) -> dict[str, Any]:
    """Return what the agent reads."""
    place = {"host": str(socket_directory(home)), "port": SOCKET_PORT}
    return {
        "home": str(home.root),
        "node": config.node,
        "dsn": conninfo(home, NODE_ROLE, credentials.passwords[NODE_ROLE]),
        # What an older release's node remembers is sealed with the platform's key.
        "platform_key": [credentials.node_key, credentials.platform_key] if config.old_seals else credentials.node_key,
        "node_token": credentials.node_token,
        "control_url": config.control_url,
        "control_ca": None,
        "artifact_directory": artifacts_document(home).get("directory"),
        "bind": config.bind,
        "http_port": config.http_port,
        "uid_base": config.uid_base,
        "nginx_group": NGINX_GROUP if config.uid_base is not None else None,
        "tenant_database": place,
        "redis_socket": str(redis_socket(home)),
    }


def conninfo(home: Home, role: str, password: str, database: str = DATABASE) -> str:
    """Return the libpq connection string of `role`."""
    return make_conninfo(
        host=str(socket_directory(home)), port=SOCKET_PORT, dbname=database, user=role, password=password
    )


def socket_directory(home: Home) -> Path:
    """Return the directory of PostgreSQL's socket."""
    return home.root / "postgres" / "sock"


def redis_socket(home: Home) -> Path:
    """Return Redis's socket."""
    return home.root / "redis" / "redis.sock"


def _keep_text(home: Home, name: str, text: str) -> str:
    path = home.secrets / name
    if path.exists() and (kept := path.read_text().strip()):
        return kept
    write_file(path, text + "\n", 0o600)
    return text
