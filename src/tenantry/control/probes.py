"""Health of a control process: /healthz (it runs) and /readyz (it can do its work)."""

import logging

from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpRequest, JsonResponse
from psycopg_pool import PoolTimeout

logger = logging.getLogger(__name__)


async def healthz(request: HttpRequest) -> JsonResponse:
    """Answer 200 while the process answers at all."""
    return JsonResponse({"status": "ok"})


def readyz(request: HttpRequest) -> JsonResponse:
    """Answer 200 when the database is reachable and every migration is applied; 503 with the reason otherwise."""
    try:
        executor = MigrationExecutor(connection)
        waiting = len(executor.migration_plan(executor.loader.graph.leaf_nodes()))
    except (DatabaseError, PoolTimeout) as error:
        logger.warning("not ready: %s", error)
        return JsonResponse({"status": "not ready", "reason": "the database cannot be reached"}, status=503)
    if waiting:
        return JsonResponse({"status": "not ready", "reason": f"{waiting} migrations are not applied"}, status=503)
    return JsonResponse({"status": "ok"})
