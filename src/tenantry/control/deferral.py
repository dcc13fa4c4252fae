"""Deferring jobs inside the transaction of the act that needs them: no commit, no job."""

from datetime import datetime
from typing import Any


def defer(task: str, *, lock: str, schedule_at: datetime | None = None, **arguments: Any) -> None:
    """Queue the task of `jobs.tasks` on Django's own connection. Jobs with the same `lock` run one after another.

    `schedule_at`: not before then. It holds up later jobs with the same lock until it has run.

    The import is late because jobs call services: each needs the other only when it runs.
    """
    from tenantry.control.jobs import tasks

    getattr(tasks, task).configure(lock=lock, schedule_at=schedule_at).defer(**arguments)
