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
PROBE = "TENANTRY_PROBE"  # the platform asks with it whether the application is loaded; visitors cannot


def keep_awake(seconds: float) -> None:
    """Keep the site awake for so long, at least: a queue has work, a job is due. At most an hour; call it again.

    Before that time is over the site does not sleep for want of visitors. Calling it with less takes nothing back.
    """
    descriptor = _descriptor(os.environ)
    if descriptor is not None:
        moment = time.time() + seconds
        if moment > os.fstat(descriptor).st_mtime:
            os.utime(descriptor, (moment, moment))


def with_marks(application: WSGIApplication, environment: Mapping[str, str]) -> WSGIApplication:
    """Return `application` marking each request, and answering the platform's probe in its place.

    Itself where the platform left no file to mark.
    """
    descriptor = _descriptor(environment)
    if descriptor is None:
        return application
    marked = 0.0

    def marking(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        nonlocal marked
        if PROBE in environ:
            start_response("204 No Content", [])
            return []
        now = time.monotonic()
        if now - marked > MARK_SECONDS:
            marked = now
            _mark(descriptor)
        return application(environ, start_response)

    return marking


def _mark(descriptor: int) -> None:
    """Set the time to now, unless it is ahead: then `keep_awake` said more."""
    if os.fstat(descriptor).st_mtime < time.time():
        os.utime(descriptor)


def _descriptor(environment: Mapping[str, str]) -> int | None:
    number = environment.get("TENANTRY_ACTIVITY_FD", "")
    return int(number) if number.isdecimal() else None
