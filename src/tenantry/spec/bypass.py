"""PURE: the cookie that lets a visitor into a site that is closed to others: an expiry, signed with the site's key."""

import hashlib
import hmac
import re

COOKIE = "tenantry_bypass"
PATH = "/.tenantry/bypass"  # under the site's own name; exchanged only while the site is in a mode
PARAMETER = "token"
HOURS_MAX = 168

_TOKEN = re.compile(r"([1-9][0-9]{0,11})\.([0-9a-f]{64})")


def sign_bypass(key: str, slug: str, expires: int) -> str:
    """Return the token that lets its bearer into `slug` until `expires` (seconds of the epoch)."""
    return f"{expires:d}.{_signature(key, slug, expires)}"


def verify_bypass(key: str, slug: str, token: str, now: float) -> int | None:
    """Return when a token of this key and site expires, None when it is none or has expired."""
    match = _TOKEN.fullmatch(token)
    if match is None or int(match[1]) <= now:
        return None
    expires = int(match[1])
    return expires if hmac.compare_digest(match[2], _signature(key, slug, expires)) else None


def _signature(key: str, slug: str, expires: int) -> str:
    return hmac.new(key.encode(), f"bypass {slug} {expires:d}".encode(), hashlib.sha256).hexdigest()
