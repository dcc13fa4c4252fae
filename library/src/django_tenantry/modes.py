"""PURE: what a visitor of a site in a mode gets in the site's place. One text for nginx's side and for the process.

A mode's document, as the platform writes it: `{"mode", "message", "retry_after_seconds", "until", "page"}`. `until` is
in seconds of the epoch, `page` the site's own HTML. Keys that are missing have no effect, unknown ones neither.
"""

import html
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

LIVE, READ_ONLY, MAINTENANCE, PAUSED = "live", "read_only", "maintenance", "paused"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
RETRY_AFTER_SECONDS = 120  # where nobody said anything
STATUS = 503  # for every mode: what is refused now is accepted later, and clients that wait for that know this status

_WORDS = {
    READ_ONLY: ("Read-only for the moment", "This site accepts no changes right now. You can go on reading."),
    MAINTENANCE: ("Down for maintenance", "This site will be back soon."),
    PAUSED: ("This site is paused", "It is not available at the moment."),
}
_PAGE = (
    "<!doctype html>\n<html lang=en><meta charset=utf-8><meta name=viewport content=width=device-width>"
    "<title>{title}</title><style>body{{font:1.1rem/1.5 system-ui,sans-serif;margin:15vh auto;max-width:32rem;"
    "padding:0 1rem}}p{{white-space:pre-line;overflow-wrap:anywhere}}</style><h1>{title}</h1><p>{text}</p>{until}"
    "</html>\n"
)


@dataclass(frozen=True)
class ModeState:
    """A mode and what goes with it. A mode that is not known, of a newer platform, is answered as maintenance."""

    mode: str = LIVE
    message: str = ""
    retry_after_seconds: int | None = None
    until: float | None = None
    page: str = ""

    @classmethod
    def from_document(cls, document: Any) -> "ModeState":
        """Build from a mode's document. `ValueError` when it is none."""
        if not isinstance(document, Mapping) or not isinstance(document.get("mode"), str):
            raise ValueError("a mode's document is an object with the key mode")  # noqa: TRY004 - one error for the caller
        mode = document["mode"]
        retry_after, until = document.get("retry_after_seconds"), document.get("until")
        return cls(
            mode=mode if mode == LIVE or mode in _WORDS else MAINTENANCE,
            message=str(document.get("message") or ""),
            retry_after_seconds=None if retry_after is None else int(retry_after),
            until=None if until is None else float(until),
            page=str(document.get("page") or ""),
        )

    def refuses(self, method: str) -> bool:
        """Whether a request of this method is answered in the site's place."""
        if self.mode == READ_ONLY:
            return method not in SAFE_METHODS
        return self.mode != LIVE


@dataclass(frozen=True)
class ModeAnswer:
    """A whole answer. `headers` has Content-Length; the body is sent for every method but HEAD."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


def answer(state: ModeState, *, accept: str = "", requested_with: str = "", now: float) -> ModeAnswer:
    """Return what is said in the site's place, as HTML or, for those who prefer it, as problem+json (RFC 9457).

    `accept` and `requested_with` are the request's headers Accept and X-Requested-With, `now` the time in seconds of
    the epoch.
    """
    title, text = _WORDS[state.mode if state.mode in _WORDS else MAINTENANCE]
    text = state.message or text
    wait = retry_after(state, now)
    headers = {"Cache-Control": "no-store", "X-Robots-Tag": "noindex", "X-Content-Type-Options": "nosniff"}
    if wait is not None:
        headers["Retry-After"] = str(wait)
    if requested_with.lower() == "xmlhttprequest" or prefers_json(accept):
        headers["Content-Type"] = "application/problem+json"
        body = json.dumps(_problem(state, title, text, wait)).encode()
    else:
        headers["Content-Type"] = "text/html; charset=utf-8"
        if not state.page:
            headers["Content-Security-Policy"] = "default-src 'none'; style-src 'unsafe-inline'"
        body = (state.page or _platform_page(state, title, text, now)).encode("utf-8", "replace")
    return ModeAnswer(STATUS, {**headers, "Content-Length": str(len(body))}, body)


def retry_after(state: ModeState, now: float) -> int | None:
    """Return the seconds after which to ask again: those that were set, else until `until`, else two minutes.

    None for a paused site without an end: it is not coming back by itself.
    """
    if state.retry_after_seconds is not None:
        return state.retry_after_seconds
    if state.until is not None:
        return max(1, math.ceil(state.until - now))
    return None if state.mode == PAUSED else RETRY_AFTER_SECONDS


def prefers_json(accept: str) -> bool:
    """Whether a client that sends this Accept header would rather have JSON than HTML. Whoever takes anything would
    not."""
    best = {"json": 0.0, "html": 0.0}
    for part in accept.split(","):
        media, _, parameters = part.strip().lower().partition(";")
        media = media.strip()
        if media in ("application/json", "application/problem+json") or media.endswith("+json"):
            kind = "json"
        elif media in ("text/html", "application/xhtml+xml", "text/*"):
            kind = "html"
        else:
            continue
        best[kind] = max(best[kind], _quality(parameters))
    return best["json"] > best["html"]


def _quality(parameters: str) -> float:
    for parameter in parameters.split(";"):
        name, _, value = parameter.strip().partition("=")
        if name.strip() == "q":
            try:
                return min(max(float(value), 0.0), 1.0)
            except ValueError:
                return 0.0
    return 1.0


def _problem(state: ModeState, title: str, text: str, wait: int | None) -> dict[str, Any]:
    problem: dict[str, Any] = {"type": "about:blank", "title": title, "status": STATUS, "detail": text}
    problem["mode"] = state.mode
    if wait is not None:
        problem["retry_after_seconds"] = wait
    if state.until is not None:
        problem["until"] = _moment(state.until).isoformat()
    return problem


def _platform_page(state: ModeState, title: str, text: str, now: float) -> str:
    until = ""
    if state.until is not None and state.until > now:
        moment = _moment(state.until)
        until = f"<p>Until {moment:%Y-%m-%d %H:%M} UTC.</p>"
    return _PAGE.format(title=title, text=html.escape(text), until=until)


def _moment(seconds: float) -> datetime:
    # Whole minutes are read more easily, and a moment is never told too early.
    return datetime.fromtimestamp(math.ceil(seconds), timezone.utc)  # noqa: UP017 - Python 3.10
