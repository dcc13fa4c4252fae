"""PURE: the environment of a site's processes, the same for a worker, for `manage.py` and for a build.

Nothing is inherited: what is not listed here does not reach the project's code. Settings that read 12-factor
variables find the site's database, cache and directories under the names in common use.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

from tenantry.spec.names import RESERVED_ENVIRONMENT, RESERVED_ENVIRONMENT_PREFIXES

_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")

# The prefixes under which projects look for the parts of their database's address.
_DATABASE_PREFIXES = ("DB", "DATABASE", "POSTGRES")


@dataclass(frozen=True, slots=True)
class DatabaseAccess:
    """A PostgreSQL database behind a unix socket. `host` is the directory of the socket."""

    host: str
    port: int
    name: str
    user: str
    password: str = field(repr=False)

    @property
    def url(self) -> str:
        """`postgresql://user:password@/name?host=…&port=…`.

        The host travels as a parameter: libpq, dj-database-url and django-environ all read that form, while a
        percent-encoded host between @ and / reaches Django still encoded through django-environ.
        """
        return (
            f"postgresql://{quote(self.user, safe='')}:{quote(self.password, safe='')}@/{quote(self.name, safe='')}"
            f"?host={quote(self.host, safe='')}&port={self.port}"
        )


@dataclass(frozen=True, slots=True)
class CacheAccess:
    """A Redis user behind a unix socket, who may touch only keys that begin with `<prefix>:`."""

    socket: str
    user: str
    prefix: str
    password: str = field(repr=False)

    @property
    def redis_url(self) -> str:
        """The form of redis-py's `from_url` (and of Django's `LOCATION`)."""
        return f"unix://{self._address}?db=0"

    @property
    def cache_url(self) -> str:
        """The form of django-environ's `cache_url`, which makes of it a `LOCATION` with user and password in it.

        `key_prefix` is what the user's rights are limited to.
        """
        return f"redis://{self._address}?key_prefix={quote(self.prefix, safe='')}"

    @property
    def _address(self) -> str:
        return f"{quote(self.user, safe='')}:{quote(self.password, safe='')}@{quote(self.socket)}"


@dataclass(frozen=True, slots=True)
class SitePlaces:
    """The absolute directories of a site. `media`, `home` and `tmp` are the site's to write, nothing else is."""

    venv: str
    static: str
    media: str
    home: str
    tmp: str


@dataclass(frozen=True, slots=True)
class SiteIdentity:
    """Who a process is: the site, the names it answers to and the project's entry points."""

    slug: str
    hostnames: tuple[str, ...]
    settings: str
    wsgi: str
    secret_key: str = field(repr=False)


def site_environment(
    identity: SiteIdentity,
    places: SitePlaces,
    database: DatabaseAccess | None,
    cache: CacheAccess | None,
    typed: Mapping[str, str],
) -> dict[str, str]:
    """Return the complete environment of a site's process.

    Without a database or a cache the variables that name them are absent, and `CACHE_URL` is `locmemcache://`.
    `typed` is what people set for the site: `${NAME}` in a value is replaced by the platform's value of NAME, an
    unknown name stays as it was typed; a name that belongs to the platform is left out.
    """
    platform = {
        **_process(identity, places),
        **_django(identity, places),
        **_database(database),
        **_cache(cache),
    }
    allowed = {name: value for name, value in typed.items() if not _belongs_to_platform(name)}
    return platform | {name: _resolve(value, platform) for name, value in allowed.items()}


def _process(identity: SiteIdentity, places: SitePlaces) -> dict[str, str]:
    return {
        "HOME": places.home,
        "LANG": "C.UTF-8",
        "LOGNAME": identity.slug,
        "PATH": f"{places.venv}/bin:/usr/bin:/bin",
        "PYTHONDONTWRITEBYTECODE": "1",  # a release is never written to after its build
        "PYTHONUNBUFFERED": "1",
        "TMPDIR": places.tmp,
        "USER": identity.slug,
        "VIRTUAL_ENV": places.venv,
    }


def _django(identity: SiteIdentity, places: SitePlaces) -> dict[str, str]:
    return {
        # The node's nginx lets through only routed hostnames and nobody else reaches the socket.
        "ALLOWED_HOSTS": "*",
        "DEBUG": "False",
        "DJANGO_ALLOWED_HOSTS": "*",
        "DJANGO_DEBUG": "False",
        "DJANGO_SECRET_KEY": identity.secret_key,
        "DJANGO_SETTINGS_MODULE": identity.settings,
        "MEDIA_ROOT": places.media,
        "MEDIA_URL": "/media/",
        "SECRET_KEY": identity.secret_key,
        "STATIC_ROOT": places.static,
        "STATIC_URL": "/static/",
        "TENANTRY_HOSTNAMES": ",".join(identity.hostnames),
        "TENANTRY_SITE": identity.slug,
        "TENANTRY_WSGI": identity.wsgi,
    }


def _database(database: DatabaseAccess | None) -> dict[str, str]:
    if database is None:
        return {}
    parts = {
        "HOST": database.host,
        "PORT": str(database.port),
        "NAME": database.name,
        "USER": database.user,
        "PASSWORD": database.password,
    }
    named = {f"{prefix}_{part}": value for prefix in _DATABASE_PREFIXES for part, value in parts.items()}
    return named | {
        "DATABASE_URL": database.url,
        "PGDATABASE": database.name,
        "PGHOST": database.host,
        "PGPASSWORD": database.password,
        "PGPORT": str(database.port),
        "PGUSER": database.user,
        "POSTGRES_DB": database.name,
    }


def _cache(cache: CacheAccess | None) -> dict[str, str]:
    if cache is None:
        return {"CACHE_URL": "locmemcache://"}
    return {
        "CACHE_URL": cache.cache_url,
        "REDIS_URL": cache.redis_url,
        "TENANTRY_CACHE_PREFIX": cache.prefix,
        "TENANTRY_REDIS_URL": cache.redis_url,  # people may point REDIS_URL elsewhere; this one stays
    }


def _belongs_to_platform(name: str) -> bool:
    return name in RESERVED_ENVIRONMENT or name.startswith(RESERVED_ENVIRONMENT_PREFIXES)


def _resolve(value: str, platform: Mapping[str, str]) -> str:
    return _REFERENCE.sub(lambda match: platform.get(match[1], match[0]), value)
