"""The lock that every act on a site takes first: its row."""

from tenantry.control.errors import Conflict, NotFound, RevisionMismatch
from tenantry.control.sites.models import Site, SiteStatus


def locked_site(slug: str, expected_revision: int | None = None, *, deleting: bool = False) -> Site:
    """Lock the site's row. One that is being deleted is a `Conflict`, unless `deleting` says that this is meant."""
    site = Site.objects.select_for_update(of=("self",)).select_related("project", "release").filter(slug=slug).first()
    if site is None:
        raise NotFound(f"There is no site «{slug}».")
    if expected_revision is not None and site.revision != expected_revision:
        raise RevisionMismatch(f"The site «{slug}» is at revision {site.revision} now; read it again.")
    if site.status == SiteStatus.DELETING and not deleting:
        raise Conflict(f"The site «{slug}» is being deleted.")
    if site.status == SiteStatus.READY and site.error:
        # A failed upgrade was of an earlier act; the one that begins here has its own outcome.
        Site.objects.filter(pk=site.pk).update(error="")
        site.error = ""
    return site


def lock_name(site: Site) -> str:
    """Jobs of one site run one after another."""
    return f"site-{site.number}"
