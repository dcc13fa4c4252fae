"""The jobs that services defer, by name. Queue «sites»: several at once; queue «builds»: one after another.

The work is imported when a job runs: control's web processes only defer.
"""

from procrastinate import JobContext
from procrastinate.contrib.django import app

from tenantry.control.jobs.retries import Retries, reported

SITES = "sites"
BUILDS = "builds"


@app.task(name="provision_site", queue=SITES, retry=Retries(), pass_context=True)
def provision_site(context: JobContext, site_number: int) -> None:
    """Give a new site its data; see `jobs.sites`."""
    from tenantry.control.jobs import sites
    from tenantry.control.jobs.platform import platform
    from tenantry.control.sites import outcomes

    with reported(context, lambda message: outcomes.mark_site_failed(site_number, message)):
        sites.provision_site(platform(), site_number)


@app.task(name="remove_site", queue=SITES, retry=Retries(), pass_context=True)
def remove_site(context: JobContext, site_number: int, dump: bool) -> None:
    """Remove a deleted site's data; see `jobs.sites`."""
    from tenantry.control.jobs import sites
    from tenantry.control.jobs.platform import platform
    from tenantry.control.sites import outcomes

    with reported(context, lambda message: outcomes.mark_site_failed(site_number, message)):
        sites.remove_site(platform(), site_number, dump=dump)


@app.task(name="upgrade_site", queue=SITES, retry=Retries(), pass_context=True)
def upgrade_site(context: JobContext, site_number: int, release_name: str) -> None:
    """Migrate a site's database to another release; see `jobs.sites`."""
    from tenantry.control.jobs import sites
    from tenantry.control.jobs.platform import platform
    from tenantry.control.sites import outcomes

    with reported(context, lambda message: outcomes.fail_site_upgrade(site_number, message)):
        sites.upgrade_site(platform(), site_number, release_name)


@app.task(name="renew_passwords", queue=SITES, retry=Retries())
def renew_passwords() -> None:
    """Queue the renewal of every site's passwords; see `jobs.passwords`."""
    from tenantry.control.jobs import passwords

    passwords.queue_renewals()


@app.task(name="renew_site", queue=SITES, retry=Retries())
def renew_site(site_number: int) -> None:
    """Renew one site's passwords; see `jobs.passwords`."""
    from tenantry.control.jobs import passwords
    from tenantry.control.jobs.platform import platform

    passwords.renew_site(platform(), site_number)


@app.task(name="refuse_login", queue=SITES, retry=Retries())
def refuse_login(site_number: int, until: str) -> None:
    """Refuse the passwords that a site had before; see `jobs.passwords`."""
    from datetime import datetime

    from tenantry.control.jobs import passwords
    from tenantry.control.jobs.platform import platform

    passwords.refuse_login(platform(), site_number, datetime.fromisoformat(until))


@app.task(name="end_mode", queue=SITES, retry=Retries())
def end_mode(site_number: int, until: str) -> None:
    """Make a site live again whose mode was to end at `until` (ISO 8601)."""
    from datetime import datetime

    from tenantry.control.sites import services

    services.end_mode(site_number, datetime.fromisoformat(until))


@app.task(name="follow_mode", queue=SITES, retry=Retries(), pass_context=True)
def follow_mode(context: JobContext, site_number: int, actor: str) -> None:
    """Let a site's database follow its mode; see `jobs.site_databases`."""
    from tenantry.control.jobs import site_databases
    from tenantry.control.jobs.platform import platform
    from tenantry.control.sites import database_mode

    with reported(context, lambda message: database_mode.fail_database_mode(site_number, message)):
        site_databases.follow_mode(platform(), site_number, actor)


@app.task(name="build_release", queue=BUILDS, retry=Retries(), pass_context=True)
def build_release(context: JobContext, release_name: str) -> None:
    """Build a release; see `jobs.releases`."""
    from tenantry.control.jobs import releases
    from tenantry.control.jobs.platform import platform
    from tenantry.control.releases import services

    with reported(context, lambda message: services.fail_release(release_name, "", message)):
        releases.build_release(platform(), release_name)


@app.task(name="remove_project", queue=BUILDS, retry=Retries())
def remove_project(
    project_number: int, project_name: str, releases: list[str], artifacts: list[str] | None = None
) -> None:
    """Remove the files, artifacts and template databases of a removed project; see `jobs.releases`."""
    from tenantry.control.jobs import releases as jobs
    from tenantry.control.jobs.platform import platform

    jobs.remove_project(platform(), project_name, releases, artifacts or [])


@app.task(name="publish_missing", queue=BUILDS, queueing_lock="publish_missing", priority=-1, retry=Retries())
def publish_missing() -> None:
    """Publish the ready releases that have no artifact yet; see `jobs.releases`."""
    from tenantry.control.jobs import releases as jobs
    from tenantry.control.jobs.platform import platform

    jobs.publish_missing(platform())


@app.task(name="make_node_role", queue=SITES, retry=Retries())
def make_node_role(role: str, verifier: str) -> None:
    """Make the PostgreSQL role of a node that joins; see `jobs.nodes`."""
    from tenantry.control.jobs import nodes
    from tenantry.control.jobs.platform import platform

    nodes.make_node_role(platform(), role, verifier)


@app.task(name="drop_node_role", queue=SITES, retry=Retries())
def drop_node_role(role: str) -> None:
    """Drop the PostgreSQL role of a removed node; see `jobs.nodes`."""
    from tenantry.control.jobs import nodes
    from tenantry.control.jobs.platform import platform

    nodes.drop_node_role(platform(), role)


@app.periodic(cron="17 3 * * *")
@app.task(name="purge", queue=SITES, queueing_lock="purge", retry=Retries(), pass_context=True)
async def purge(context: JobContext, timestamp: int) -> None:
    """Remove what has run out from the platform's tables; see `jobs.purging`."""
    from tenantry.control.jobs import purging

    await purging.purge(context.app)
