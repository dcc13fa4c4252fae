"""Acts of people on nodes, and on the change log that all nodes follow. How nodes come to be is in `fleet.joining`.

Orders are levels, not events: a node finds them in every answer of `agent_v1.desired`, and each appends a change so
that it looks at once.
"""

import re
import uuid
from dataclasses import dataclass
from datetime import timedelta

from django.db import connection

from tenantry.control.access.actors import Actor, require_admin
from tenantry.control.changelog import queries as changelog
from tenantry.control.changelog.models import PlatformState
from tenantry.control.changelog.services import ChangeType, act, append
from tenantry.control.database import database_now
from tenantry.control.deferral import LOW, defer
from tenantry.control.errors import Conflict, InvalidInput, NotFound
from tenantry.control.fleet import secrets
from tenantry.control.fleet.joining import (
    Joined,
    adopt_node,
    authenticate_node,
    create_join_token,
    join,
    node_lock,
)
from tenantry.control.fleet.models import Node
from tenantry.control.fleet.queries import has_drained, is_live

__all__ = [
    "Compaction",
    "Joined",
    "adopt_node",
    "authenticate_node",
    "compact",
    "confirm_removal",
    "create_join_token",
    "drain",
    "join",
    "new_epoch",
    "remove",
    "request_check",
]

RENEWALS = "renewals"  # the lock of jobs that renew passwords: one site at a time starts processes anew
KEEP = timedelta(days=365)
KEEP_ROWS = 10_000  # the latest changes stay, however old: an agent that was away for long still reads the difference
KEEP_MAX = timedelta(days=36_500)
_CONFIRMATION = re.compile(r"[0-9a-f]{8}\Z")


@dataclass(frozen=True, slots=True)
class Compaction:
    """`removed` changes went; those up to `tail` may be missing now."""

    removed: int
    tail: int


def drain(actor: Actor, name: str, *, undo: bool = False) -> None:
    """Ask a node to leave the rotation and finish what it serves, or with `undo` to come back. Again is no error.

    Raises `NotFound`.
    """
    require_admin(actor)
    with act():
        node = _locked_node(name)
        if node.draining == (not undo):
            return
        node.draining = not undo
        node.save(update_fields=["draining"])
        change = ChangeType.NODE_RESUMED if undo else ChangeType.NODE_DRAINING
        append(change, actor=actor.name, metadata={"node": node.name})


def remove(actor: Actor, name: str, *, force: bool = False, keep_passwords: bool = False) -> None:
    """Take a node out of the fleet: with the commit its role and token are worthless, then a job drops the role.

    It knew the database and cache passwords of all sites: jobs renew them, unless `keep_passwords`.

    Only one that has drained, is silent or never came; any with `force`, for one that is not trusted any more says
    what it likes. Raises `NotFound`, `Conflict`.
    """
    require_admin(actor)
    with act():
        secrets.lock_nodes()
        node = _locked_node(name, for_removal=True)
        if not force and is_live(node, database_now()) and not has_drained(node):
            doing = "still draining: wait until it is drained" if node.draining else "serving: drain it first"
            raise Conflict(f"The node «{node.name}» is {doing} (tenantry node drain {node.name}).")
        defer("drop_node_role", lock=node_lock(node.number), role=node.role)
        if not keep_passwords:
            defer("renew_passwords", lock=RENEWALS, priority=LOW)
        metadata = {"node": node.name, "role": node.role, "passwords": "kept" if keep_passwords else "renewed"}
        node.delete()
        append(ChangeType.NODE_REMOVED, actor=actor.name, metadata=metadata)


def confirm_removal(actor: Actor, name: str, token: str) -> None:
    """Let a node do the removal that it holds back; `token` is what its condition ends with.

    Raises `NotFound`, `InvalidInput` for a token that is none, `Conflict` when the node does not ask for this one.
    """
    require_admin(actor)
    if not _CONFIRMATION.match(token):
        raise InvalidInput.of("token", "A confirmation is the 8 hexadecimal digits at the end of the condition.")
    with act():
        node = _locked_node(name)
        if not any(str(condition.get("message", "")).endswith(token) for condition in node.conditions):
            raise Conflict(
                f"The node «{node.name}» does not ask for this confirmation (any more). "
                f"See what it asks for: tenantry node show {node.name}"
            )
        node.confirmed = token
        node.save(update_fields=["confirmed"])
        append(ChangeType.NODE_CONFIRMED, actor=actor.name, metadata={"node": node.name, "removal": token})


def request_check(actor: Actor, name: str, *, repair: bool) -> int:
    """Ask a node to compare everything now; return the check's number, which the node's `checked_id` reaches.

    Raises `NotFound`.
    """
    require_admin(actor)
    with act():
        node = _locked_node(name)
        node.check_requested += 1
        node.check_repair = repair
        node.save(update_fields=["check_requested", "check_repair"])
        metadata = {"node": node.name, "check": node.check_requested, "repair": repair}
        append(ChangeType.NODE_CHECK, actor=actor.name, metadata=metadata)
    return node.check_requested


def new_epoch(actor: Actor) -> uuid.UUID:
    """Begin a new epoch and return it: every node reads everything anew.

    For a database that was set back in a way that it cannot notice itself, such as a cold copy of its files.
    """
    require_admin(actor)
    with act():
        PlatformState.objects.update(epoch=uuid.uuid4())
        append(ChangeType.PLATFORM_EPOCH, actor=actor.name)
        epoch, _ = changelog.head()
    return epoch


def compact(actor: Actor, keep: timedelta = KEEP, *, keep_rows: int = KEEP_ROWS) -> Compaction:
    """Remove changes older than `keep` from the log, but none of the last `keep_rows`. See `changelog_compact`.

    Raises `InvalidInput` for a time that is none.
    """
    require_admin(actor)
    if not timedelta(0) <= keep <= KEEP_MAX:
        raise InvalidInput.of("keep_days", f"Changes are kept for 0 to {KEEP_MAX.days} days.")
    with act():
        with connection.cursor() as cursor:
            query = "SELECT changelog_compact(clock_timestamp() - make_interval(secs => %s), %s)"
            cursor.execute(query, [keep.total_seconds(), keep_rows])
            removed = int(cursor.fetchone()[0])
        tail = changelog.tail()
        if removed:
            metadata = {"removed": removed, "tail": tail}
            append(ChangeType.CHANGELOG_COMPACTED, actor=actor.name, metadata=metadata)
    return Compaction(removed, tail)


def _locked_node(name: str, *, for_removal: bool = False) -> Node:
    # Without the lock on the key, acts on sites may go on sealing for the node.
    node = Node.objects.select_for_update(no_key=not for_removal).filter(name=name).first()
    if node is None:
        raise NotFound(f"There is no node «{name[:100]}».")
    return node
