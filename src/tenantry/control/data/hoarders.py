"""Connections of sites and nodes that hold up what is one for the whole server: ended by the jobs worker's guard."""

from typing import LiteralString

from tenantry.control.data.server import AdminConnection, TenantServer

# The queue of notifications is one for all databases. What has come since a transaction of anybody who listens began
# stays in it; when it is full, nobody can notify, so nobody can change anything.
QUEUE_MAX = 0.05  # part of it; a server at work is far below
QUEUE_MAX_BUSY = 0.25  # … from which on statements that run are ended as well: a dump may be among them
TRANSACTION_SECONDS = 5.0
BLOCKING_SECONDS = 3.0  # a node's report takes milliseconds; who is blocked by it gives up after 5 s

_GUESTS = "^(site|tpl|tenantry_node)_"
_NODES = "^tenantry_node_"

_QUEUE = """
    SELECT pid, usename::text FROM pg_stat_activity
    WHERE usename ~ %s AND xact_start < clock_timestamp() - make_interval(secs => %s)
      AND (%s OR state LIKE 'idle in transaction%%')
"""
_BLOCKING = """
    SELECT DISTINCT holder.pid, holder.usename::text
    FROM pg_stat_activity waiting
    CROSS JOIN LATERAL unnest(pg_blocking_pids(waiting.pid)) AS blocking(pid)
    JOIN pg_stat_activity holder ON holder.pid = blocking.pid
    WHERE waiting.wait_event_type = 'Lock' AND waiting.usename !~ %s
      AND holder.usename ~ %s AND holder.xact_start < clock_timestamp() - make_interval(secs => %s)
"""


def end_queue_holders(server: TenantServer) -> list[str]:
    """End the transactions of sites and nodes that may keep notifications in the queue; returns their roles."""
    with server.admin() as admin:
        limits = (QUEUE_MAX, QUEUE_MAX_BUSY)
        used = admin.execute(
            "SELECT used > %s, used > %s FROM pg_notification_queue_usage() AS used", limits
        ).fetchone()
        if used is None or not used[0]:
            return []
        return _end(admin, _QUEUE, (_GUESTS, TRANSACTION_SECONDS, used[1]))


def end_blocking_nodes(server: TenantServer) -> list[str]:
    """End the transactions of nodes that somebody else waits for, so that no node can keep people from removing it.

    Returns their roles.
    """
    with server.admin() as admin:
        return _end(admin, _BLOCKING, (_NODES, _NODES, BLOCKING_SECONDS))


def _end(admin: AdminConnection, query: LiteralString, parameters: tuple[object, ...]) -> list[str]:
    found = admin.execute(query, parameters).fetchall()
    for pid, _ in found:
        admin.execute("SELECT pg_terminate_backend(%s)", (pid,))
    return [str(role) for _, role in found]
