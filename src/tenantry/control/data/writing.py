"""Whether a site's database takes writes. A database that does not refuses them itself: to any code of the site, on
connections that are open too, and in no way that the site could undo.

Everything belongs to `site_N_owner` (`site_roles.settle`); who works is `site_N`, a member of it while it may write. To
close: 1 everything to the owner, 2 functions with their owner's rights run with the caller's, 3 rights to write that
were given away are taken back and rights to read given, 4 the membership goes: PostgreSQL checks rights with each
statement, so open connections follow at once · 5 again 1 to 3, for what came meanwhile · 6 statements and transactions
that had begun before end · 7 where a connection of before may have become the owner, another role is the owner from
then on. Invariant: until 4 the site can do everything, from 4 on it can read everything. Interrupted
anywhere, a repetition ends in the same state; to open is 4 and 2 undone.

Each connection here runs in a database whose owner may be hostile: with a search path of PostgreSQL's own, and without
calling anything of the site's.
"""

import logging
import time
from typing import LiteralString

from tenantry.control.data.rights import keep_to_reading, restore_definers
from tenantry.control.data.server import AdminConnection, TenantServer, execute
from tenantry.control.data.site_roles import (
    POLL_SECONDS,
    SET_IS_AN_OPTION,
    ObjectsLocked,
    SiteRoles,
    administrating,
    drop_former,
    existing,
    grant_writing,
    join,
    replace_owner,
    settle,
    settle_objects,
)

CONNECTIONS_SECONDS = 1.0  # for connections of before to go by themselves: a request's last no longer
WRITERS_SECONDS = 5.0  # for statements that were writing already; then they are cancelled, after as long again ended
PASSES_MAX = 10  # over what the site made meanwhile; the second finds nothing unless it makes things all the time

logger = logging.getLogger(__name__)


def close_database(server: TenantServer, number: int, writers_seconds: float = WRITERS_SECONDS) -> None:
    """Make the site's database refuse writes; when this returns, nothing of before is being written any more.

    No connection is ended that does what it may. Raises `ObjectsLocked`.
    """
    roles = SiteRoles(number)
    settle(server, number)
    with administrating(server, roles) as admin, server.inside(roles.site) as connection:
        keep_to_reading(connection, roles)
        with admin.transaction():
            execute(admin, "REVOKE {} FROM {}", roles.owner, roles.site)
            _revoke_create(admin, roles)
        (closed_at,) = connection.execute("SELECT clock_timestamp()::text").fetchone() or ("",)
        _complete(connection, roles)
        end_writers(connection, roles, str(closed_at), writers_seconds)
        if _may_have_become_the_owner(connection, roles, str(closed_at)):
            replace_owner(server, admin, roles)
            for role in existing(admin, roles.all):  # `settle` has left them
                join(admin, role)
        _complete(connection, roles)
        drop_former(admin, connection, roles)


def _complete(connection: AdminConnection, roles: SiteRoles) -> None:
    """Repeat what comes before the membership's end until there is nothing more to do."""
    for _ in range(PASSES_MAX):
        if not settle_objects(connection, roles) + keep_to_reading(connection, roles):
            return
    raise ObjectsLocked(f"{roles.site} makes new objects all the time")


def _may_have_become_the_owner(connection: AdminConnection, roles: SiteRoles, before: str) -> bool:
    """Whether a connection of before is still there: it may have said SET ROLE then, which nobody else can see."""
    if connection.info.server_version >= SET_IS_AN_OPTION:
        return False
    query = (
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND usename = ANY(%s) "
        "AND backend_start < %s::timestamptz)"
    )
    deadline = time.monotonic() + CONNECTIONS_SECONDS
    while True:
        row = connection.execute(query, (list(roles.logins), before)).fetchone()
        if not row or not row[0]:
            return False
        if time.monotonic() > deadline:
            return True
        time.sleep(POLL_SECONDS)


def open_database(server: TenantServer, number: int) -> None:
    """Let the site write again."""
    roles = SiteRoles(number)
    with server.admin() as admin:
        unfinished = existing(admin, [roles.former]) or not existing(admin, [roles.owner])
    if unfinished:
        settle(server, number)
    with administrating(server, roles) as admin:
        grant_writing(admin, roles)
        with server.inside(roles.site) as connection:
            restore_definers(connection, roles)


def may_write(server: TenantServer, number: int) -> bool:
    """Whether the site's processes have their owner's rights."""
    roles = SiteRoles(number)
    query = (
        "SELECT NOT EXISTS (SELECT FROM pg_roles WHERE rolname = %(owner)s) OR EXISTS (SELECT FROM pg_auth_members "
        "WHERE roleid = (SELECT oid FROM pg_roles WHERE rolname = %(owner)s) "
        "AND member = (SELECT oid FROM pg_roles WHERE rolname = %(site)s))"
    )
    with server.admin() as admin:
        row = admin.execute(query, {"owner": roles.owner, "site": roles.site}).fetchone()
    return bool(row and row[0])


_WRITERS: LiteralString = """
    SELECT pid, state LIKE 'idle in transaction%%' FROM pg_stat_activity
    WHERE datname = current_database() AND usename = ANY(%s) AND xact_start < %s::timestamptz AND state <> 'idle'
      AND (backend_xid IS NOT NULL OR EXISTS (
          SELECT FROM pg_locks l WHERE l.pid = pg_stat_activity.pid AND l.granted AND l.locktype = 'relation'
          AND l.mode NOT IN ('AccessShareLock', 'RowShareLock')))
"""


def end_writers(
    connection: AdminConnection, roles: SiteRoles, before: str, patience_seconds: float = WRITERS_SECONDS
) -> None:
    """Wait for what began to write earlier than `before`: a COPY or a loop is asked for its rights only once.

    After `patience_seconds` statements are cancelled, which leaves their connections; after as long again, connections
    whose transaction is still open are ended.
    """
    cancel_at = time.monotonic() + patience_seconds
    while found := connection.execute(_WRITERS, (list(roles.logins), before)).fetchall():
        late = time.monotonic() - cancel_at
        for pid, idle in found:
            if late > patience_seconds:
                logger.warning("a connection of %s was ended: its transaction stayed open", roles.site)
                connection.execute("SELECT pg_terminate_backend(%s)", (pid,))
            elif late > 0 and not idle:
                connection.execute("SELECT pg_cancel_backend(%s)", (pid,))
        time.sleep(POLL_SECONDS)


def is_writing(server: TenantServer, number: int) -> bool:
    """Whether a transaction of the site's processes has written something."""
    query = (
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = %s AND usename = ANY(%s) AND state <> 'idle' "
        "AND backend_xid IS NOT NULL)"
    )
    roles = SiteRoles(number)
    with server.admin() as admin:
        row = admin.execute(query, (roles.site, list(roles.logins))).fetchone()
    return bool(row and row[0])


def _revoke_create(admin: AdminConnection, roles: SiteRoles) -> None:
    """Nobody but the owner makes schemas, whomever the site let."""
    query = (
        "SELECT DISTINCT g.rolname::text FROM pg_database d CROSS JOIN LATERAL aclexplode(d.datacl) acl "
        "JOIN pg_roles g ON g.oid = acl.grantee "
        "WHERE d.datname = %s AND acl.grantee <> d.datdba AND acl.privilege_type = 'CREATE'"
    )
    execute(admin, "SET LOCAL ROLE {}", roles.owner)
    execute(admin, "REVOKE CREATE ON DATABASE {} FROM PUBLIC CASCADE", roles.site)
    for (grantee,) in admin.execute(query, (roles.site,)).fetchall():
        execute(admin, "REVOKE CREATE ON DATABASE {} FROM {} CASCADE", roles.site, str(grantee))
    admin.execute("SET LOCAL ROLE NONE")
