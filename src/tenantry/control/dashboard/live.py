"""The live stream: what changed since a page was read, as fragments that htmx puts in their place.

1. The page says what it shows and the position it was read at; a browser that reconnects says the last id it got.
2. Subscribe to the feed, then read what is newer than that, send it, wait for a note or the tick, and read again.
Invariant: an event's id names all that was sent up to it, so a connection cut at any point misses nothing; what is
sent twice replaces itself. Notes only wake: everything is read from the tables.
"""

import asyncio
import logging
import re
from collections.abc import AsyncIterator

from django.contrib.auth import get_user
from django.db import DatabaseError, connection
from django.http import HttpRequest, HttpResponseBase, StreamingHttpResponse
from django.views.decorators.http import require_GET
from psycopg_pool import PoolTimeout

from tenantry.control.changelog.feed import Subscription, feed
from tenantry.control.dashboard.access import may_look, signed_in
from tenantry.control.dashboard.news import News, Reader, Watched
from tenantry.control.dashboard.positions import Position
from tenantry.control.database import in_database

RETRY_MS = 1_000  # how long a browser waits before it connects again
TICK_SECONDS = 5.0  # nodes beat without a note: their last contact is read again
GATHER_SECONDS = 0.15  # a change seldom comes alone: one message for those that come together
BUSY_SECONDS = 1.0  # the pause while many sites change at once

PAGES = ("overview", "changes", "site", "projects", "project", "nodes", "node")
_LINE_END = re.compile(r"\r\n|\r|\n")

logger = logging.getLogger(__name__)


@signed_in
@require_GET
def live(request: HttpRequest) -> HttpResponseBase:
    """The stream of one page, until the browser goes away."""
    query = request.GET.dict()
    page = query.get("page", "")
    watched = Watched(
        page if page in PAGES else "overview", query.get("slug") or query.get("project") or query.get("node") or ""
    )
    position = Position.parse(request.headers.get("Last-Event-ID", "")) or Position.parse(query.get("since", ""))
    # The session was read on this thread: a stream that kept its connection would use up the pool.
    connection.close()
    return StreamingHttpResponse(
        _messages(request, Reader(request, watched, position)),
        content_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _messages(request: HttpRequest, reader: Reader) -> AsyncIterator[str]:
    try:
        # Before subscribing, which may take two seconds: the browser learns at once that the stream is open.
        yield f"retry: {RETRY_MS}\n\n"
        async with feed().subscribe() as notes:
            while await in_database(_still_signed_in, request):
                news = await in_database(reader.read)
                for event in written(news, reader.position):
                    yield event
                await _pause(notes, news.busy)
            yield _event("signed-out")
    except (DatabaseError, PoolTimeout) as error:
        # The browser connects again, says so meanwhile, and catches up.
        logger.warning("a live stream ended: %s", error)


async def _pause(notes: Subscription, busy: bool) -> None:
    """Wait for something to happen, a little longer for what comes with it, and forget the notes of all that."""
    if busy:
        await asyncio.sleep(BUSY_SECONDS)
    if await notes.next(TICK_SECONDS):
        await asyncio.sleep(GATHER_SECONDS)
        while await notes.next(0):
            pass


def written(news: News, position: Position) -> list[str]:
    """Return news as events, the last one with the position; a comment when there are none: silence would hide a
    dead connection."""
    events = [_event(row, f"site-{slug}") for slug, row in news.rows.items()]
    events += [_event("", name) for name in news.refresh]
    if news.fragments:
        events.append(_event("\n".join(news.fragments)))
    if not events:
        return [":\n\n"]
    return [*events[:-1], f"id: {position}\n{events[-1]}"]


def _event(data: str, name: str = "") -> str:
    lines = [f"data: {line}" for line in _LINE_END.split(data)]
    return "\n".join([*([f"event: {name}"] if name else []), *lines]) + "\n\n"


def _still_signed_in(request: HttpRequest) -> bool:
    """Whether the session that opened the stream is still good: read anew each time, never from the request."""
    store = type(request.session)
    key = request.session.session_key
    if not key or not request.session.exists(key):
        return False
    fresh = HttpRequest()
    fresh.session = store(key)
    return may_look(get_user(fresh))
