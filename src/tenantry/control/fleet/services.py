"""Nodes joining the fleet."""

import re

from django.db import connection
from psycopg import sql

from tenantry.control.changelog.services import ChangeType, act, append
from tenantry.control.errors import InvalidInput
from tenantry.control.fleet.models import Node

_NODE_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,98}[A-Za-z0-9])?\Z")
_ROLE = re.compile(r"[a-z_][a-z0-9_]{0,62}\Z")


def join_node(name: str, role: str) -> bool:
    """Make sure that the node is known by its PostgreSQL role and that the role may call agent_v1 and nothing else.

    Returns whether the node is new. The role must exist. Raises `InvalidInput` for a name or role that is none.
    """
    if not _NODE_NAME.match(name):
        raise InvalidInput.of("node-name", "A node's name is a host name: letters, digits, hyphens and dots.")
    if not _ROLE.match(role):
        raise InvalidInput.of("node-role", "A role's name has lowercase letters, digits and underscores.")
    with act():
        _grant(role)
        node = Node.objects.select_for_update().filter(role=role).first()
        if node is not None and node.name == name:
            return False
        if node is not None:
            node.delete()  # the machine was renamed: its role is the identity that counts
        Node.objects.update_or_create(name=name, defaults={"role": role})
        append(ChangeType.NODE_JOINED, actor="setup", metadata={"node": name})
    return True


def _grant(role: str) -> None:
    """Grant the role what an agent needs. Repeated at every set-up, because a migration may bring new functions."""
    name = sql.Identifier(role)
    with connection.cursor() as cursor:
        database = sql.Identifier(str(connection.settings_dict["NAME"]))
        for statement in (
            sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(database),
            sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(database, name),
            sql.SQL("GRANT USAGE ON SCHEMA agent_v1 TO {}").format(name),
            sql.SQL("GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA agent_v1 TO {}").format(name),
        ):
            cursor.execute(statement.as_string(cursor.connection))
