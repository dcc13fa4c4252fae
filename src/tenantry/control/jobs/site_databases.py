"""The job that lets a site's database follow its mode; and who waits for nodes."""

import time
from collections.abc import Callable

from tenantry.control.data import writing
from tenantry.control.jobs.platform import Platform
from tenantry.control.jobs.retries import Interrupted
from tenantry.control.sites import database_mode, queries
from tenantry.control.sites.models import Site, SiteStatus

NODES_SECONDS = 5.0  # for the live nodes to refuse what would write; then the database does
REQUESTS_SECONDS = 5.0  # for requests that were let in before
QUIET_SECONDS = 1.0  # nothing written for so long: they are through
POLL_SECONDS = 0.1


def follow_mode(platform: Platform, number: int, actor: str) -> None:
    """Make a site's database what its mode wants now: closed for writing, or open. Safe again, and after a crash.

    1 the nodes · 2 requests under way · 3 the database · 4 what was done is recorded, and the mode that waited for it.
    """
    site = Site.objects.filter(number=number).first()
    if site is None or site.status != SiteStatus.READY:
        return
    read_only = database_mode.wants_read_only(site)
    if read_only:
        wait_until(platform, lambda: not queries.nodes_behind(site.slug, site.revision), NODES_SECONDS)
        _wait_for_requests(platform, number)
        writing.close_database(platform.server, number)
    else:
        writing.open_database(platform.server, number)
    database_mode.finish_database_mode(number, read_only=read_only, actor=actor)


def wait_until(platform: Platform, reached: Callable[[], bool], seconds: float) -> bool:
    """Return whether it was reached within the time. Raises `Interrupted` when the worker ends meanwhile."""
    deadline = time.monotonic() + seconds
    while not reached():
        if time.monotonic() >= deadline:
            return False
        if platform.stopping.wait(POLL_SECONDS):
            raise Interrupted("the worker ends")
    return True


def _wait_for_requests(platform: Platform, number: int) -> None:
    quiet_since = time.monotonic()

    def is_quiet() -> bool:
        nonlocal quiet_since
        if writing.is_writing(platform.server, number):
            quiet_since = time.monotonic()
        return time.monotonic() - quiet_since >= QUIET_SECONDS

    wait_until(platform, is_quiet, REQUESTS_SECONDS)
