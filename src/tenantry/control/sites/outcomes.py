"""What jobs report of a site: provisioned, failed, upgraded, removed. Each may be called again without harm.

A site goes provisioning → ready | failed, ready → ready (a new release; a failed upgrade keeps the old one),
any → deleting → gone. An interruption leaves the state before, and the job is tried again.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta

from tenantry.control.access.actors import JOBS
from tenantry.control.changelog.services import ChangeType, act, append
from tenantry.control.database import database_now
from tenantry.control.deferral import LOW, defer
from tenantry.control.fleet import secrets
from tenantry.control.releases.models import Release
from tenantry.control.sealing import sealer
from tenantry.control.sites.locking import lock_name
from tenantry.control.sites.models import Site, SiteStatus

RENEWAL_LIMIT = timedelta(minutes=10)  # for nodes in contact to serve with new passwords; then the old ones end anyway
MESSAGE_MAX = 4_000  # characters of an error that a person reads


def mark_site_provisioned(site_number: int, sealed: str | None = None) -> None:
    """The site's database, role and cache user exist: nodes may serve it. Nothing when it is being deleted."""
    with act():
        site = _locked(site_number)
        if site is None or site.status in (SiteStatus.READY, SiteStatus.DELETING):
            return
        site.status, site.error = SiteStatus.READY, ""
        if sealed is not None:
            site.sealed = sealed
        site.save(update_fields=["status", "error", "sealed"])
        secrets.reseal_site(site)
        _append(ChangeType.SITE_PROVISIONED, site)


def mark_site_failed(site_number: int, message: str) -> None:
    """Provisioning failed for good, or a removal did (the site stays «deleting» and can be deleted again).

    A site that is served already stays ready, with the error shown.
    """
    with act():
        site = _locked(site_number)
        if site is None:
            return
        if site.status == SiteStatus.PROVISIONING:
            site.status = SiteStatus.FAILED
        site.error = _message(message)
        site.save(update_fields=["status", "error"])
        _append(ChangeType.SITE_FAILED, site, message=site.error)


def finish_site_upgrade(site_number: int, release_name: str) -> None:
    """The site's database is migrated: the next generation runs the release."""
    with act():
        site = _locked(site_number)
        if site is None or site.status == SiteStatus.DELETING:
            return
        release = Release.objects.get(project=site.project_id, name=release_name)
        if site.pending_release_id == release.pk:
            site.pending_release = None
        elif site.release_id == release.pk:
            return
        site.release, site.error = release, ""
        site.generation += 1
        site.save(update_fields=["release", "pending_release", "generation", "error"])
        _append(ChangeType.SITE_UPDATED, site, release=release_name, generation=site.generation)


def fail_site_upgrade(site_number: int, message: str) -> None:
    """The release's migrations failed: the site goes on with the release it has."""
    with act():
        site = _locked(site_number)
        if site is None or site.status == SiteStatus.DELETING:
            return
        wanted = site.pending_release.name if site.pending_release else None
        site.pending_release, site.error = None, _message(message)
        site.save(update_fields=["pending_release", "error"])
        _append(ChangeType.SITE_FAILED, site, message=site.error, release=wanted)


def renew_passwords(site_number: int, before: str | None, renewed: Mapping[str, str], refuse_after: timedelta) -> int:
    """Hand the nodes the site's new logins and passwords, with a new generation; returns the change's revision.

    `before` is the login that was in use: it is refused by a job in a while. 0 when the site is not served, or another
    login than `before` is in use by now.
    """
    with act():
        site = _locked(site_number)
        if site is None or site.status != SiteStatus.READY:
            return 0
        document = sealer().unseal(site.sealed)
        if document.get("database_user") != before:
            return 0
        site.sealed = sealer().seal({**document, **renewed})
        site.generation += 1
        site.save(update_fields=["sealed", "generation"])
        secrets.reseal_site(site)
        now = database_now()
        defer(
            "refuse_login",
            lock=lock_name(site),
            schedule_at=now + refuse_after,
            priority=LOW,
            site_number=site_number,
            until=(now + RENEWAL_LIMIT).isoformat(),
        )
        return _append(ChangeType.SITE_PASSWORDS, site, step="renewed", generation=site.generation)


def finish_renewal(site_number: int, behind: Sequence[str]) -> None:
    """The old login is refused; `behind` are nodes that did not serve with the new one yet."""
    with act():
        site = _locked(site_number)
        if site is None or site.status == SiteStatus.DELETING:
            return
        document = sealer().unseal(site.sealed)
        if document.pop("retiring_user", None) is not None:
            site.sealed = sealer().seal(document)
            site.save(update_fields=["sealed"])
            _append(ChangeType.SITE_PASSWORDS, site, step="old refused", behind=list(behind))


def finish_site_removal(site_number: int, dump: str | None = None) -> None:
    """Nothing of the site is left but `dump`, the path of its last dump: its row goes."""
    with act():
        site = _locked(site_number)
        if site is None:
            return
        site.delete()
        secrets.forget_site(site_number)
        _append(ChangeType.SITE_REMOVED, site, number=site_number, dump=dump)


def _locked(site_number: int) -> Site | None:
    return (
        Site.objects.select_for_update(of=("self",))
        .select_related("project", "pending_release")
        .filter(number=site_number)
        .first()
    )


def _append(change: ChangeType, site: Site, **metadata: object) -> int:
    return append(change, actor=JOBS.name, site=site.slug, project=site.project.name, metadata=metadata)


def _message(text: str) -> str:
    return text.replace("\0", "")[:MESSAGE_MAX]
