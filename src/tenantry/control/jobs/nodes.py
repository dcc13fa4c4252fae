"""The jobs of a node: the PostgreSQL role of its agent, made and dropped; and the log that all nodes follow."""

import time

from psycopg import sql

from tenantry.control.access.actors import JOBS
from tenantry.control.data.server import AdminConnection, execute
from tenantry.control.fleet.joining import NODES_ROLE
from tenantry.control.fleet.models import Node
from tenantry.control.fleet.services import compact
from tenantry.control.jobs.platform import Platform

CONNECTIONS = 10  # of one node's role: an agent has two, and a second agent may start while the first ends
END_SECONDS = 5.0  # for connections to end that were told to
END_POLL_SECONDS = 0.05


def make_node_role(platform: Platform, role: str, verifier: str) -> None:
    """Make the role of a node that has joined, a member of the group that may call `agent_v1`. Safe again.

    `verifier` is what PostgreSQL keeps of the password (SCRAM), not the password. Nothing when the node is removed.
    """
    if not Node.objects.filter(role=role).exists():
        return
    with platform.server.admin() as admin, admin.transaction():
        statement = sql.SQL("{verb} ROLE {role} LOGIN CONNECTION LIMIT {limit} PASSWORD {verifier}").format(
            verb=sql.SQL("ALTER" if _exists(admin, role) else "CREATE"),
            role=sql.Identifier(role),
            limit=CONNECTIONS,
            verifier=verifier,
        )
        admin.execute(statement)
        execute(admin, "GRANT {} TO {}", NODES_ROLE, role)
        # Only a member sees what a role's connections do, and may end them (see `data.hoarders`).
        admin.execute(sql.SQL("GRANT {} TO CURRENT_USER").format(sql.Identifier(role)))


def drop_node_role(platform: Platform, role: str) -> None:
    """End the connections of a removed node's role and drop it. Safe again. Nothing when a node has the role.

    1 no new connections · 2 end those there are · 3 take its rights · 4 drop it.
    """
    if Node.objects.filter(role=role).exists():
        return  # the platform's own node was removed and adopted again
    with platform.server.admin() as admin:
        if not _exists(admin, role):
            return
        execute(admin, "ALTER ROLE {} NOLOGIN", role)
        # Only a member may end a role's connections and take its rights: one that was made by an older release is none.
        admin.execute(sql.SQL("GRANT {} TO CURRENT_USER").format(sql.Identifier(role)))
        _end_connections(admin, role)
        execute(admin, "DROP OWNED BY {}", role)
        execute(admin, "DROP ROLE IF EXISTS {}", role)


def compact_log() -> None:
    """Remove changes that are older than they are kept for."""
    compact(JOBS)


def _end_connections(admin: AdminConnection, role: str) -> None:
    """End the role's connections and wait until they have; one that still goes holds up nothing but itself."""
    deadline = time.monotonic() + END_SECONDS
    query = "SELECT pid FROM pg_stat_activity WHERE usename = %s"
    while (open_now := admin.execute(query, (role,)).fetchall()) and time.monotonic() < deadline:
        for (pid,) in open_now:
            admin.execute("SELECT pg_terminate_backend(%s)", (pid,))
        time.sleep(END_POLL_SECONDS)


def _exists(admin: AdminConnection, role: str) -> bool:
    return admin.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,)).fetchone() is not None
