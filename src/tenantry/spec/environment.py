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
    """A PostgreSQL database. `host` is the directory of its unix socket, or an address reached over TLS.

    `ca` is the file with the authority that must have signed the server's certificate; only with an address.
    """

    host: str
    port: int
    name: str
    user: str
    password: str = field(repr=False)
    ca: str | None = None

    @property
    def url(self) -> str:
        """`postgresql://user:password@/name?host=…&port=…`, or `…@host:port/name?sslmode=verify-full&sslrootcert=…`.

        A socket's directory travels as a parameter: libpq, dj-database-url and django-environ all read that form,
        while a percent-encoded host between @ and / reaches Django still encoded through django-environ.
        """
        login = f"postgresql://{quote(self.user, safe='')}:{quote(self.password, safe='')}"
        name = quote(self.name, safe="")
        if self.host.startswith("/"):
            return f"{login}@/{name}?host={quote(self.host, safe='')}&port={self.port}"
        options = "&".join(f"{option}={quote(value, safe='')}" for option, value in self.tls.items())
        return f"{login}@{_in_url(self.host)}:{self.port}/{name}" + (f"?{options}" if options else "")

    @property
    def tls(self) -> dict[str, str]:
        """Libpq's options for a server that must prove who it is."""
        return {} if self.ca is None else {"sslmode": "verify-full", "sslrootcert": self.ca}


@dataclass(frozen=True, slots=True)
class CacheAccess:
    """A Redis user who may touch only keys that begin with `<prefix>:`.

    `place` is the path of a unix socket or a `RedisServer` reached over TLS.
    """

    place: "str | RedisServer"
    user: str
    prefix: str
    password: str = field(repr=False)

    @property
    def redis_url(self) -> str:
        """The form of redis-py's `from_url` (and of Django's `LOCATION`).

        Over TLS it says how the server is verified; `ssl_cert_reqs` is what Celery asks for besides.
        """
        if isinstance(self.place, str):
            return f"unix://{self._login}@{quote(self.place)}?db=0"
        authority = "" if self.place.ca is None else f"&ssl_ca_certs={quote(self.place.ca, safe='')}"
        return f"rediss://{self._login}@{self.place.address}/0?ssl_cert_reqs=required{authority}"

    @property
    def cache_url(self) -> str:
        """The form of django-environ's `cache_url`, which makes of it a `LOCATION` with user and password in it.

        `key_prefix` is what the user's rights are limited to. The authority of a TLS server is not in it, since some
        versions hand every parameter on under a name that no backend takes: the library adds it where it is missing.
        """
        prefix = f"?key_prefix={quote(self.prefix, safe='')}"
        if isinstance(self.place, str):
            return f"redis://{self._login}@{quote(self.place)}{prefix}"
        return f"rediss://{self._login}@{self.place.address}/0{prefix}"

    @property
    def _login(self) -> str:
        return f"{quote(self.user, safe='')}:{quote(self.password, safe='')}"


@dataclass(frozen=True, slots=True)
class RedisServer:
    """A Redis behind TLS; `ca` is the file with the authority that signed its certificate (None: a public one)."""

    host: str
    port: int
    ca: str | None

    @property
    def address(self) -> str:
        return f"{_in_url(self.host)}:{self.port}"


@dataclass(frozen=True, slots=True)
class SitePlaces:
    """The absolute directories of a site. `media`, `home` and `tmp` are the site's to write, nothing else is.

    `mode_file`: where the site's processes find its mode while it is not live; None outside a node.
    """

    venv: str
    static: str
    media: str
    home: str
    tmp: str
    mode_file: str | None = None


@dataclass(frozen=True, slots=True)
class SiteIdentity:
    """Who a process is: the site, the names it answers to and the project's entry points."""

    slug: str
    hostnames: tuple[str, ...]
    settings: str
    wsgi: str
    secret_key: str = field(repr=False)
    asgi: str = ""  # empty: the site's engine needs none


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
    mode_file = {} if places.mode_file is None else {"TENANTRY_MODE_FILE": places.mode_file}
    return (
        mode_file
        | {
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
        | ({"TENANTRY_ASGI": identity.asgi} if identity.asgi else {})
    )


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
    # Libpq reads these also where a project hands it only host, name, user and password.
    tls = {f"PG{option.upper()}": value for option, value in database.tls.items()}
    return (
        named
        | tls
        | {
            "DATABASE_URL": database.url,
            "PGDATABASE": database.name,
            "PGHOST": database.host,
            "PGPASSWORD": database.password,
            "PGPORT": str(database.port),
            "PGUSER": database.user,
            "POSTGRES_DB": database.name,
        }
    )


def _cache(cache: CacheAccess | None) -> dict[str, str]:
    if cache is None:
        return {"CACHE_URL": "locmemcache://"}
    return {
        "CACHE_URL": cache.cache_url,
        "REDIS_URL": cache.redis_url,
        "TENANTRY_CACHE_PREFIX": cache.prefix,
        "TENANTRY_REDIS_URL": cache.redis_url,  # people may point REDIS_URL elsewhere; this one stays
    }


def _in_url(host: str) -> str:
    """Return a host as it stands in a URL: an IPv6 address between brackets."""
    return f"[{host}]" if ":" in host else host


def _belongs_to_platform(name: str) -> bool:
    return name in RESERVED_ENVIRONMENT or name.startswith(RESERVED_ENVIRONMENT_PREFIXES)


def _resolve(value: str, platform: Mapping[str, str]) -> str:
    return _REFERENCE.sub(lambda match: platform.get(match[1], match[0]), value)
