"""The worker's connection to PostgreSQL, on which it listens for jobs.

Every role that may enter the database may notify on every channel, the nodes' roles too. So a notification is a hint
that a job may wait, and nothing else: what it says is neither trusted nor a reason to end the worker.
"""

import json
from collections.abc import Iterable

from procrastinate import PsycopgConnector
from procrastinate.connector import Notify

WAITING = json.dumps({"type": "job_inserted", "job_id": 0})


class HintConnector(PsycopgConnector):
    """Hands on every notification as «a job may wait». Jobs to be ended are found by asking, as without any."""

    async def listen_notify(self, on_notification: Notify, channels: Iterable[str]) -> None:
        async def heard(*, channel: str, payload: str) -> None:
            await on_notification(channel=channel, payload=WAITING)

        await super().listen_notify(heard, channels)
