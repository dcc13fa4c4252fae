"""The worker process: two queues, one connection that listens, an end that loses nothing.

A job starts milliseconds after its transaction commits: procrastinate's trigger notifies, this process listens.
"""

import asyncio
import contextlib
import logging
import signal

import psycopg
import redis
from asgiref.sync import sync_to_async
from procrastinate import App, utils
from procrastinate.exceptions import AlreadyEnqueued
from procrastinate.jobs import Status
from psycopg_pool import PoolTimeout

from tenantry.control.data.databases import end_lock_hoarders
from tenantry.control.data.hoarders import end_blocking_nodes, end_queue_holders
from tenantry.control.jobs.platform import Platform
from tenantry.control.jobs.tasks import BUILDS, SITES

SITE_JOBS_AT_ONCE = 4
GRACE_SECONDS = 20.0  # for jobs under way when the worker is asked to end; builds stop at once
GUARD_SECONDS = 0.5  # with the server's own limit, how long a site's script can hold up all others' caches
# Notifications start jobs; this is for those that wait for a time, such as the end of a mode, which people see.
POLL_SECONDS = 1.0

logger = logging.getLogger(__name__)


async def work(app: App, platform: Platform) -> int:
    """Run jobs until SIGTERM or SIGINT; returns the exit code: 0 when asked to end, 1 when a queue ended by itself.

    Only one worker serves a home: at the start, every job that is «doing» is one that a killed worker left.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with app.open_async():
        await recover(app, platform)
        queues = {
            asyncio.create_task(_serve(app, SITES, SITE_JOBS_AT_ONCE)),
            asyncio.create_task(_serve(app, BUILDS, 1)),
        }
        asked = asyncio.create_task(stop.wait())
        guard = asyncio.create_task(_guard(platform))
        await asyncio.wait({*queues, asked}, return_when=asyncio.FIRST_COMPLETED)
        platform.stopping.set()
        for task in (*queues, asked, guard):
            task.cancel()
        results = await asyncio.gather(*queues, guard, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                logger.error("a queue ended with %r", result)
    return 0 if stop.is_set() else 1


async def _serve(app: App, queue: str, concurrency: int) -> None:
    await app.run_worker_async(
        queues=[queue],
        name=queue,
        concurrency=concurrency,
        fetch_job_polling_interval=POLL_SECONDS,
        shutdown_graceful_timeout=GRACE_SECONDS,
        install_signal_handlers=False,  # two queues, one handler: `work`
        delete_jobs="successful",
    )


async def _guard(platform: Platform) -> None:
    """End what one site or node does to the servers that all share, for as long as the worker runs."""
    while True:
        for done in await sync_to_async(_end_hoarding, thread_sensitive=False)(platform):
            logger.warning(done)
        await asyncio.sleep(GUARD_SECONDS)


def _end_hoarding(platform: Platform) -> list[str]:
    """Return what was done. A server that is away for the moment is no matter: what needs it says so."""
    done = []
    with contextlib.suppress(redis.RedisError):
        if platform.cache is not None and (said := platform.cache.end_stuck_script()):
            done.append(said)
        if platform.cache is not None:
            users = platform.cache.end_connection_hoarders()
            done += [f"the connections of {user} to Redis were ended: there were too many" for user in users]
    with contextlib.suppress(psycopg.Error, PoolTimeout):
        roles = end_lock_hoarders(platform.server)
        done += [f"a connection of {role} was ended: it held most of PostgreSQL's locks" for role in roles]
        roles = end_queue_holders(platform.server)
        done += [f"a connection of {role} was ended: PostgreSQL's queue of notifications filled up" for role in roles]
        roles = end_blocking_nodes(platform.server)
        done += [f"a connection of {role} was ended: the platform waited for it" for role in roles]
    return done


async def recover(app: App, platform: Platform) -> None:
    """Queue again what a killed worker was doing, and remove what its builds and dumps left half-made.

    Numbers that a restored database forgot are not given out again. What has run out is purged too: a machine that is
    off at night would never come to the daily job. Releases without an artifact are published by a job, after the
    builds that wait.
    """
    from tenantry.control.jobs import numbers, purging, releases, sites

    for job in await app.job_manager.list_jobs_async(status=Status.DOING.value):
        logger.warning("the job %s was interrupted and is queued again", job.call_string)
        await app.job_manager.retry_job(job, retry_at=utils.utcnow())
    for done in await sync_to_async(numbers.keep_numbers, thread_sensitive=False)(platform):
        logger.warning(done)
    removed = await sync_to_async(releases.remove_leftovers, thread_sensitive=False)(platform)
    if removed:
        logger.warning("removed what interrupted builds left: %s", ", ".join(removed))
    await sync_to_async(sites.remove_stale_backups, thread_sensitive=False)(platform.home / "backups")
    await purging.purge(app)
    with contextlib.suppress(AlreadyEnqueued):
        await app.configure_task("publish_missing").defer_async()


def run(app: App, platform: Platform) -> int:
    """Run the worker in this process until it ends."""
    with contextlib.suppress(asyncio.CancelledError):
        return asyncio.run(work(app, platform))
    return 1
