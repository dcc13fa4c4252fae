"""Deferring jobs inside the transaction of the act that needs them: no commit, no job."""

from typing import Any


def defer(task: str, *, lock: str, **arguments: Any) -> None:
    """Queue the task of `jobs.tasks` on Django's own connection. Jobs with the same `lock` run one after another.

    The import is late because jobs call services: each needs the other only when it runs.
    """
    from tenantry.control.jobs import tasks

    getattr(tasks, task).configure(lock=lock).defer(**arguments)
