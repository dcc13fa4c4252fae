"""Health of a control process: /healthz (it runs) and /readyz (it can do its work)."""

import logging
from functools import cache

from django.db import DatabaseError, connection
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder
from django.http import HttpRequest, JsonResponse
from psycopg_pool import PoolTimeout


@cache
def _known_migrations() -> frozenset[tuple[str, str]]:
    """Every migration of this code, read from disk once: that takes a hundred times longer than the question."""
    return frozenset(MigrationLoader(None).disk_migrations)


logger = logging.getLogger(__name__)


async def healthz(request: HttpRequest) -> JsonResponse:
    """Answer 200 while the process answers at all."""
    return JsonResponse({"status": "ok"})


def readyz(request: HttpRequest) -> JsonResponse:
    """Answer 200 when the database is reachable and every migration is applied; 503 with the reason otherwise."""
    try:
        waiting = len(_known_migrations() - MigrationRecorder(connection).applied_migrations().keys())
    except (DatabaseError, PoolTimeout) as error:
        logger.warning("not ready: %s", error)
        return JsonResponse({"status": "not ready", "reason": "the database cannot be reached"}, status=503)
    if waiting:
        return JsonResponse({"status": "not ready", "reason": f"{waiting} migrations are not applied"}, status=503)
    return JsonResponse({"status": "ok"})
