"""The site's key prefix, and the authority of its Redis, for projects whose settings do not say them.

Settings such as `{"BACKEND": "…RedisCache", "LOCATION": os.environ["REDIS_URL"]}` give keys no prefix; django-environ
0.13 and later reads `key_prefix` from CACHE_URL, but stores it under a name that Django does not look at. The site's
Redis user may touch only keys with the site's prefix, so without this every use of such a cache would fail.

Where Redis is on another machine, it is reached over TLS, and its certificate is signed by the platform's authority.
REDIS_URL says so; CACHE_URL cannot, since django-environ hands its parameters on under names that change by version.
"""

import os
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from django.core.cache import caches


def enforce_cache_prefix() -> None:
    """Give KEY_PREFIX to every cache of the settings that uses the site's Redis without the site's prefix.

    Acts when the project first uses a cache, so it can be called before the settings are loaded. Without
    TENANTRY_CACHE_PREFIX and a Redis address in the environment it does nothing.
    """
    prefix = os.environ.get("TENANTRY_CACHE_PREFIX")
    address = os.environ.get("TENANTRY_REDIS_URL") or os.environ.get("REDIS_URL")
    if not prefix or not address:
        return
    place = _place(address)
    configure_settings = caches.configure_settings

    def configured(settings: Any) -> Any:
        settings = configure_settings(settings)
        for cache in settings.values():
            add_prefix(cache, prefix, place)
            add_authority(cache, address)
        return settings

    # The handler's own seam; CacheHandler calls it once, when the first cache is asked for.
    caches.configure_settings = configured  # type: ignore[method-assign]


def add_prefix(cache: dict[str, Any], prefix: str, place: str) -> None:
    """Set KEY_PREFIX in `cache`, one entry of CACHES, in place. The project's own prefix goes behind the site's."""
    if place not in [_place(location) for location in _locations(cache)]:
        return
    own = str(cache.get("KEY_PREFIX") or "")
    if own != prefix and not own.startswith(f"{prefix}:"):
        cache["KEY_PREFIX"] = f"{prefix}:{own}" if own else prefix


def add_authority(cache: dict[str, Any], address: str) -> None:
    """Say in `cache` how the site's Redis is verified, in place, where the settings do not say it."""
    site = urlsplit(address)
    if site.scheme != "rediss" or not site.query:
        return
    locations = _locations(cache)
    completed = [
        _with_authority(location, site.query) if _is_at(location, address) else location for location in locations
    ]
    if completed != locations:
        cache["LOCATION"] = completed[0] if len(completed) == 1 else completed
        options = cache.get("OPTIONS")
        if isinstance(options, dict):
            # As some versions of django-environ write them: no backend takes these.
            cache["OPTIONS"] = {name: value for name, value in options.items() if not name.startswith("SSL_")}


def _with_authority(location: str, query: str) -> str:
    return f"{location}{'&' if urlsplit(location).query else '?'}{query}"


def _is_at(location: str, address: str) -> bool:
    """Whether `location` is the site's Redis over TLS, and does not say whom to trust."""
    parts = urlsplit(location)
    return (
        parts.scheme == "rediss" and _place(location) == _place(address) and "ssl_ca_certs" not in parse_qs(parts.query)
    )


def _locations(cache: dict[str, Any]) -> list[str]:
    locations = cache.get("LOCATION") or ()
    if isinstance(locations, str):
        locations = locations.replace(";", ",").split(",")
    return [str(location) for location in locations]


def _place(address: str) -> str:
    """Where a Redis address leads, without the login: `/path/redis.sock`, or `host:port`."""
    parts = urlsplit(address)
    if parts.scheme == "unix" or not parts.hostname:
        return unquote(parts.path)
    return f"{parts.hostname}:{parts.port or 6379}"
