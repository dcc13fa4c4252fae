"""Roles and databases of tenants: templates made by builds, sites' databases cloned from them.

A template's objects belong to the role `tpl_…`, the database itself to the administrating role: REASSIGN OWNED in a
clone moves the objects, and would also move every database that the old role owns.
"""

import logging
from collections.abc import Sequence

from psycopg import errors, sql

from tenantry.control.data.server import AdminConnection, TenantServer, execute, random_password
from tenantry.control.data.site_roles import (
    SiteRoles,
    administrating,
    existing,
    grant_database,
    grant_writing,
    join,
    limit_idle_transactions,
    make_owner,
    set_login,
    settle,
)
from tenantry.control.data.writing import open_database

LOCKS_MAX = 20_000  # of one connection: a dump takes one for each table; the server has about 80,000 for all
IDENTIFIER_MAX_BYTES = 63  # PostgreSQL cuts longer names silently, which would make two names one

logger = logging.getLogger(__name__)


class TemplateMissing(Exception):
    """The release's template database is not there: the release must be built again."""


def site_name(number: int) -> str:
    """The name of a site's database, of its first login and of its first Redis user."""
    return SiteRoles(number).site


def template_name(project: str, number: int) -> str:
    """The name of a release's template database and of the role that owns what is in it.

    One-to-one: slugs have no underscore, and the number is what follows the last one.
    """
    name = f"tpl_{project.replace('-', '_')}_{number}"
    if len(name.encode()) > IDENTIFIER_MAX_BYTES:
        raise ValueError(f"{name} is longer than {IDENTIFIER_MAX_BYTES} bytes")
    return name


def provision_site_database(server: TenantServer, number: int, password: str, template: str) -> None:
    """Make the roles and the database of a site, a clone of `template` that belongs to the site's owner alone.

    1 roles · 2 clone · 3 CONNECT for the site alone · 4 objects to the owner. Invariant: a database named like the
    site's is a whole clone; interrupted after 2, a repetition does 3 and 4 again. `TemplateMissing` when there is no
    template.
    """
    roles = SiteRoles(number)
    with administrating(server, roles) as admin:
        with admin.transaction():  # one write to disk, not many
            set_login(admin, roles.site, password)
            limit_idle_transactions(admin, roles.site)
            make_owner(admin, roles)
            grant_writing(admin, roles)
            for role in existing(admin, roles.all):
                join(admin, role)
        if not database_exists(admin, roles.site):
            _clone(admin, roles, template)
        with admin.transaction():
            grant_database(admin, roles)
        with server.inside(roles.site) as connection:
            if existing(connection, [template]):
                execute(connection, "REASSIGN OWNED BY {} TO {}", template, roles.owner)


def drop_site_database(server: TenantServer, number: int) -> None:
    """Drop the database and the roles of a site; whoever is connected is thrown out."""
    roles = SiteRoles(number)
    _drop(server, roles.site, roles.all)


def open_site_database(server: TenantServer, number: int, password: str) -> None:
    """Give the site's login another password, let it read everything, and lift what the site may have set to keep
    connections out. For a site that is served no more.
    """
    roles = SiteRoles(number)
    with administrating(server, roles) as admin:
        set_login(admin, roles.site, password)
        execute(admin, "ALTER DATABASE {} ALLOW_CONNECTIONS true CONNECTION LIMIT -1", roles.site)
        execute(admin, "ALTER DATABASE {} RESET ALL", roles.site)
        execute(admin, "ALTER ROLE {} RESET ALL", roles.site)
    settle(server, number)
    open_database(server, number)


def site_database_exists(server: TenantServer, number: int) -> bool:
    """True when the site has a database."""
    with server.admin() as admin:
        return database_exists(admin, site_name(number))


def create_template(server: TenantServer, name: str) -> str:
    """Make an empty database and its role for a build; returns the role's password. What had the name is dropped."""
    drop_template(server, name)
    password = random_password()
    with server.admin() as admin:
        set_login(admin, name, password)
        join(admin, name)
        # template0: whatever an administrator put into template1 is not the project's.
        execute(admin, "CREATE DATABASE {} OWNER {} TEMPLATE template0 ENCODING 'UTF8'", name, name)
        execute(admin, "REVOKE ALL ON DATABASE {} FROM PUBLIC", name)
    return password


def seal_template(server: TenantServer, name: str) -> None:
    """Close a migrated template: nobody can connect, its role cannot log in, it can only be cloned."""
    with server.admin() as admin:
        execute(admin, "ALTER ROLE {} NOLOGIN PASSWORD NULL", name)
        admin.execute(sql.SQL("ALTER DATABASE {} OWNER TO CURRENT_USER").format(sql.Identifier(name)))
        execute(admin, "ALTER DATABASE {} ALLOW_CONNECTIONS false", name)
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))


def drop_template(server: TenantServer, name: str) -> None:
    """Drop a template database and its role."""
    _drop(server, name, [name])


def end_lock_hoarders(server: TenantServer) -> list[str]:
    """End the tenants' connections that hold more than LOCKS_MAX locks; returns their roles.

    The table of locks is one for the whole server, and no role can be given a part of it: when it is full, every
    site's statements fail.
    """
    query = (
        "SELECT pid, usename::text FROM pg_stat_activity "
        "JOIN (SELECT pid FROM pg_locks GROUP BY pid HAVING count(*) > %s) AS hoarder USING (pid) "
        "WHERE usename ~ '^(site|tpl)_'"
    )
    with server.admin() as admin:
        found = admin.execute(query, (LOCKS_MAX,)).fetchall()
        for pid, _ in found:  # in a statement of its own: a condition's parts are evaluated in any order
            admin.execute("SELECT pg_terminate_backend(%s)", (pid,))
    return [str(role) for _, role in found]


def list_templates(server: TenantServer) -> list[str]:
    """Return the names of all template databases and of template roles without one."""
    query = (
        r"SELECT datname::text FROM pg_database WHERE datname LIKE 'tpl\_%' "
        r"UNION SELECT rolname::text FROM pg_roles WHERE rolname LIKE 'tpl\_%' ORDER BY 1"
    )
    with server.admin() as admin:
        return [str(row[0]) for row in admin.execute(query)]


def site_numbers(server: TenantServer) -> list[int]:
    """Return the numbers of all sites that have a database or a role."""
    query = (
        "SELECT DISTINCT substring(name FROM '^site_([0-9]{1,18})(?:_|$)')::bigint FROM ("
        "SELECT datname::text AS name FROM pg_database UNION SELECT rolname::text FROM pg_roles) AS names "
        "WHERE name ~ '^site_[0-9]{1,18}(_|$)'"
    )
    with server.admin() as admin:
        return [int(str(row[0])) for row in admin.execute(query)]


def database_exists(admin: AdminConnection, name: str) -> bool:
    """True when the server has a database `name`."""
    return admin.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone() is not None


def _clone(admin: AdminConnection, roles: SiteRoles, template: str) -> None:
    try:
        # wal_log: no checkpoint before and after, which is most of the time of the other strategy.
        execute(admin, "CREATE DATABASE {} OWNER {} TEMPLATE {} STRATEGY wal_log", roles.site, roles.owner, template)
    except errors.DuplicateDatabase:
        pass  # an earlier, abandoned attempt of the same job got there between our look and now
    except errors.InvalidCatalogName as error:
        raise TemplateMissing(f"The template database {template} is missing; build the release again.") from error


def _drop(server: TenantServer, name: str, roles: Sequence[str]) -> None:
    with server.admin() as admin:
        for role in existing(admin, roles):
            execute(admin, "ALTER ROLE {} NOLOGIN", role)
            join(admin, role)
        if database_exists(admin, name):
            execute(admin, "ALTER DATABASE {} IS_TEMPLATE false", name)  # its owner may have said true
        execute(admin, "DROP DATABASE IF EXISTS {} WITH (FORCE)", name)
        _drop_roles_without_database(admin)


def _drop_roles_without_database(admin: AdminConnection) -> None:
    """Drop the tenants' closed roles whose database is gone, but of no site that can still log in: it is being made.

    Any tenant can give any role rights on what it owns, and PostgreSQL drops no role that has some. Such a role stays,
    without a login, until the other's database is gone too: a neighbour must not hold up a removal.
    """
    query = (
        r"WITH role AS (SELECT rolname, rolcanlogin, regexp_replace(rolname, '^(site_\d+)_.*', '\1') AS database "
        r"FROM pg_roles WHERE rolname LIKE 'site\_%' OR rolname LIKE 'tpl\_%') "
        "SELECT rolname::text FROM role WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = role.database) "
        "AND NOT EXISTS (SELECT FROM role other WHERE other.database = role.database AND other.rolcanlogin)"
    )
    for (role,) in admin.execute(query).fetchall():
        try:
            execute(admin, "DROP ROLE IF EXISTS {}", str(role))
        except errors.DependentObjectsStillExist:
            logger.warning("the role %s stays for now: others gave it rights in their databases", role)
        except errors.InternalError_:
            pass  # another job drops it at this moment
