"""Who may do what to the objects of a site's owner: rights to write that were given away, rights to read that lack."""

from collections.abc import Sequence
from typing import LiteralString

from psycopg import sql

from tenantry.control.data.server import AdminConnection, execute
from tenantry.control.data.site_roles import SiteRoles

BATCH = 200  # names in one statement
_TABLE_RIGHTS = ("INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER")
_MAINTAIN = 170_000  # the version from which on there is one more

# Names come quoted and with their schema, because the search path has only PostgreSQL's own.
_DEFINERS: LiteralString = """
    SELECT p.oid::regprocedure::text FROM pg_proc p JOIN pg_roles r ON r.oid = p.proowner
    WHERE r.rolname = %s AND p.prosecdef
"""
# The mark of a function that ran with its owner's rights: the migrator, who has them anyway, may execute it by name.
_FORMER_DEFINERS: LiteralString = """
    SELECT p.oid::regprocedure::text FROM pg_proc p JOIN pg_roles r ON r.oid = p.proowner
    WHERE r.rolname = %s AND EXISTS (
        SELECT FROM aclexplode(p.proacl) a JOIN pg_roles g ON g.oid = a.grantee WHERE g.rolname = %s)
"""
_WRITERS_OF_TABLES: LiteralString = """
    SELECT DISTINCT c.oid::regclass::text, g.rolname::text FROM pg_class c
    JOIN pg_roles r ON r.oid = c.relowner
    CROSS JOIN LATERAL (
        SELECT grantee, privilege_type FROM aclexplode(c.relacl)
        UNION ALL
        SELECT a.grantee, a.privilege_type FROM pg_attribute, aclexplode(attacl) a
        WHERE attrelid = c.oid AND attacl IS NOT NULL) acl
    LEFT JOIN pg_roles g ON g.oid = acl.grantee
    WHERE r.rolname = %(owner)s AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
      AND acl.grantee <> c.relowner AND acl.privilege_type <> 'SELECT'
"""
_WRITERS_OF_SEQUENCES: LiteralString = """
    SELECT DISTINCT c.oid::regclass::text, g.rolname::text FROM pg_class c
    JOIN pg_roles r ON r.oid = c.relowner
    CROSS JOIN LATERAL aclexplode(c.relacl) acl
    LEFT JOIN pg_roles g ON g.oid = acl.grantee
    WHERE r.rolname = %(owner)s AND c.relkind = 'S' AND acl.grantee <> c.relowner AND acl.privilege_type <> 'SELECT'
"""
_WRITERS_OF_SCHEMAS: LiteralString = """
    SELECT DISTINCT n.nspname::text, g.rolname::text FROM pg_namespace n
    JOIN pg_roles r ON r.oid = n.nspowner
    CROSS JOIN LATERAL aclexplode(n.nspacl) acl
    LEFT JOIN pg_roles g ON g.oid = acl.grantee
    WHERE (r.rolname = %(owner)s OR r.rolname = 'pg_database_owner') AND acl.grantee <> n.nspowner
      AND g.rolname IS DISTINCT FROM %(owner)s AND acl.privilege_type = 'CREATE'
"""
_WRITERS_OF_LARGE_OBJECTS: LiteralString = """
    SELECT DISTINCT l.oid::text, g.rolname::text FROM pg_largeobject_metadata l
    JOIN pg_roles r ON r.oid = l.lomowner
    CROSS JOIN LATERAL aclexplode(l.lomacl) acl
    LEFT JOIN pg_roles g ON g.oid = acl.grantee
    WHERE r.rolname = %(owner)s AND acl.grantee <> l.lomowner AND acl.privilege_type = 'UPDATE'
"""
_UNREADABLE_TABLES: LiteralString = """
    SELECT c.oid::regclass::text FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner
    WHERE r.rolname = %s AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND NOT EXISTS (
        SELECT FROM aclexplode(c.relacl) a JOIN pg_roles g ON g.oid = a.grantee
        WHERE g.rolname = %s AND a.privilege_type = 'SELECT')
"""
_UNREADABLE_SCHEMAS: LiteralString = """
    SELECT quote_ident(n.nspname) FROM pg_namespace n JOIN pg_roles r ON r.oid = n.nspowner
    WHERE r.rolname IN (%s, 'pg_database_owner') AND NOT EXISTS (
        SELECT FROM aclexplode(n.nspacl) a JOIN pg_roles g ON g.oid = a.grantee
        WHERE g.rolname = %s AND a.privilege_type = 'USAGE')
"""
_UNREADABLE_LARGE_OBJECTS: LiteralString = """
    SELECT l.oid::text FROM pg_largeobject_metadata l JOIN pg_roles r ON r.oid = l.lomowner
    WHERE r.rolname = %s AND NOT EXISTS (
        SELECT FROM aclexplode(l.lomacl) a JOIN pg_roles g ON g.oid = a.grantee
        WHERE g.rolname = %s AND a.privilege_type = 'SELECT')
"""
# Only where everybody's right was taken away: what has no list of rights may be called by all.
_CLOSED_FUNCTIONS: LiteralString = """
    SELECT p.oid::regprocedure::text FROM pg_proc p JOIN pg_roles r ON r.oid = p.proowner
    WHERE r.rolname = %s AND p.proacl IS NOT NULL AND NOT EXISTS (
        SELECT FROM aclexplode(p.proacl) a LEFT JOIN pg_roles g ON g.oid = a.grantee
        WHERE a.grantee = 0 OR g.rolname = %s)
"""


def keep_to_reading(connection: AdminConnection, roles: SiteRoles) -> int:
    """Let the site read what is the owner's, and nobody but the owner write it; returns how much there was to change.

    Functions with their owner's rights get the caller's, and a mark, by which `restore_definers` finds them.
    """
    # As the owner: a member of several roles takes back in the name of any that could have given.
    execute(connection, "SET ROLE {}", roles.owner)
    definers = _names(connection, _DEFINERS, roles.owner)
    for name in definers:
        with connection.transaction():
            _run(connection, "GRANT EXECUTE ON ROUTINE {} TO {}", [name], roles.migrator)
            connection.execute(sql.SQL("ALTER ROUTINE {} SECURITY INVOKER").format(name))
    changed = len(definers) + _give(connection, roles) + _take(connection, roles)
    connection.execute("SET ROLE NONE")
    return changed


def restore_definers(connection: AdminConnection, roles: SiteRoles) -> None:
    """Let functions run with their owner's rights that did before `keep_to_reading`."""
    for name in _names(connection, _FORMER_DEFINERS, roles.owner, roles.migrator):
        with connection.transaction():
            connection.execute(sql.SQL("ALTER ROUTINE {} SECURITY DEFINER").format(name))
            _run(connection, "REVOKE EXECUTE ON ROUTINE {} FROM {} CASCADE", [name], roles.migrator)


def _give(connection: AdminConnection, roles: SiteRoles) -> int:
    given: tuple[tuple[LiteralString, LiteralString], ...] = (
        (_UNREADABLE_SCHEMAS, "GRANT USAGE ON SCHEMA {} TO {}"),
        (_UNREADABLE_TABLES, "GRANT SELECT ON TABLE {} TO {}"),
        (_UNREADABLE_LARGE_OBJECTS, "GRANT SELECT ON LARGE OBJECT {} TO {}"),
        (_CLOSED_FUNCTIONS, "GRANT EXECUTE ON ROUTINE {} TO {}"),
    )
    changed = 0
    for query, statement in given:
        names = _names(connection, query, roles.owner, roles.site)
        _run(connection, statement, names, roles.site)
        changed += len(names)
    return changed


def _take(connection: AdminConnection, roles: SiteRoles) -> int:
    """With CASCADE: who got a right with the option to pass it on may have done so."""
    table = ", ".join(_TABLE_RIGHTS if connection.info.server_version < _MAINTAIN else (*_TABLE_RIGHTS, "MAINTAIN"))
    taken = (
        (_WRITERS_OF_TABLES, f"REVOKE {table} ON TABLE {{}} FROM {{}} CASCADE"),
        (_WRITERS_OF_SEQUENCES, "REVOKE UPDATE, USAGE ON SEQUENCE {} FROM {} CASCADE"),
        (_WRITERS_OF_SCHEMAS, "REVOKE CREATE ON SCHEMA {} FROM {} CASCADE"),
        (_WRITERS_OF_LARGE_OBJECTS, "REVOKE UPDATE ON LARGE OBJECT {} FROM {} CASCADE"),
    )
    changed = 0
    for query, statement in taken:
        for name, grantee in connection.execute(query, {"owner": roles.owner}).fetchall():
            _run(connection, statement, [sql.SQL(str(name))], None if grantee is None else str(grantee))
            changed += 1
    return changed


def _names(connection: AdminConnection, query: LiteralString, *roles: str) -> list[sql.SQL]:
    """Names as the catalogue quotes them, so that they may stand in a statement."""
    return [sql.SQL(str(row[0])) for row in connection.execute(query, roles).fetchall()]


def _run(connection: AdminConnection, statement: str, names: Sequence[sql.SQL], role: str | None) -> None:
    """Run `statement` for the names, some at a time; `role` None is everybody."""
    who = sql.SQL("PUBLIC") if role is None else sql.Identifier(role)
    for begin in range(0, len(names), BATCH):
        several = sql.SQL(", ").join(names[begin : begin + BATCH])
        connection.execute(sql.SQL(statement).format(several, who))
