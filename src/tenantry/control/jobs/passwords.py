"""The jobs that renew sites' passwords, after a node that knew them was removed.

For each site: 1 another login gets a new password, in PostgreSQL and Redis · 2 the nodes are handed it, with a new
generation of the site's processes · 3 when all nodes in contact serve it, and the processes before are through, the old
login is refused and its connections are ended. Invariant: the login that the site's secrets name works. Interrupted
before 2, the next run makes another password; after 2, the job of 3 is queued.

One site after another, with a low priority: renewing starts every site's processes anew, which must not crowd out
visitors, nor people's jobs.
"""

import logging
from datetime import datetime, timedelta

from procrastinate.exceptions import AlreadyEnqueued

from tenantry.control.data import passwords
from tenantry.control.data.server import random_password
from tenantry.control.data.site_roles import SiteRoles
from tenantry.control.database import database_now
from tenantry.control.deferral import LOW, defer
from tenantry.control.fleet.queries import nodes_without
from tenantry.control.fleet.services import RENEWALS
from tenantry.control.jobs.platform import Platform
from tenantry.control.jobs.site_databases import wait_until
from tenantry.control.sealing import sealer
from tenantry.control.sites import outcomes, queries
from tenantry.control.sites.locking import lock_name
from tenantry.control.sites.models import Site, SiteStatus

FEATURE = "logins"  # of agents that read which login a site uses
PACE_SECONDS = 30.0  # for the nodes to serve one site with its new password, before the next site's turn
DRAIN = timedelta(seconds=45)  # nodes let the requests of a former generation run for 30 s
AGAIN = timedelta(seconds=15)
OLD_NODES_AGAIN = timedelta(minutes=5)

logger = logging.getLogger(__name__)


def queue_renewals() -> None:
    """Queue a renewal for each site that is served. One that waits for its turn already covers this one too."""
    from tenantry.control.jobs import tasks

    for number in Site.objects.filter(status=SiteStatus.READY).order_by("number").values_list("number", flat=True):
        task = tasks.renew_site.configure(lock=RENEWALS, queueing_lock=f"renew-{number}", priority=LOW)
        try:
            task.defer(site_number=number)
        except AlreadyEnqueued:
            continue


def renew_site(platform: Platform, number: int) -> None:
    """Steps 1 and 2 for one site; waits a moment for the nodes, so that not all sites start anew at once."""
    site = Site.objects.filter(number=number, status=SiteStatus.READY).first()
    if site is None:
        return
    document = sealer().unseal(site.sealed)
    old_nodes = nodes_without(FEATURE)
    if old_nodes or document.get("retiring_user"):
        if old_nodes:
            logger.warning("passwords stay for now: %s run an older release", ", ".join(old_nodes))
        wait = OLD_NODES_AGAIN if old_nodes else AGAIN
        defer("renew_site", lock=RENEWALS, schedule_at=database_now() + wait, priority=LOW, site_number=number)
        return
    roles, before = SiteRoles(number), document.get("database_user")
    login = roles.other_login(before or roles.site)
    renewed = {
        "database_user": login,
        "database_password": random_password(),
        "cache_user": login,
        "cache_password": random_password(),
        "retiring_user": before or roles.site,
    }
    passwords.open_login(platform.server, number, login, renewed["database_password"])
    if platform.cache is not None:
        platform.cache.provision_user(login, site.slug, renewed["cache_password"])
    revision = outcomes.renew_passwords(number, before, renewed, DRAIN)
    if revision:
        wait_until(platform, lambda: not queries.nodes_behind(site.slug, revision, serving=True), PACE_SECONDS)


def refuse_login(platform: Platform, number: int, until: datetime) -> None:
    """Step 3, as soon as the nodes serve, and at `until` in any case: a node that was removed is not to wait for."""
    site = Site.objects.filter(number=number).first()
    if site is None or site.status != SiteStatus.READY:
        return  # with the site, all its logins go
    login = sealer().unseal(site.sealed).get("retiring_user")
    if login is None:
        return
    behind = queries.nodes_behind(site.slug, site.revision, serving=True)
    now = database_now()
    if behind and now < until:
        lock, again = lock_name(site), now + AGAIN
        defer("refuse_login", lock=lock, schedule_at=again, priority=LOW, site_number=number, until=until.isoformat())
        return
    if behind:
        logger.warning("%s: old passwords end, though %s do not serve it with the new ones", site.slug, behind)
    passwords.refuse_login(platform.server, number, login)
    if platform.cache is not None:
        platform.cache.end_user(login)
    outcomes.finish_renewal(number, behind)
