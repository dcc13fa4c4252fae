"""Numbers of sites and projects are never used again, also after a restored backup of the database forgot some.

A number is a user id, a database, a role and a Redis user. A database that was set back would give numbers out anew
whose files and databases are still here: of another tenant. So what is here is looked at when the worker starts, before
it provisions anything, and the database counts on from there.
"""

import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import redis
from django.db import connection

from tenantry.control.data.databases import site_numbers
from tenantry.control.jobs.platform import Platform
from tenantry.control.releases.models import Project
from tenantry.control.sites.models import Site
from tenantry.spec.users import project_uid, range_size, site_uid

_CACHE_USER = re.compile(r"site_([1-9][0-9]*)\Z")


def keep_numbers(platform: Platform) -> list[str]:
    """Have the database count on from the highest numbers in use; returns what was put right, in words."""
    done = []
    used = {Site: max(_used_by_sites(platform), default=0), Project: max(_used_by_projects(platform), default=0)}
    for model, highest in used.items():
        before = _raise(model._meta.db_table, highest)
        if before is not None:
            done.append(
                f"the database had given out {model._meta.verbose_name} numbers up to {before}, and {highest} is in "
                "use here: a backup was restored. It counts on from there"
            )
    return done


def foreign_files(platform: Platform, slug: str, number: int) -> Path | None:
    """Return a directory of another slug that belongs to the user of site `number`; None when there is none."""
    if platform.uid_base is None:
        return None
    uid = site_uid(platform.uid_base, number)
    for directory in _directories(platform.home / "data"):
        if directory.name != slug and uid in _owners([directory / "home"]):
            return directory
    return None


def _used_by_sites(platform: Platform) -> Iterator[int]:
    yield from site_numbers(platform.server)
    if platform.cache is not None:
        with contextlib.suppress(redis.RedisError):  # its users are among the databases too, but for a moment
            yield from (int(match[1]) for user in platform.cache.users() if (match := _CACHE_USER.match(user)))
    if platform.uid_base is not None:
        first = site_uid(platform.uid_base, 0)
        places = [place / name for place in _directories(platform.home / "data") for name in ("media", "home", "tmp")]
        yield from _numbers(places, first, platform.uid_base + range_size(platform.uid_base))


def _used_by_projects(platform: Platform) -> Iterator[int]:
    if platform.uid_base is not None:
        first, after = project_uid(platform.uid_base, 0), site_uid(platform.uid_base, 0)
        yield from _numbers(_directories(platform.home / "releases"), first, after)
        yield from _numbers(_directories(platform.home / "cache" / "uv"), first, after)


def _numbers(places: Iterable[Path], first: int, after: int) -> Iterator[int]:
    return (uid - first for uid in _owners(places) if first < uid < after)


def _owners(places: Iterable[Path]) -> set[int]:
    """The users and groups that the places belong to."""
    found: set[int] = set()
    for place in places:
        with contextlib.suppress(OSError):
            status = os.lstat(place)
            found |= {status.st_uid, status.st_gid}
    return found


def _directories(parent: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return [Path(entry.path) for entry in os.scandir(parent) if entry.is_dir(follow_symlinks=False)]
    return []


def _raise(table: str, highest: int) -> int | None:
    """Let the table's next number be beyond `highest`; returns the last one given out, None when it was beyond."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_get_serial_sequence(%s, 'number')", [table])
        (sequence,) = cursor.fetchone()
        cursor.execute("SELECT coalesce(pg_sequence_last_value(%s::regclass), 0)", [sequence])
        (last,) = cursor.fetchone()
        if last >= highest:
            return None
        cursor.execute("SELECT setval(%s, %s)", [sequence, highest])
    return int(last)
