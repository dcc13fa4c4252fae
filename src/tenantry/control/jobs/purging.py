"""What nobody asks for any more goes from the platform's own tables, once a day and when the worker starts."""

from datetime import timedelta

from asgiref.sync import sync_to_async
from procrastinate import App

FINISHED_JOBS_HOURS = 7 * 24  # a week to look at what failed; what people are told is kept with the site or release
DRIFT_KEPT = timedelta(days=30)
DRIFTS_KEPT = 10_000  # of each node, the latest
JOIN_TOKENS_KEPT = timedelta(days=30)  # after their end: a machine that tries one is told what is wrong with it


async def purge(app: App) -> None:
    """Remove ended sessions, remembered answers past their time, old differences of nodes, tokens to join that nobody
    can use, changes past their time, and jobs that ended a week ago, however they ended.

    Safe at any time and again: nothing that is still used is touched.
    """
    await sync_to_async(_purge_tables, thread_sensitive=False)()
    await app.job_manager.delete_old_jobs(
        FINISHED_JOBS_HOURS, include_failed=True, include_cancelled=True, include_aborted=True
    )


def _purge_tables() -> None:
    from django.contrib.sessions.backends.db import SessionStore
    from django.db import connection

    from tenantry.control.access.idempotency import forget_old_answers
    from tenantry.control.jobs.nodes import compact_log

    try:
        SessionStore.clear_expired()
        forget_old_answers()
        _purge_fleet()
        compact_log()
    finally:
        connection.close()  # the next time is tomorrow, perhaps in another thread


def _purge_fleet() -> None:
    from tenantry.control.database import database_now
    from tenantry.control.fleet.models import JoinToken, Node, NodeDrift

    now = database_now()
    JoinToken.objects.filter(expires_at__lt=now - JOIN_TOKENS_KEPT).delete()
    NodeDrift.objects.filter(found_at__lt=now - DRIFT_KEPT).delete()
    for name in Node.objects.values_list("name", flat=True):
        drifts = NodeDrift.objects.filter(node_id=name)
        surplus = drifts.order_by("-id").values_list("id", flat=True)[DRIFTS_KEPT : DRIFTS_KEPT + 1].first()
        if surplus is not None:
            drifts.filter(id__lte=surplus).delete()
