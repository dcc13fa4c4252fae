"""Tells the platform when the site was last busy: an on-demand site without work for a while is put to sleep.

The platform leaves the process a file of its own, open under the number TENANTRY_ACTIVITY_FD, whose time counts. Where
there is none, nothing here does anything.
"""

import os
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from django_tenantry.gate import WSGIApplication

MARK_SECONDS = 0.5  # between marks: the platform looks once a second
AHEAD_MAX_SECONDS = 3600.0
PROBE = "TENANTRY_PROBE"  # the platform asks with it whether the application is loaded; visitors cannot


def keep_awake(seconds: float) -> None:
    """Keep the site awake for so long, at least: a queue has work, a job is due. At most an hour; call it again.

    Before that time is over the site does not sleep for want of visitors. Calling it with less takes nothing back.
    """
    descriptor = _descriptor(os.environ)
    if descriptor is not None:
        moment = time.time() + min(seconds, AHEAD_MAX_SECONDS)
        if moment > os.fstat(descriptor).st_mtime:
            os.utime(descriptor, (moment, moment))


def with_marks(application: WSGIApplication, environment: Mapping[str, str]) -> WSGIApplication:
    """Return `application` marking each request, and answering the platform's probe in its place.

    Itself where the platform left no file to mark.
    """
    if _descriptor(environment) is None:
        return application
    marks = Marks(environment)

    def marking(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if PROBE in environ:
            start_response("204 No Content", [])
            return []
        marks.mark()
        return application(environ, start_response)

    return marking


class Marks:
    """Marks requests, where the environment says in which file."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._descriptor = _descriptor(environment)
        self._marked = 0.0

    def mark(self) -> None:
        """Set the time to now, unless it is ahead: then `keep_awake` said more."""
        now = time.monotonic()
        if self._descriptor is None or now - self._marked <= MARK_SECONDS:
            return
        self._marked = now
        if os.fstat(self._descriptor).st_mtime < time.time():
            os.utime(self._descriptor)


def _descriptor(environment: Mapping[str, str]) -> int | None:
    number = environment.get("TENANTRY_ACTIVITY_FD", "")
    return int(number) if number.isdecimal() else None
