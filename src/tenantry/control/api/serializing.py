"""From rows and views to documents."""

import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from tenantry.control.access.models import Token
from tenantry.control.api import schemas
from tenantry.control.changelog.models import Change

T = TypeVar("T")
U = TypeVar("U")


def page(rows: Sequence[T], limit: int, serialize: Callable[[T], U], key: Callable[[T], str]) -> schemas.Page[U]:
    """Return a page of `rows`, which were read with `limit + 1`: the one too many says that there are more."""
    shown = rows[:limit]
    following = key(shown[-1]) if len(rows) > limit else None
    return schemas.Page(items=[serialize(row) for row in shown], next_cursor=following)


def change(row: Change) -> schemas.Change:
    return schemas.Change(
        revision=row.revision,
        epoch=row.epoch,
        type=row.type,
        site=row.site_slug,
        project=row.project,
        actor=row.actor,
        metadata=row.metadata,
        timestamp=row.created_at,
    )


def token_fields(row: Token) -> dict[str, Any]:
    names = ("id", "name", "created_by", "created_at", "expires_at", "last_used_at", "revoked_at")
    return {**{name: getattr(row, name) for name in names}, "user": row.user.get_username()}


def event(kind: str, document: Any, identity: int | None = None) -> bytes:
    """Return one server-sent event."""
    head = f"id: {identity}\n" if identity is not None else ""
    return f"{head}event: {kind}\ndata: {json.dumps(document)}\n\n".encode()
