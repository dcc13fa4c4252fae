"""The PostgreSQL roles of a site: who works, who owns, who migrates; and that everything belongs to the owner.

| role | login | |
|---|---|---|
| `site_N` | yes, or `site_N_b` | what the site's processes work as: a member of the owner while the site may write |
| `site_N_b` | yes, or `site_N` | works as `site_N`; passwords are renewed by changing over (`passwords`) |
| `site_N_owner` | never | owns the database and all that is in it |
| `site_N_former` | never | an owner that was replaced, until it owns nothing (`replace_owner`) |
| `site_N_migrator` | while a job migrates | works as the owner, also while the site may not write |

The administrating role is a member of a site's roles only while it works on them: PostgreSQL compares all memberships
of a role with each other whenever one changes, which with 10,000 sites would take two seconds.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import LiteralString

import psycopg
from psycopg import errors, sql

from tenantry.control.data.server import AdminConnection, TenantServer, execute, random_password

SITE_CONNECTIONS = 20  # of one login; PostgreSQL's default is 100 for all
IDLE_IN_TRANSACTION_MINUTES = 5  # a forgotten transaction holds back vacuum for the site, and locks
LOCK_MILLISECONDS = 100  # how long a site's statements may queue behind a change of owner; below deadlock_timeout
LOCKED_SECONDS = 20.0  # for a table that others have locked, before their transactions are ended
POLL_SECONDS = 0.05
SET_IS_AN_OPTION = 160_000  # the version from which on a member of a role need not be able to become it

logger = logging.getLogger(__name__)


class ObjectsLocked(Exception):
    """Something of the database could not be given to its owner, because others have it locked. Try again."""


@dataclass(frozen=True, slots=True)
class SiteRoles:
    """The names of a site's roles; `site` is also the name of its database."""

    number: int

    @property
    def site(self) -> str:
        return f"site_{self.number}"

    @property
    def owner(self) -> str:
        return f"{self.site}_owner"

    @property
    def migrator(self) -> str:
        return f"{self.site}_migrator"

    @property
    def former(self) -> str:
        return f"{self.site}_former"

    @property
    def logins(self) -> tuple[str, str]:
        """The two logins of the site's processes, of which one is in use."""
        return self.site, f"{self.site}_b"

    @property
    def workers(self) -> tuple[str, ...]:
        """All roles that may have objects, which are to belong to the owner."""
        return *self.logins, self.migrator, self.former

    @property
    def all(self) -> tuple[str, ...]:
        return *self.workers, self.owner

    def other_login(self, login: str) -> str:
        """The login that is not `login`."""
        return self.logins[1] if login == self.logins[0] else self.logins[0]


@contextmanager
def administrating(server: TenantServer, roles: SiteRoles) -> Iterator[AdminConnection]:
    """Lend an autocommit connection of the administrating role, a member of those of the site's roles that exist."""
    with server.admin() as admin:
        for role in existing(admin, roles.all):
            join(admin, role)
        try:
            yield admin
        finally:
            try:
                for role in existing(admin, roles.all):
                    admin.execute(sql.SQL("REVOKE {} FROM CURRENT_USER").format(sql.Identifier(role)))
            except psycopg.Error as error:
                logger.warning("the jobs' role stays a member of %s for now: %s", roles.site, error)


def existing(admin: AdminConnection, names: Sequence[str]) -> list[str]:
    """Return those of the roles that exist."""
    rows = admin.execute("SELECT rolname::text FROM pg_roles WHERE rolname = ANY(%s) ORDER BY 1", (list(names),))
    return [str(row[0]) for row in rows]


def join(admin: AdminConnection, role: str) -> None:
    """Make the administrating role a member: only a member may give objects to a role, and end its connections."""
    admin.execute(sql.SQL("GRANT {} TO CURRENT_USER").format(sql.Identifier(role)))


def set_login(admin: AdminConnection, role: str, password: str) -> None:
    """Create or reset a login role. The server never sees the password itself: a statement could end in its log."""
    secret = admin.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()
    statement = sql.SQL("{verb} ROLE {role} LOGIN CONNECTION LIMIT {limit} PASSWORD {secret}").format(
        verb=sql.SQL("ALTER" if existing(admin, [role]) else "CREATE"),
        role=sql.Identifier(role),
        limit=SITE_CONNECTIONS,
        secret=secret,
    )
    admin.execute(statement)


def limit_idle_transactions(admin: AdminConnection, role: str) -> None:
    """End a transaction that the role has forgotten. (A setting that its owner may change.)"""
    setting = sql.SQL("ALTER ROLE {} SET idle_in_transaction_session_timeout = {}")
    admin.execute(setting.format(sql.Identifier(role), f"{IDLE_IN_TRANSACTION_MINUTES}min"))


def make_owner(admin: AdminConnection, roles: SiteRoles) -> None:
    """Make the owner and the migrator of a site whose login exists, if they are missing."""
    for role in (roles.owner, roles.migrator):
        if not existing(admin, [role]):
            execute(admin, "CREATE ROLE {} NOLOGIN", role)
    execute(admin, "GRANT {} TO {}", roles.owner, roles.migrator)
    execute(admin, "GRANT {} TO {}", roles.site, roles.migrator)  # pg_hba.conf lets its members in
    execute(admin, "ALTER ROLE {} SET role = {}", roles.migrator, roles.owner)


def grant_writing(admin: AdminConnection, roles: SiteRoles) -> None:
    """Let the site write: as a member of the owner, where PostgreSQL can say so without becoming the owner."""
    options = sql.SQL(" WITH INHERIT TRUE, SET FALSE" if admin.info.server_version >= SET_IS_AN_OPTION else "")
    names = (sql.Identifier(roles.owner), sql.Identifier(roles.site))
    admin.execute(sql.SQL("GRANT {} TO {}").format(*names) + options)


def replace_owner(server: TenantServer, admin: AdminConnection, roles: SiteRoles) -> None:
    """Make another role the owner, for a site that may not write any more.

    Before PostgreSQL 16 a member of a role may become it (SET ROLE), and stays it when it is no member any more. What
    such a connection became owns nothing from now on. `settle` goes on from wherever this was interrupted.
    """
    if not existing(admin, [roles.former]):
        execute(admin, "ALTER ROLE {} RENAME TO {}", roles.owner, roles.former)
    settle(server, roles.number)


def drop_former(admin: AdminConnection, connection: AdminConnection, roles: SiteRoles) -> None:
    """Drop the owner that was replaced, when everything it had is another's."""
    if not existing(admin, [roles.former]) or connection.execute(_OWNED, ([roles.former],)).fetchall():
        return
    execute(connection, "DROP OWNED BY {}", roles.former)  # its rights
    try:
        execute(admin, "DROP ROLE {}", roles.former)
    except errors.DependentObjectsStillExist:
        # Others gave it rights in their databases. It goes when the site does; its name is needed again.
        number = admin.execute("SELECT oid::text FROM pg_roles WHERE rolname = %s", (roles.former,)).fetchone()
        execute(admin, "ALTER ROLE {} RENAME TO {}", roles.former, f"{roles.former}_{number[0] if number else 0}")


def let_migrate(server: TenantServer, number: int) -> str:
    """Give the migrator a login; returns its password. `settle` came before, and `end_migration` must follow."""
    roles, password = SiteRoles(number), random_password()
    with administrating(server, roles) as admin, admin.transaction():
        make_owner(admin, roles)
        set_login(admin, roles.migrator, password)
    return password


def end_migration(server: TenantServer, number: int) -> None:
    """Take the migrator's login and end its connections."""
    roles = SiteRoles(number)
    with administrating(server, roles) as admin:
        if existing(admin, [roles.migrator]):
            close_login(admin, roles.migrator)


def close_login(admin: AdminConnection, role: str) -> None:
    """Let nobody log in as the role any more, and end its connections."""
    execute(admin, "ALTER ROLE {} NOLOGIN PASSWORD NULL", role)
    end_connections(admin, role)


def end_connections(admin: AdminConnection, role: str) -> None:
    """End the connections that logged in as the role."""
    for (pid,) in admin.execute("SELECT pid FROM pg_stat_activity WHERE usename = %s", (role,)).fetchall():
        admin.execute("SELECT pg_terminate_backend(%s)", (pid,))


def settle(server: TenantServer, number: int, locked_seconds: float = LOCKED_SECONDS) -> None:
    """Give the database and everything in it to the owner; sites of before there was one get one.

    1 roles · 2 the database · 3 schemas · 4 tables, one by one · 5 all else. Each may be repeated, and a busy site
    waits 0.1 s for a step at most: a table that is in use is tried again, and whoever has it locked for
    `locked_seconds` loses its transaction. Raises `ObjectsLocked` when that did not help.
    """
    roles = SiteRoles(number)
    with administrating(server, roles) as admin:
        with admin.transaction():
            make_owner(admin, roles)
            join(admin, roles.owner)
            join(admin, roles.migrator)
        _settle_database(admin, roles)
        with server.inside(roles.site) as connection:
            settle_objects(connection, roles, locked_seconds)


def _settle_database(admin: AdminConnection, roles: SiteRoles) -> None:
    """The database to the owner, and the administrating role let in, whatever the site has set."""
    row = admin.execute(
        "SELECT pg_get_userbyid(datdba)::text, datallowconn AND datconnlimit = -1 FROM pg_database WHERE datname = %s",
        (roles.site,),
    ).fetchone()
    if row is None:
        raise LookupError(f"there is no database {roles.site}")
    with admin.transaction():
        if row[0] == roles.site:
            grant_writing(admin, roles)  # who owns its database may write, and goes on to
        if row[0] != roles.owner:
            execute(admin, "ALTER DATABASE {} OWNER TO {}", roles.site, roles.owner)
        grant_database(admin, roles)
        if not row[1]:
            execute(admin, "ALTER DATABASE {} ALLOW_CONNECTIONS true CONNECTION LIMIT -1", roles.site)


def grant_database(admin: AdminConnection, roles: SiteRoles) -> None:
    """The site may connect to its database and make temporary tables, nobody else may; its owner may do all.

    In a transaction.
    """
    # As the owner: a member of several roles takes back in the name of any that could have given.
    execute(admin, "SET LOCAL ROLE {}", roles.owner)
    execute(admin, "GRANT ALL ON DATABASE {} TO {}", roles.site, roles.owner)
    execute(admin, "REVOKE ALL ON DATABASE {} FROM PUBLIC CASCADE", roles.site)
    execute(admin, "GRANT CONNECT, TEMPORARY ON DATABASE {} TO {}", roles.site, roles.site)
    admin.execute("SET LOCAL ROLE NONE")


# Tables, views, sequences and the like of the site's own; a sequence that belongs to a column goes with its table, and
# what is temporary goes by itself.
_RELATIONS: LiteralString = """
    SELECT c.oid::bigint, c.oid::regclass::text FROM pg_class c
    WHERE c.relowner IN (SELECT oid FROM pg_roles WHERE rolname = ANY(%s))
      AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND c.relpersistence <> 't'
      AND NOT (c.relkind = 'S' AND EXISTS (
          SELECT FROM pg_depend d
          WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype IN ('a', 'i')))
    ORDER BY 1
"""
_SCHEMAS: LiteralString = """
    SELECT n.nspname::text, r.rolname::text FROM pg_namespace n JOIN pg_roles r ON r.oid = n.nspowner
    WHERE r.rolname = ANY(%s) OR r.rolname = %s OR r.rolname = 'pg_database_owner'
"""
_OWNED: LiteralString = """
    SELECT DISTINCT r.rolname::text FROM pg_shdepend d JOIN pg_roles r ON r.oid = d.refobjid
    WHERE d.refclassid = 'pg_authid'::regclass AND d.deptype = 'o' AND r.rolname = ANY(%s)
      AND d.classid <> 'pg_default_acl'::regclass
      AND d.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


def settle_objects(connection: AdminConnection, roles: SiteRoles, locked_seconds: float = LOCKED_SECONDS) -> int:
    """Steps 3 to 5 of `settle`, inside the site's database; returns how many roles owned something."""
    workers = list(roles.workers)
    connection.execute("SELECT set_config('lock_timeout', %s, false)", (f"{LOCK_MILLISECONDS}ms",))
    relations = connection.execute(_RELATIONS, (workers,)).fetchall()
    found = connection.execute(_OWNED, (workers,)).fetchall()
    owner = sql.Identifier(roles.owner)
    if found:
        _settle_schemas(connection, roles)
    for oid, name in relations:
        # The name comes quoted from PostgreSQL.
        statement = sql.SQL("ALTER TABLE {} OWNER TO {}").format(sql.SQL(str(name)), owner)
        _retry(connection, statement, roles, [oid], locked_seconds)
    for (role,) in found:
        reassign = sql.SQL("REASSIGN OWNED BY {} TO {}").format(sql.Identifier(str(role)), owner)
        _retry(connection, reassign, roles, [], locked_seconds)
    return len(found)


def _settle_schemas(connection: AdminConnection, roles: SiteRoles) -> None:
    """Before what is in them: to a role without CREATE, which anybody may take from himself, nothing can be given."""
    for schema, held_by in connection.execute(_SCHEMAS, (list(roles.workers), roles.owner)).fetchall():
        execute(connection, "GRANT USAGE, CREATE ON SCHEMA {} TO {}", str(schema), roles.owner)
        if held_by in roles.workers:
            execute(connection, "ALTER SCHEMA {} OWNER TO {}", str(schema), roles.owner)


def _retry(
    connection: AdminConnection, statement: sql.Composed, roles: SiteRoles, relations: list[object], seconds: float
) -> None:
    """Run a statement that needs locks, giving way to the site until `seconds` are over."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            connection.execute(statement)
            return
        except errors.UndefinedTable:
            return  # the site dropped it meanwhile
        except (errors.LockNotAvailable, errors.DeadlockDetected, errors.InternalError_) as error:
            # InternalError_: «tuple concurrently updated», when the site changes the same thing
            late = time.monotonic() - deadline
            if late > seconds / 2 + 2:
                raise ObjectsLocked(f"{statement.as_string(connection)}: {str(error).splitlines()[0]}") from error
        if late > 0:
            _end_holders(connection, roles, relations, seconds / 2)
        time.sleep(POLL_SECONDS)


def _end_holders(connection: AdminConnection, roles: SiteRoles, relations: list[object], seconds: float) -> None:
    """End the site's transactions of so many seconds that have one of the relations locked, any when none is named."""
    query = (
        "SELECT DISTINCT l.pid, a.state = 'active' FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid "
        "WHERE l.granted AND l.locktype = 'relation' AND a.datname = current_database() AND a.usename = ANY(%s) "
        "AND (cardinality(%s::bigint[]) = 0 OR l.relation = ANY(%s::bigint[]::oid[])) "
        "AND a.xact_start < clock_timestamp() - make_interval(secs => %s)"
    )
    for pid, active in connection.execute(query, (list(roles.workers), relations, relations, seconds)).fetchall():
        logger.warning("a transaction of %s was ended: it kept locked what had to change its owner", roles.site)
        # A statement that is cancelled leaves its connection; one that waits for its next statement cannot be.
        connection.execute(
            "SELECT CASE WHEN %s THEN pg_cancel_backend(%s) ELSE pg_terminate_backend(%s) END", (active, pid, pid)
        )
