"""Which site this process is, and what it sees of its own database, cache and files."""

import platform
from typing import Any
from zlib import crc32

import django
from django.conf import settings
from django.core.cache import cache
from django.db import connection
from django.http import HttpRequest
from django.utils import timezone

from board.models import Note, Upload

FIRST_ASKED_SECONDS = 24 * 60 * 60


def context(request: HttpRequest) -> dict[str, Any]:
    """For every template: the site's name, the hostname asked for, and a colour of its own."""
    return {"site": settings.SITE_NAME, "hostname": request.get_host(), "hue": crc32(settings.SITE_NAME.encode()) % 360}


def whoami() -> dict[str, Any]:
    """What the site read just now from what belongs to it. `cached_value` stays the same until the cache forgets it."""
    return {
        "site": settings.SITE_NAME,
        "database": database_name(),
        "cache_prefix": settings.CACHES["default"]["KEY_PREFIX"],
        "notes": Note.objects.count(),
        "uploads": Upload.objects.count(),
        "cached_value": cache.get_or_set("first-asked", first_asked, FIRST_ASKED_SECONDS),
        "python": platform.python_version(),
        "django": django.get_version(),
    }


def first_asked() -> str:
    return f"{settings.SITE_NAME}, first asked at {timezone.now():%Y-%m-%d %H:%M:%S.%f}"


def database_name() -> str:
    """The database's own answer, not what the settings say."""
    if connection.vendor != "postgresql":
        return str(connection.settings_dict["NAME"])
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_database()")
        return str(cursor.fetchone()[0])
