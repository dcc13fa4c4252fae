"""How a site's database follows its mode: it refuses writes while the mode is read_only.

Into read_only the nodes go first: their nginx refuses what would write, requests under way end, then the database
closes. Out of it, to live, the database goes first: the mode stays until a job has opened it (`pending_mode`), so no
visitor is let in by nginx and refused by the database. To maintenance and paused the mode changes at once: it lets
nobody in, and stopping a site must not wait for a job.

The job looks at what is wanted when it runs, not at what was asked when it was queued: jobs that are repeated, late or
overtaken by another request end in what is wanted now.
"""

from tenantry.control.access.actors import JOBS
from tenantry.control.changelog.services import ChangeType, act, append
from tenantry.control.deferral import defer
from tenantry.control.sites.locking import lock_name
from tenantry.control.sites.models import Site, SiteStatus
from tenantry.control.sites.outcomes import MESSAGE_MAX
from tenantry.spec.sites import Mode


def follow_mode(site: Site, mode: str, actor: str) -> bool:
    """Queue what the database needs for `mode`; the site's row is locked and still has the mode before.

    Returns True when the mode must stay as it is: the job sets it.
    """
    read_only = mode == Mode.READ_ONLY
    leaves = site.mode == Mode.READ_ONLY and mode == Mode.LIVE and site.status == SiteStatus.READY
    if site.pending_mode != (mode if leaves else None):
        site.pending_mode = mode if leaves else None
        site.save(update_fields=["pending_mode"])
    elif not leaves and site.mode == mode and site.database_read_only == read_only:
        return False
    if leaves or read_only or site.database_read_only or site.mode == Mode.READ_ONLY:
        defer("follow_mode", lock=lock_name(site), site_number=site.number, actor=actor)
    return leaves


def wants_read_only(site: Site) -> bool:
    """Whether the site's database is to refuse writes."""
    return site.mode == Mode.READ_ONLY and site.pending_mode is None


def finish_database_mode(site_number: int, *, read_only: bool, actor: str) -> None:
    """The database has been closed, or opened: then the mode that waited for this is set."""
    with act():
        site = _locked(site_number)
        if site is None or site.status == SiteStatus.DELETING:
            return
        pending, before = site.pending_mode, site.mode
        changed = site.database_read_only != read_only
        site.database_read_only = read_only
        if pending is not None and not read_only:
            site.mode, site.pending_mode = pending, None
            site.mode_options, site.mode_until = {}, None  # a live site has none
            fields = ["mode", "pending_mode", "mode_options", "mode_until", "database_read_only"]
            site.save(update_fields=fields)
            _append(ChangeType.SITE_MODE, site, actor, mode=site.mode, before=before)
        elif changed:
            site.save(update_fields=["database_read_only"])
            _append(ChangeType.SITE_DATABASE, site, JOBS.name, read_only=read_only)


def fail_database_mode(site_number: int, message: str) -> None:
    """The database could not follow the mode; the person who asked reads why, and may ask again."""
    with act():
        site = _locked(site_number)
        if site is None or site.status == SiteStatus.DELETING:
            return
        wanted = "read-only" if wants_read_only(site) else "writable"
        text = f"The database could not be made {wanted}: {message} Set the mode again to try once more."
        site.error = text.replace("\0", "")[:MESSAGE_MAX]
        site.save(update_fields=["error"])
        _append(ChangeType.SITE_FAILED, site, JOBS.name, message=site.error)


def _locked(site_number: int) -> Site | None:
    rows = Site.objects.select_for_update(of=("self",)).select_related("project")
    return rows.filter(number=site_number).first()


def _append(change: ChangeType, site: Site, actor: str, **metadata: object) -> None:
    append(change, actor=actor, site=site.slug, project=site.project.name, metadata=metadata)
