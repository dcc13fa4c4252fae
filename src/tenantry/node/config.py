"""agent.json: what the agent is told when it starts."""

import grp
import ipaddress
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tenantry.node.errors import ConfigError
from tenantry.node.layout import Layout, home_problem
from tenantry.spec.users import control_uid, project_uid, site_uid

_T = TypeVar("_T")

READY_SECONDS = 60
_GROUP = re.compile(r"[a-z_][a-z0-9_-]{0,31}\Z")


@dataclass(frozen=True, slots=True)
class Owner:
    """The identity a site's processes run under: its own uid and gid, and its project's gid to read the release."""

    uid: int
    gid: int
    project_gid: int


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """A Redis on another machine, behind TLS. `ca` is a file that every site can read."""

    host: str
    port: int
    ca: str | None


@dataclass(frozen=True, slots=True)
class ControlAccess:
    """How the agent reaches control's API: with its own token, and `ca` as the only authority it trusts."""

    url: str
    ca: Path | None
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Config:
    """The agent's configuration. `uid_base` is None where the agent is not root: everything is one user then.

    `database_ca` is set where the tenants' PostgreSQL is reached over TLS; then `redis` is, too, where there is one.
    Releases come from `artifact_directory` where the artifact store is a directory here, else from `control`.
    `ready_seconds`: a new generation that is not ready by then is given up.
    """

    home: Path
    node: str
    bind: str
    http_port: int
    uid_base: int | None
    nginx_group: str | None
    database_host: str
    database_port: int
    redis_socket: str | None
    dsn: str = field(repr=False)
    platform_keys: tuple[str, ...] = field(repr=False)
    database_ca: str | None = None
    redis: RedisAddress | None = None
    control: ControlAccess | None = None
    artifact_directory: Path | None = None
    ready_seconds: int = READY_SECONDS

    @property
    def layout(self) -> Layout:
        return Layout(self.home)

    def owner(self, site_number: int, project_number: int) -> Owner | None:
        """Return who site `site_number` runs as, or None when the agent cannot change user.

        `UserIdsExhausted` when it or its project has no user id of its own.
        """
        if self.uid_base is None:
            return None
        uid = site_uid(self.uid_base, site_number)
        return Owner(uid, uid, project_uid(self.uid_base, project_number))

    def nginx_gid(self) -> int | None:
        """Return the gid of nginx's workers, or None when nginx runs as the agent's own user."""
        if self.uid_base is None or self.nginx_group is None:
            return None
        try:
            return grp.getgrnam(self.nginx_group).gr_gid
        except KeyError as error:
            raise ConfigError(f"nginx_group: there is no group {self.nginx_group!r} on this machine") from error

    def control_gid(self) -> int | None:
        """Return the gid of control, which reads the sites' logs."""
        return None if self.uid_base is None else control_uid(self.uid_base)


def read_config(path: Path) -> Config:
    """Return the configuration in `path`; `ConfigError` naming the file and the key otherwise."""
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); `bin/up` writes it") from error
    except ValueError as error:
        raise ConfigError(f"{path}: is not JSON ({error})") from error
    try:
        return parse_config(document)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def parse_config(document: Any) -> Config:
    """Return `document` as a configuration; `ConfigError` naming the key otherwise."""
    if not isinstance(document, Mapping):
        raise ConfigError("must hold an object")
    database = document.get("tenant_database")
    if not isinstance(database, Mapping):
        raise ConfigError("tenant_database: must be an object with host and port")
    uid_base = document.get("uid_base")
    if uid_base is not None and (not isinstance(uid_base, int) or isinstance(uid_base, bool) or uid_base < 1000):
        raise ConfigError(f"uid_base: must be null or a number from 1000, not {uid_base!r}")
    if uid_base is not None and os.geteuid() != 0:
        raise ConfigError("uid_base: only root can run sites under their own users; set it to null")
    return Config(
        home=_home(_value(document, "home", str)),
        node=_value(document, "node", str),
        bind=_address(_value(document, "bind", str)),
        http_port=_port(document, "http_port"),
        uid_base=uid_base,
        nginx_group=_group(document.get("nginx_group")),
        database_host=_value(database, "host", str),
        database_port=_port(database, "port"),
        redis_socket=_optional_text(document, "redis_socket"),
        dsn=_value(document, "dsn", str),
        platform_keys=_keys(document.get("platform_key")),
        database_ca=_optional_text(database, "ca"),
        redis=_redis(document.get("redis")),
        control=_control(document),
        artifact_directory=_optional_path(document, "artifact_directory"),
        ready_seconds=_seconds(document, "ready_seconds", READY_SECONDS),
    )


def _redis(value: Any) -> RedisAddress | None:
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise ConfigError("redis: must be null or an object with host, port and ca")
    try:
        return RedisAddress(_value(value, "host", str), _port(value, "port"), _optional_text(value, "ca"))
    except ConfigError as error:
        raise ConfigError(f"redis.{error}") from error


def _control(document: Mapping[str, Any]) -> ControlAccess | None:
    """Return the access to control; an agent without it has all it needs on its own machine."""
    url, token = _optional_text(document, "control_url"), _optional_text(document, "node_token")
    if url is None or token is None:
        return None
    if not url.startswith(("https://", "http://")):
        raise ConfigError(f"control_url: must begin with https:// or http://, not {url!r}")
    return ControlAccess(url.rstrip("/"), _optional_path(document, "control_ca"), token)


def _optional_path(document: Mapping[str, Any], key: str) -> Path | None:
    text = _optional_text(document, key)
    if text is not None and not text.startswith("/"):
        raise ConfigError(f"{key}: must be an absolute path, not {text!r}")
    return None if text is None else Path(text)


def _value(document: Mapping[str, Any], key: str, kind: type[_T]) -> _T:
    value = document.get(key)
    if not isinstance(value, kind) or isinstance(value, bool) or value == "":
        wanted = "a number" if kind is int else "a text"
        raise ConfigError(f"{key}: must be {wanted}" + (", it is missing" if value is None else ""))
    return value


def _home(text: str) -> Path:
    problem = home_problem(text)
    if problem:
        raise ConfigError(f"home: {text!r} {problem}")
    real = os.path.realpath(text)
    if real != text:
        raise ConfigError(f"home: {text!r} leads through a link; write {real!r}")
    return Path(text)


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError as error:
        raise ConfigError(f"bind: must be an IP address such as 127.0.0.1, not {text!r}") from error


def _port(document: Mapping[str, Any], key: str) -> int:
    value = _value(document, key, int)
    if not 1 <= value <= 65535:
        raise ConfigError(f"{key}: must be between 1 and 65535, not {value}")
    return value


def _seconds(document: Mapping[str, Any], key: str, default: int) -> int:
    if document.get(key) is None:
        return default
    value = _value(document, key, int)
    if value < 1:
        raise ConfigError(f"{key}: must be at least 1, not {value}")
    return value


def _group(value: Any) -> str | None:
    if value is None or (isinstance(value, str) and _GROUP.match(value)):
        return value
    raise ConfigError(f"nginx_group: must be null or the name of a group, not {value!r}")


def _optional_text(document: Mapping[str, Any], key: str) -> str | None:
    return None if document.get(key) is None else _value(document, key, str)


def _keys(value: Any) -> tuple[str, ...]:
    keys = [value] if isinstance(value, str) else value
    if not isinstance(keys, list) or not keys or not all(isinstance(key, str) and key for key in keys):
        raise ConfigError("platform_key: must be a key, or a list of keys with the newest first")
    return tuple(keys)
