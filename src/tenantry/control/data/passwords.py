"""Renewing what lets a site's processes log in: a second login with a new password, then an end of the first.

A PostgreSQL role has one password, so there are two logins, which take turns. Processes that were started with the one
go on until they are replaced; nothing is interrupted. Whoever works, works as `site_N`: the second login is a member
of it and becomes it when it connects.
"""

import logging
import re

from psycopg import errors, sql

from tenantry.control.data.server import AdminConnection, TenantServer, execute
from tenantry.control.data.site_roles import (
    SiteRoles,
    close_login,
    end_connections,
    existing,
    limit_idle_transactions,
    set_login,
)

# Settings that are lists: their parts are quoted one by one.
_LISTS = ("search_path", "temp_tablespaces", "local_preload_libraries")
_OF_THE_LOGIN = ("role", "session_authorization")
logger = logging.getLogger(__name__)
_PART = re.compile(r'"((?:[^"]|"")*)"|([^\s,"]+)')


def open_login(server: TenantServer, number: int, login: str, password: str) -> None:
    """Give a login of the site, the one that is not in use, a new password. Nobody may be using it any more."""
    roles = SiteRoles(number)
    with server.admin() as admin, admin.transaction():
        set_login(admin, login, password)
        if login != roles.site:
            execute(admin, "GRANT {} TO {}", roles.site, login)
            execute(admin, "ALTER ROLE {} RESET ALL", login)
            execute(admin, "ALTER ROLE {} IN DATABASE {} RESET ALL", login, roles.site)
            limit_idle_transactions(admin, login)
            _copy_settings(admin, roles, login)
            execute(admin, "ALTER ROLE {} SET role = {}", login, roles.site)


def refuse_login(server: TenantServer, number: int, login: str) -> None:
    """Let nobody log in with a login of the site, and end the connections that did. Safe again."""
    with server.admin() as admin:
        if existing(admin, [login]):
            close_login(admin, login)
            end_connections(admin, login)  # who logged in while the role was being closed


def _copy_settings(admin: AdminConnection, roles: SiteRoles, login: str) -> None:
    """Settings are looked up for who logs in: those that the site made for its role must count for this login too."""
    query = (
        "SELECT s.setdatabase <> 0, unnest(s.setconfig)::text FROM pg_db_role_setting s "
        "JOIN pg_roles r ON r.oid = s.setrole LEFT JOIN pg_database d ON d.oid = s.setdatabase "
        "WHERE r.rolname = %s AND (s.setdatabase = 0 OR d.datname = %s)"
    )
    for in_database, setting in admin.execute(query, (roles.site, roles.site)).fetchall():
        name, _, value = str(setting).partition("=")
        if name in _OF_THE_LOGIN:
            continue
        parts = [quoted.replace('""', '"') or plain for quoted, plain in _PART.findall(value)]
        values = parts if name in _LISTS else [value]
        place = sql.SQL(" IN DATABASE {}").format(sql.Identifier(roles.site)) if in_database else sql.SQL("")
        statement = sql.SQL("ALTER ROLE {}{} SET {} = {}").format(
            sql.Identifier(login), place, sql.Identifier(name), sql.SQL(", ").join(map(sql.Literal, values or [""]))
        )
        try:
            with admin.transaction():
                admin.execute(statement)
        except errors.InsufficientPrivilege:
            logger.warning("%s goes without the setting %s: only a superuser may make it", login, name)
