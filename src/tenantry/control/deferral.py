"""Deferring jobs inside the transaction of the act that needs them: no commit, no job."""

from datetime import datetime
from typing import Any

LOW = -10  # the priority of jobs that people do not wait for


def defer(task: str, *, lock: str, schedule_at: datetime | None = None, priority: int = 0, **arguments: Any) -> None:
    """Queue the task of `jobs.tasks` on Django's own connection. Jobs with the same `lock` run one after another.

    `schedule_at`: not before then. It holds up later jobs with the same lock until it has run, but those of
    a higher `priority`.

    The import is late because jobs call services: each needs the other only when it runs.
    """
    from tenantry.control.jobs import tasks

    getattr(tasks, task).configure(lock=lock, schedule_at=schedule_at, priority=priority).defer(**arguments)
