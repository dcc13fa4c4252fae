"""The settings that a site overrides, for projects whose settings are hard-wired.

A project that reads DATABASE_URL, SECRET_KEY and the like from its environment does not need this module.
"""

import os
from collections.abc import Mapping, MutableMapping
from typing import Any

from django_tenantry.errors import EnvironmentIncomplete

# Engines that speak to PostgreSQL: kept, since a project's models may need what they add (PostGIS, metrics, …).
_POSTGRESQL_ENGINES = ("postgresql", "postgis", "psqlextra", "timescale")
# How to reach the database is the platform's to say; one of these in OPTIONS would win over HOST, NAME, USER, ….
_ADDRESS_OPTIONS = frozenset({"host", "hostaddr", "port", "dbname", "user", "password", "passfile", "service"})
_TLS_OPTIONS = "ssl"  # ... and so is how its server is verified: sslmode, sslrootcert, sslcert, …, from PGSSLMODE, …
_PLACES_OF_FILES = ("MEDIA_ROOT", "MEDIA_URL", "STATIC_ROOT", "STATIC_URL")


def configure(settings: MutableMapping[str, Any]) -> None:
    """Override in `settings` (a settings module's `globals()`) what belongs to the site. Call it on the last line.

    Does nothing at all unless TENANTRY_SITE is set, so `runserver` works as before. Raises `EnvironmentIncomplete` when
    TENANTRY_SITE is set without the rest of what the platform sets. Calling it twice changes nothing more.
    Databases and caches other than `default`, and LOGGING, stay as they are.
    """
    if not os.environ.get("TENANTRY_SITE"):
        return
    _configure_secrets(settings)
    _configure_database(settings)
    _configure_cache(settings)
    _configure_files(settings)
    _configure_hosts(settings)
    settings["DEBUG"] = False


def _configure_secrets(settings: MutableMapping[str, Any]) -> None:
    """Give the site its own key, also where another setting copied the project's (a JWT's SIGNING_KEY, …).

    A key that two sites share lets one site's users forge sessions and tokens of the other.
    """
    own = _required("SECRET_KEY")
    shared = settings.get("SECRET_KEY")
    settings["SECRET_KEY"] = own
    settings["SECRET_KEY_FALLBACKS"] = []
    if isinstance(shared, str) and shared:
        for name in [name for name in settings if name.isupper()]:
            settings[name] = _replaced(settings[name], shared, own)


def _replaced(value: Any, old: str, new: str) -> Any:
    """Return `value` with every string equal to `old`, at any depth of dicts and lists, exchanged for `new`."""
    if isinstance(value, str):
        return new if value == old else value
    if type(value) is dict:
        return {key: _replaced(item, old, new) for key, item in value.items()}
    if type(value) is list:
        return [_replaced(item, old, new) for item in value]
    return value


def _configure_database(settings: MutableMapping[str, Any]) -> None:
    databases: Mapping[str, Mapping[str, Any]] = settings.get("DATABASES") or {}
    database = dict(databases.get("default") or {})
    engine = str(database.get("ENGINE", ""))
    options = dict(database.get("OPTIONS") or {})
    if not any(name in engine for name in _POSTGRESQL_ENGINES):
        engine = "django.contrib.gis.db.backends.postgis" if ".gis." in engine else "django.db.backends.postgresql"
        options = {}  # another database's options: psycopg would refuse them
    database |= {
        "ENGINE": engine,
        "HOST": _required("PGHOST"),
        "PORT": os.environ.get("PGPORT", ""),
        "NAME": _required("PGDATABASE"),
        "USER": _required("PGUSER"),
        "PASSWORD": os.environ.get("PGPASSWORD", ""),
        "OPTIONS": {
            name: value
            for name, value in options.items()
            if name not in _ADDRESS_OPTIONS and not name.startswith(_TLS_OPTIONS)
        },
    }
    settings["DATABASES"] = {**databases, "default": database}


def _configure_cache(settings: MutableMapping[str, Any]) -> None:
    """Point the default cache at the site's part of Redis. A platform without Redis leaves CACHES as it is."""
    location = os.environ.get("TENANTRY_REDIS_URL") or os.environ.get("REDIS_URL")
    if not location:
        return
    caches: Mapping[str, Mapping[str, Any]] = settings.get("CACHES") or {}
    kept = {name: value for name, value in caches.get("default", {}).items() if name in ("TIMEOUT", "VERSION")}
    site_cache = {
        "BACKEND": "django_tenantry.cache.SiteCache",
        "LOCATION": location,
        "KEY_PREFIX": os.environ.get("TENANTRY_CACHE_PREFIX") or _required("TENANTRY_SITE"),
    }
    settings["CACHES"] = {**caches, "default": kept | site_cache}


def _configure_files(settings: MutableMapping[str, Any]) -> None:
    for name in _PLACES_OF_FILES:
        if os.environ.get(name):
            settings[name] = os.environ[name]
    storages = settings.get("STORAGES") or {}
    default = dict(storages.get("default") or {})
    if str(default.get("BACKEND", "")).endswith(".FileSystemStorage"):
        # These win over MEDIA_ROOT and MEDIA_URL, and lead into the release's directory, which no site may write.
        places = ("location", "base_url")
        default["OPTIONS"] = {
            name: value for name, value in (default.get("OPTIONS") or {}).items() if name not in places
        }
        settings["STORAGES"] = {**storages, "default": default}


def _configure_hosts(settings: MutableMapping[str, Any]) -> None:
    """Take the hostname from the Host header alone, and cookies for that hostname alone.

    Any host is allowed because nginx hands over only requests whose Host is one of the site's hostnames, and nobody
    else reaches the site's socket; hostnames can then be added without a restart. X-Forwarded-Host has no such guard,
    and a cookie domain such as `.example.org` would send one site's session to every other site below it.
    """
    settings["ALLOWED_HOSTS"] = ["*"]
    settings["USE_X_FORWARDED_HOST"] = False
    settings["USE_X_FORWARDED_PORT"] = False
    for name in ("SESSION_COOKIE_DOMAIN", "CSRF_COOKIE_DOMAIN", "LANGUAGE_COOKIE_DOMAIN"):
        if name in settings:
            settings[name] = None


def _required(variable: str) -> str:
    value = os.environ.get(variable)
    if not value:
        raise EnvironmentIncomplete(variable)
    return value
