"""Writing: the transaction of an act, and the change row that ends it."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from typing import Any

from django.db import OperationalError, connection, transaction
from psycopg.errors import LockNotAvailable

from tenantry.control.errors import Busy

LOCK_TIMEOUT_MS = 5_000  # waiting longer for another's lock means that something hangs: say so instead of joining it


class ChangeType(StrEnum):
    """What a change row records. Names are part of the API: add, never rename."""

    SITE_CREATED = "site.created"
    SITE_PROVISIONED = "site.provisioned"
    SITE_UPDATED = "site.updated"
    SITE_RESTARTED = "site.restarted"
    SITE_FAILED = "site.failed"
    SITE_DELETED = "site.deleted"  # nodes stop serving it; its data goes next
    SITE_REMOVED = "site.removed"  # nothing of it is left but the dump
    SITE_COMMAND = "site.command"
    HOSTNAME_ADDED = "hostname.added"
    HOSTNAME_REMOVED = "hostname.removed"
    PROJECT_CREATED = "project.created"
    PROJECT_UPDATED = "project.updated"
    PROJECT_REMOVED = "project.removed"
    RELEASE_REQUESTED = "release.requested"
    RELEASE_BUILT = "release.built"
    RELEASE_FAILED = "release.failed"
    RELEASE_ACTIVATED = "release.activated"
    RELEASE_PUBLISHED = "release.published"
    SITE_MODE = "site.mode"
    SITE_BYPASS = "site.bypass"
    SITE_RUNTIME = "site.runtime"
    SITE_DATABASE = "site.database"  # its database refuses writes now, or takes them again
    SITE_PASSWORDS = "site.passwords"
    NODE_TOKEN = "node.token"  # noqa: S105 - the name of an event
    NODE_JOINED = "node.joined"
    NODE_DRAINING = "node.draining"
    NODE_RESUMED = "node.resumed"
    NODE_REMOVED = "node.removed"
    NODE_CHECK = "node.check"
    NODE_CONFIRMED = "node.confirmed"
    PLATFORM_EPOCH = "platform.epoch"
    CHANGELOG_COMPACTED = "changelog.compacted"
    TOKEN_CREATED = "token.created"  # noqa: S105 - the name of an event
    TOKEN_REVOKED = "token.revoked"  # noqa: S105 - the name of an event
    USER_CREATED = "user.created"


@contextmanager
def act() -> Iterator[None]:
    """One act: a transaction whose waits for locks are bounded. Raises `Busy` when a lock was not had."""
    try:
        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute("SELECT set_config('lock_timeout', %s, true)", [f"{LOCK_TIMEOUT_MS}ms"])
            yield
    except OperationalError as error:
        if isinstance(error.__cause__, LockNotAvailable):
            raise Busy("Another change is still being made. Try again in a moment; nothing was changed.") from error
        raise


def append(
    change: ChangeType,
    *,
    actor: str,
    site: str | None = None,
    project: str | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> int:
    """Append one change and return its revision. Call it last in `act()`: it holds up every other writer until the
    commit. A site named here gets the revision, so its row must be locked already."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT changelog_append(%s, %s, %s, %s, %s::jsonb)",
            [change.value, site, project, actor, json.dumps(metadata or {})],
        )
        row = cursor.fetchone()
    return int(row[0])
