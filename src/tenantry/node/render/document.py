"""PURE: site.<generation>.json, all that the emperor's wrapper needs to become a site's process.

Its readers are the wrapper and `tenantry.node exec`; it holds secrets and what people typed, so it is 0600 and never
interpolated by anything.
"""

import json
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tenantry.node.config import Config, Owner
from tenantry.node.render.engine import LISTENING_FD, Protocol, queue_length
from tenantry.node.render.engines import driver_of
from tenantry.spec.environment import (
    CacheAccess,
    DatabaseAccess,
    RedisServer,
    SiteIdentity,
    SitePlaces,
    site_environment,
)
from tenantry.spec.errors import InvalidDocument
from tenantry.spec.sites import Engine, SiteSpec

VERSION = 1
OPEN_FILES = 4096  # descriptors of one site's process
PROCESSES = 512  # processes and threads of one site's user (root only: the limit counts per uid)
FILE_MB = 4096  # one file of a site whose disk space is not limited
LEAST_FILE_MB = 64  # its log may grow to half of that before it is cut


@dataclass(frozen=True, slots=True)
class Secrets:
    """What `SiteSpec.sealed` holds."""

    environment: Mapping[str, str] = field(repr=False)
    secret_key: str = field(repr=False)
    database_password: str = field(repr=False)
    cache_password: str | None = field(repr=False)
    bypass_key: str | None = field(default=None, repr=False)
    database_user: str | None = None  # None: the user named like the database
    cache_user: str | None = None

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Secrets":
        """Check the shape of an unsealed document; `InvalidDocument` names the key, never the value."""
        environment = document.get("environment", {})
        if not isinstance(environment, Mapping) or not all(
            isinstance(name, str) and isinstance(value, str) and "\0" not in name + value and "=" not in name
            for name, value in environment.items()
        ):
            raise InvalidDocument("the sealed environment must map names to texts without NUL")
        for key in ("secret_key", "database_password"):
            if not isinstance(document.get(key), str):
                raise InvalidDocument(f"the sealed document lacks the text {key}")
        return cls(
            environment,
            document["secret_key"],
            document["database_password"],
            document.get("cache_password"),
            document.get("bypass_key"),
            document.get("database_user"),
            document.get("cache_user"),
        )


def site_document(spec: SiteSpec, secrets: Secrets, config: Config, nginx_gid: int | None) -> dict[str, Any]:
    """Return the document of `spec`'s generation. `argv` starts its engine; `manage` is the argv of manage.py."""
    layout = config.layout
    release = layout.release(spec.release.name)
    python = f"{release}/venv/bin/python"
    owner = config.owner(spec.number, spec.project_number)
    manage = _inside(spec.release.manage)
    document = {
        "version": VERSION,
        "slug": spec.slug,
        "generation": spec.generation,
        "argv": driver_of(spec.release.engine).argv(python, str(layout.vassal(spec.slug, spec.generation))),
        "manage": [python, "-m", "django_tenantry", posixpath.basename(manage)],
        "cwd": posixpath.join(str(release), "src", posixpath.dirname(manage)).rstrip("/"),
        "environment": _environment(spec, secrets, config),
        "user": _user(owner),
        "socket": {
            "path": str(layout.socket(spec.slug, spec.generation)),
            "gid": nginx_gid,
            "fd": LISTENING_FD,
            "backlog": queue_length(spec.processes, spec.limits),
        },
        "log": {"path": str(layout.log(spec.slug)), "gid": config.control_gid()},
        "limits": _limits(spec, owner),
    }
    # Documents from before there was another engine do not name it; nor does one that is the same as it was then.
    return document if spec.release.engine is Engine.UWSGI else document | {"engine": spec.release.engine.value}


def protocol_of(document: Mapping[str, Any]) -> Protocol:
    """Return what is spoken on the socket of a document's generation; ValueError for an engine nobody knows."""
    return driver_of(Engine(document.get("engine", Engine.UWSGI))).protocol


def _limits(spec: SiteSpec, owner: Owner | None) -> dict[str, Any]:
    return {
        "open_files": OPEN_FILES,
        "processes": None if owner is None else PROCESSES,
        "memory_mb": spec.limits.memory_mb,
        "file_mb": max(spec.limits.disk_mb, LEAST_FILE_MB) if spec.limits.disk_mb else FILE_MB,
    }


def encode(document: Mapping[str, Any]) -> bytes:
    """Return the bytes of a document: the same document gives the same bytes."""
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def same_start(one: bytes, other: bytes) -> bool:
    """Whether two encoded documents start the same process; hostnames may have changed since, without a restart.

    Nor does it matter whether the process was told where its mode stands: nginx knows it in any case.
    """
    try:
        documents = [json.loads(text) for text in (one, other)]
        for document in documents:
            for name in ("TENANTRY_HOSTNAMES", "TENANTRY_MODE_FILE"):
                document["environment"].pop(name, None)
    except (ValueError, KeyError, TypeError, AttributeError):
        return False
    return bool(documents[0] == documents[1])


def _user(owner: Owner | None) -> dict[str, Any] | None:
    return None if owner is None else {"uid": owner.uid, "gid": owner.gid, "groups": [owner.project_gid]}


def _environment(spec: SiteSpec, secrets: Secrets, config: Config) -> dict[str, str]:
    release = config.layout.release(spec.release.name)
    data = config.layout.data(spec.slug)
    return site_environment(
        SiteIdentity(
            slug=spec.slug,
            hostnames=spec.hostnames,
            settings=spec.release.settings,
            wsgi=spec.release.wsgi,
            secret_key=secrets.secret_key,
            asgi=spec.release.asgi,
        ),
        SitePlaces(
            venv=f"{release}/venv",
            static=f"{release}/{spec.release.static or 'static'}",
            media=f"{data}/media",
            home=f"{data}/home",
            tmp=f"{data}/tmp",  # noqa: S108
            mode_file=str(config.layout.process_mode(spec.slug)),
        ),
        DatabaseAccess(
            config.database_host,
            config.database_port,
            spec.database,
            _user_name(spec, secrets.database_user),
            secrets.database_password,
            config.database_ca,
        ),
        _cache(spec, secrets, config),
        secrets.environment,
    )


def _cache(spec: SiteSpec, secrets: Secrets, config: Config) -> CacheAccess | None:
    place: str | RedisServer | None = config.redis_socket
    if config.redis is not None:
        place = RedisServer(config.redis.host, config.redis.port, config.redis.ca)
    if place is None or secrets.cache_password is None:
        return None
    return CacheAccess(place, _user_name(spec, secrets.cache_user), spec.slug, secrets.cache_password)


def _user_name(spec: SiteSpec, name: str | None) -> str:
    """One of the site's two users; control changes over when it renews their passwords."""
    if name not in (None, spec.database, f"{spec.database}_b"):
        raise InvalidDocument("the sealed document names a user that is not the site's")
    return name or spec.database


def _inside(path: str) -> str:
    if not path or path.startswith("/") or ".." in path.split("/") or "\0" in path:
        raise InvalidDocument("manage must be a path inside the release's source")
    return path
