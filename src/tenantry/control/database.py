"""Using Django's database from async code."""

from collections.abc import Callable
from datetime import datetime
from typing import ParamSpec, TypeVar

from asgiref.sync import sync_to_async
from django.db import connection

P = ParamSpec("P")
R = TypeVar("R")


def database_now() -> datetime:
    """Return the time by the database's clock: rows are dated by it, and control may run on another machine."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        now: datetime = cursor.fetchone()[0]
    return now


async def in_database(query: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run `query` in a thread and give its connection back at once.

    Without the latter a long answer (events, a long poll) would keep a connection of the pool until it ends.
    """

    def run() -> R:
        try:
            return query(*args, **kwargs)
        finally:
            if not connection.in_atomic_block:
                connection.close()

    return await sync_to_async(run)()
