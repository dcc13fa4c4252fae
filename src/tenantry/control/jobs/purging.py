"""What nobody asks for any more goes from the platform's own tables, once a day and when the worker starts."""

from asgiref.sync import sync_to_async
from procrastinate import App

FINISHED_JOBS_HOURS = 7 * 24  # a week to look at what failed; what people are told is kept with the site or release


async def purge(app: App) -> None:
    """Remove ended sessions, remembered answers past their time, and jobs that ended a week ago, however they ended.

    Safe at any time and again: nothing that is still used is touched.
    """
    await sync_to_async(_purge_access, thread_sensitive=False)()
    await app.job_manager.delete_old_jobs(
        FINISHED_JOBS_HOURS, include_failed=True, include_cancelled=True, include_aborted=True
    )


def _purge_access() -> None:
    from django.contrib.sessions.backends.db import SessionStore
    from django.db import connection

    from tenantry.control.access.idempotency import forget_old_answers

    try:
        SessionStore.clear_expired()
        forget_old_answers()
    finally:
        connection.close()  # the next time is tomorrow, perhaps in another thread
