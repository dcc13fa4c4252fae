"""The WSGI application of a site, in whatever mode the site is.

A site's nginx answers in its place already. This is for requests that reach the process all the same: it was started
without nginx, or a request was on its way when the mode changed. And it is the only place that can explain what nginx
lets through: a page that wants to write while the database refuses it.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from django_tenantry.modes import ModeState

WSGIApplication = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

# Set by nginx, from no header: this visitor was let through.
LET_THROUGH_VARIABLE = "TENANTRY_LET_THROUGH"
# PostgreSQL's words for «you may not write»: insufficient_privilege, read_only_sql_transaction.
_WRITE_REFUSED = frozenset({"42501", "25006"})
_CAUSES_MAX = 10  # of an exception: chains may be circular

_refusals: "ContextVar[list[str] | None]" = ContextVar("django_tenantry_refusals", default=None)


def with_modes(application: WSGIApplication, environment: Mapping[str, str]) -> WSGIApplication:
    """Return the application behind the site's mode; itself where the environment speaks of none."""
    path, started_in = environment.get("TENANTRY_MODE_FILE", ""), environment.get("TENANTRY_MODE", "")
    if not path and started_in in ("", "live"):
        return application
    return ModeGate(application, ModeReader(path, started_in))


class ModeReader:
    """Knows the site's mode: that of the document at `path` while there is one, else `started_in`.

    Asking costs one `stat`. A document that cannot be read leaves the mode as it was.
    """

    def __init__(self, path: str, started_in: str) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._state = None if started_in in ("", "live") else self._parse({"mode": started_in})
        self._initial = self._state

    def current(self) -> "ModeState | None":
        """Return the state of a site that is not live, else None."""
        if not self._path:
            return self._state
        try:
            found = os.stat(self._path)  # noqa: PTH116 - at each request
        except OSError:
            self._seen, self._state = None, self._initial
            return self._state
        signature = (found.st_ino, found.st_mtime_ns, found.st_size)
        if signature != self._seen:
            try:
                self._state = self._parse(json.loads(Path(self._path).read_bytes()))
                self._seen = signature
            except FileNotFoundError:
                self._seen, self._state = None, self._initial
            except (OSError, ValueError, TypeError) as error:
                self._seen = signature
                print(f"django_tenantry: {self._path} is no mode, which stays as it was: {error}", file=sys.stderr)
        return self._state

    @staticmethod
    def _parse(document: Any) -> "ModeState | None":
        from django_tenantry.modes import ModeState

        state = ModeState.from_document(document)
        return None if state.mode == "live" else state


class ModeGate:
    """Passes requests on to `application` while the site's mode allows them, else answers as the mode says."""

    def __init__(self, application: WSGIApplication, mode: ModeReader) -> None:
        self._application = application
        self._mode = mode

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        state = self._mode.current()
        if state is None:
            return self._application(environ, start_response)
        method = environ.get("REQUEST_METHOD", "GET")
        if state.refuses(method) and not environ.get(LET_THROUGH_VARIABLE):
            return _answer(state, environ, start_response)
        if state.mode != "read_only":
            return self._application(environ, start_response)
        return self._explained(state, environ, start_response)

    def _explained(
        self, state: "ModeState", environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        """Run the application; where it ends in a 500 because the database refused to write, say that instead."""
        refused: list[str] = []
        replaced: list[Iterable[bytes]] = []

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            if refused and status.startswith("500"):
                replaced.append(_answer(state, environ, lambda *answered: start_response(*answered, exc_info)))
                return _discard
            return start_response(status, headers, exc_info)

        with noting_refusals(refused):
            result = self._application(environ, start)
        if not replaced:
            return result
        close = getattr(result, "close", None)
        if close is not None:
            close()
        return replaced[-1]


def _answer(state: "ModeState", environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    from django_tenantry.modes import answer

    said = answer(
        state,
        accept=environ.get("HTTP_ACCEPT", ""),
        requested_with=environ.get("HTTP_X_REQUESTED_WITH", ""),
        now=time.time(),
    )
    start_response(f"{said.status} Service Unavailable", list(said.headers.items()))
    return [] if environ.get("REQUEST_METHOD") == "HEAD" else [said.body]


def _discard(data: bytes) -> None:
    """What the application writes of the page that is not sent."""


@contextmanager
def noting_refusals(refused: "list[str]") -> Iterator[None]:
    """Note in `refused` when Django makes a 500 of the database's refusal to write, in this context."""
    from django.core.signals import got_request_exception

    got_request_exception.connect(_note_refusal, dispatch_uid="django_tenantry.gate")  # does nothing the second time
    token = _refusals.set(refused)
    try:
        yield
    finally:
        _refusals.reset(token)


def _note_refusal(**kwargs: Any) -> None:
    """Django's receiver: the exception is the one being handled."""
    refusals = _refusals.get()
    if refusals is not None and _is_refused_write(sys.exc_info()[1]):
        refusals.append("refused")


def _is_refused_write(error: BaseException | None) -> bool:
    """Whether the database refused to write: what Django raises was caused by the driver's error, which has a code."""
    for _ in range(_CAUSES_MAX):
        if error is None:
            return False
        code = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
        if code in _WRITE_REFUSED:
            return True
        error = error.__cause__ or error.__context__
    return False
