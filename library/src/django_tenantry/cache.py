"""Django's Redis cache for a Redis that many sites share.

The site's Redis user may touch only keys that begin with the site's prefix, and may neither list keys nor flush the
database. So a key reads `<prefix>:<generation>:<version>:<key>`, and `clear()` changes the generation: what it leaves
behind is out of reach, and goes away by its timeout or when Redis needs the memory.
"""

import secrets
import time
from typing import Any

from django.core.cache.backends.redis import RedisCache

GENERATION_SECONDS_MAX = 1.0  # how late a process without requests (a command, a queue) may notice another's clear()


class SiteCache(RedisCache):
    """Django's `RedisCache`, whose `clear()` removes this site's entries and needs no right to list or flush.

    Entries of one site that use different KEY_PREFIXes are separate. A `clear()` in another process is seen from the
    next request on, or after a second. The generation is random, never counted: when Redis evicts it, the cache is
    empty, and entries of an earlier generation cannot come back.
    """

    _generation: str | None = None
    _generation_read_at = 0.0

    def __init__(self, server: str | list[str], params: dict[str, Any]) -> None:
        super().__init__(server, params)
        if not self.key_prefix:
            raise ValueError("SiteCache needs a KEY_PREFIX: the site's Redis user may touch no other keys.")

    def make_key(self, key: Any, version: int | None = None) -> str:
        """Return the key in Redis. Asks Redis for the generation, at most once a request."""
        prefix = f"{self.key_prefix}:{self._current_generation()}"
        return str(self.key_func(key, prefix, self.version if version is None else version))

    def clear(self) -> bool:  # type: ignore[override]  # Django returns the answer of Redis; its stubs say None
        """Forget every entry of this cache. Other prefixes, other sites, are not touched."""
        generation = _new_generation()
        done = bool(self._cache.get_client(write=True).set(self._generation_key, generation))
        self._remember(generation)
        return done

    def close(self, **kwargs: Any) -> None:
        """End of a request: the next one asks for the generation again."""
        self._generation = None
        super().close(**kwargs)

    @property
    def _generation_key(self) -> str:
        return f"{self.key_prefix}:generation"

    def _current_generation(self) -> str:
        if self._generation is not None and time.monotonic() - self._generation_read_at < GENERATION_SECONDS_MAX:
            return self._generation
        client = self._cache.get_client(write=True)
        stored = client.get(self._generation_key)
        if stored is None:
            # Two processes may find it absent at once: the first to set it wins, both read it back.
            client.set(self._generation_key, _new_generation(), nx=True)
            stored = client.get(self._generation_key)
        return self._remember(stored.decode() if isinstance(stored, bytes) else _new_generation())

    def _remember(self, generation: str) -> str:
        self._generation, self._generation_read_at = generation, time.monotonic()
        return generation


def _new_generation() -> str:
    return secrets.token_hex(6)
