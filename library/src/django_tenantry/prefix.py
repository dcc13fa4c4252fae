"""The site's key prefix, for projects whose settings do not say one.

Settings such as `{"BACKEND": "…RedisCache", "LOCATION": os.environ["REDIS_URL"]}` give keys no prefix; django-environ
0.13 and later reads `key_prefix` from CACHE_URL, but stores it under a name that Django does not look at. The site's
Redis user may touch only keys with the site's prefix, so without this every use of such a cache would fail.
"""

import os
from typing import Any
from urllib.parse import unquote, urlsplit

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
    socket = _place(address)
    configure_settings = caches.configure_settings

    def configured(settings: Any) -> Any:
        settings = configure_settings(settings)
        for cache in settings.values():
            add_prefix(cache, prefix, socket)
        return settings

    # The handler's own seam; CacheHandler calls it once, when the first cache is asked for.
    caches.configure_settings = configured  # type: ignore[method-assign]


def add_prefix(cache: dict[str, Any], prefix: str, socket: str) -> None:
    """Set KEY_PREFIX in `cache`, one entry of CACHES, in place. The project's own prefix goes behind the site's."""
    locations = cache.get("LOCATION") or ()
    if isinstance(locations, str):
        locations = locations.replace(";", ",").split(",")
    if socket not in [_place(str(location)) for location in locations]:
        return
    own = str(cache.get("KEY_PREFIX") or "")
    if own != prefix and not own.startswith(f"{prefix}:"):
        cache["KEY_PREFIX"] = f"{prefix}:{own}" if own else prefix


def _place(address: str) -> str:
    """Where a Redis address leads, without the login: `/path/redis.sock`, or `host:port`."""
    parts = urlsplit(address)
    if parts.scheme == "unix" or not parts.hostname:
        return unquote(parts.path)
    return f"{parts.hostname}:{parts.port or 6379}"
