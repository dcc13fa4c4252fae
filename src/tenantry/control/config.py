"""The configuration file of a control process: `secrets/control.json` or `secrets/jobs.json`, read once at start."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CONFIG_VARIABLE = "TENANTRY_CONTROL_CONFIG"


class ConfigError(Exception):
    """The configuration cannot be used. The message names the file and the key."""


@dataclass(frozen=True, slots=True)
class Database:
    """Where a PostgreSQL server listens (`host` is the directory of its socket) and how to log in to it."""

    host: str = ""
    port: int = 5432
    name: str = ""
    user: str = ""
    password: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Redis:
    """The Redis server of the tenants: its socket, and the user that may edit the access list."""

    socket: str = ""
    admin_user: str = ""
    admin_password: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Artifacts:
    """Where built releases are kept for nodes to fetch: `kind` «directory» (empty: `<home>/artifacts`) or «s3»."""

    kind: str = "directory"
    directory: str = ""
    bucket: str = ""
    endpoint: str = ""
    region: str = ""
    prefix: str = ""
    access_key: str = ""
    secret_key: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where other machines reach this one: PostgreSQL, Redis and `gateway_url` (the API), all with certificates that
    `ca` (PEM) signed."""

    address: str
    postgres_port: int
    redis_port: int
    gateway_url: str
    ca: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ControlConfig:
    """What a control or jobs process must know about its home. Empty values mean: not given (tests, type checks)."""

    home: Path = Path("/nonexistent")
    database: Database = Database()
    platform_key: str = field(default="", repr=False)
    secret_key: str = field(default="", repr=False)
    allowed_hosts: tuple[str, ...] = ()
    control_url: str = ""
    http_port: int = 0
    uid_base: int | None = None
    tenant_database: Database = Database()
    redis: Redis = Redis()
    library_wheel: str = ""
    postgres_bin: str = ""
    cluster: Cluster | None = None
    artifacts: Artifacts = Artifacts()


def read_config(path: Path) -> ControlConfig:
    """Return the configuration in the JSON file `path`; unknown keys are ignored, so that a newer file still loads.

    Raises `ConfigError` when the file cannot be read, is not JSON, or lacks `home` or `database`.
    """
    try:
        document = json.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}. Start the platform with bin/up, which writes it.") from error
    except ValueError as error:
        raise ConfigError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: must hold one JSON object")
    try:
        return parse_config(document)
    except KeyError as error:
        raise ConfigError(f"{path}: the key {error} is missing") from error
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from error


def parse_config(document: Mapping[str, Any]) -> ControlConfig:
    """Return `document` as a configuration; raises KeyError, TypeError or ValueError."""
    uid_base = document.get("uid_base")
    return ControlConfig(
        home=Path(document["home"]),
        database=_database(document["database"]),
        platform_key=str(document.get("platform_key", "")),
        secret_key=str(document.get("secret_key", "")),
        allowed_hosts=tuple(document.get("allowed_hosts", ())),
        control_url=str(document.get("control_url", "")),
        http_port=int(document.get("http_port") or 0),
        uid_base=None if uid_base is None else int(uid_base),
        tenant_database=_database(document.get("tenant_database") or {}),
        redis=_redis(document.get("redis") or {}),
        library_wheel=str(document.get("library_wheel") or ""),
        postgres_bin=str(document.get("postgres_bin") or ""),
        cluster=_cluster(document.get("cluster")),
        artifacts=_artifacts(document.get("artifacts") or {}),
    )


def config_from_environment() -> ControlConfig:
    """Return the configuration named by TENANTRY_CONTROL_CONFIG, or an empty one when the variable is unset."""
    path = os.environ.get(CONFIG_VARIABLE)
    return read_config(Path(path)) if path else ControlConfig()


def _database(document: Mapping[str, Any]) -> Database:
    return Database(
        host=str(document.get("host") or ""),
        port=int(document.get("port") or 5432),
        name=str(document.get("name") or ""),
        user=str(document.get("user") or ""),
        password=str(document.get("password") or ""),
    )


def _redis(document: Mapping[str, Any]) -> Redis:
    return Redis(
        socket=str(document.get("socket") or ""),
        admin_user=str(document.get("admin_user") or ""),
        admin_password=str(document.get("admin_password") or ""),
    )


def _cluster(document: Mapping[str, Any] | None) -> Cluster | None:
    """None for a platform of one machine."""
    if not document:
        return None
    return Cluster(
        address=str(document["address"]),
        postgres_port=int(document["postgres_port"]),
        redis_port=int(document["redis_port"]),
        gateway_url=str(document["gateway_url"]).rstrip("/"),
        ca=str(document["ca"]),
    )


def _artifacts(document: Mapping[str, Any]) -> Artifacts:
    kind = str(document.get("kind") or "directory")
    if kind not in ("directory", "s3"):
        raise ValueError(f"artifacts.kind: must be «directory» or «s3», not {kind!r}")
    directory = str(document.get("directory") or "")
    if directory and not directory.startswith("/"):
        raise ValueError(f"artifacts.directory: must be an absolute path, not {directory!r}")
    bucket = str(document.get("bucket") or "")
    if kind == "s3" and not bucket:
        raise ValueError("artifacts.bucket: is needed for the kind «s3»")
    return Artifacts(
        kind=kind,
        directory=directory,
        bucket=bucket,
        endpoint=str(document.get("endpoint") or ""),
        region=str(document.get("region") or ""),
        prefix=str(document.get("prefix") or ""),
        access_key=str(document.get("access_key") or ""),
        secret_key=str(document.get("secret_key") or ""),
    )
