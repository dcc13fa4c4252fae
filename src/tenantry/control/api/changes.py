"""The change log, read and followed."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Annotated

from django.db import DatabaseError
from django.http import HttpRequest, HttpResponseBase, StreamingHttpResponse
from ninja import Header, Path, Query, Router
from psycopg_pool import PoolTimeout

from tenantry.control.api import schemas
from tenantry.control.api.authentication import AsyncBearer, Bearer, actor, may_go_on
from tenantry.control.api.parameters import BIGINT_MAX, PROBLEMS, Limit
from tenantry.control.api.serializing import change, event, page
from tenantry.control.changelog import queries
from tenantry.control.changelog.feed import REPORTS, feed
from tenantry.control.changelog.models import Change
from tenantry.control.database import in_database
from tenantry.control.errors import InvalidInput
from tenantry.control.fleet import services
from tenantry.control.fleet.waiting import Application, wait_until_applied

router = Router(auth=Bearer(), tags=["changes"])

BATCH = 500  # changes read at once by one follower
HEARTBEAT_SECONDS = 15.0  # below the idle time-outs of proxies
RETRY_MS = 1_000
NOTHING = schemas.Nothing()
COMPACT_DEFAULTS = schemas.CompactInput(keep_days=365)


@router.get("/changes", response={200: schemas.Page[schemas.Change], **PROBLEMS})
def list_changes(
    request: HttpRequest,
    since: Annotated[int | None, Query(ge=0, le=BIGINT_MAX, description="Only later revisions.")] = None,
    cursor: Annotated[int | None, Query(ge=0, le=BIGINT_MAX, description="`next_cursor` of the page before.")] = None,
    limit: Limit = 100,
) -> schemas.Page[schemas.Change]:
    """List changes, oldest first: those after `since`, or the latest ones when it is left out."""
    after = cursor if cursor is not None else since
    if after is None:
        return schemas.Page(items=[change(row) for row in queries.latest_changes(limit)])
    rows = queries.changes_after(after, limit + 1)
    return page(rows, limit, change, lambda row: str(row.revision))


@router.post("/changes/compact", response={200: schemas.Compacted, **PROBLEMS})
def compact_changes(request: HttpRequest, body: schemas.CompactInput = COMPACT_DEFAULTS) -> schemas.Compacted:
    """Delete old changes from the front of the log, for good."""
    done = services.compact(actor(request), timedelta(days=body.keep_days))
    return schemas.Compacted(removed=done.removed, tail=done.tail)


@router.post("/changes/new-epoch", response={200: schemas.NewEpoch, **PROBLEMS})
def begin_epoch(request: HttpRequest, body: schemas.Nothing = NOTHING) -> schemas.NewEpoch:
    """Say that the database's history was replaced: every node reads the present state anew and believes it."""
    services.new_epoch(actor(request))
    epoch, revision = queries.head()
    return schemas.NewEpoch(epoch=epoch, revision=revision)


@router.get(
    "/changes/{revision}/convergence",
    response={200: schemas.Application, **PROBLEMS},
    auth=AsyncBearer(),
)
async def get_application(
    request: HttpRequest,
    revision: Annotated[int, Path(ge=0, le=BIGINT_MAX)],
    wait: Annotated[float, Query(ge=0, le=60, description="Seconds to wait for every reachable node.")] = 0,
) -> Application:
    """How far the nodes have come with a revision."""
    return await wait_until_applied(revision, wait)


@router.get(
    "/events",
    response={200: str, **PROBLEMS},
    auth=AsyncBearer(),
    openapi_extra={"responses": {200: {"description": "Server-sent events", "content": {"text/event-stream": {}}}}},
)
async def follow_events(
    request: HttpRequest,
    last_event_id: Annotated[
        str | None, Header(alias="Last-Event-ID", description="The last event had: begin after it.")
    ] = None,
) -> HttpResponseBase:
    """Follow changes (`event: change`, whose id is the revision) and what nodes report (`event: report`;
    its `node` is null when any node may have reported while PostgreSQL could not be listened to).

    `event: reset` says that changes after the one last had are no longer kept: up to its `tail` they may be missing,
    so read what you follow anew. What comes later follows.

    Every change after the Last-Event-ID is sent, however long the connection was broken. The stream ends
    when its token is revoked.
    """
    response = StreamingHttpResponse(_events(request, _parse_id(last_event_id)), content_type="text/event-stream")
    response.headers["X-Accel-Buffering"] = "no"
    return response


async def _events(request: HttpRequest, after: int | None) -> AsyncIterator[bytes]:
    async with feed().subscribe() as subscription:
        _, revision = await in_database(queries.head)
        # The first byte is a promise: whatever is committed or reported from now on is sent.
        yield f"retry: {RETRY_MS}\n\n".encode()
        # A revision that this database never reached is of another epoch: begin at its head.
        last = revision if after is None or after > revision else after
        while True:
            tail = 0
            try:
                tail, rows = await in_database(_read_after, last)
                # Asked after reading: what a token sees was committed while it was good.
                if not await may_go_on(request):
                    return
            except (DatabaseError, PoolTimeout):
                # The follower keeps its connection; the feed says when the database is back.
                rows = []
            if last < tail:
                last = tail
                yield event("reset", {"tail": tail}, last)
            for row in rows:
                last = row.revision
                yield event("change", change(row).model_dump(mode="json"), last)
            if len(rows) == BATCH:
                continue
            note = await subscription.next(HEARTBEAT_SECONDS)
            if note is None:
                yield b": still here\n\n"
            elif note.channel == REPORTS:
                yield event("report", {"node": note.payload or None})


def _read_after(revision: int) -> tuple[int, list[Change]]:
    """Return the log's tail, and the changes after `revision` that are later than it, at most BATCH."""
    rows = queries.changes_after(revision, BATCH)
    # Read after the changes: a compaction between the two is seen here. What it left behind the tail is no history.
    tail = queries.tail()
    return tail, queries.changes_after(tail, BATCH) if revision < tail else rows


def _parse_id(text: str | None) -> int | None:
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise InvalidInput.of("Last-Event-ID", "Send the id of an event, which is a revision.")
    return int(text)
