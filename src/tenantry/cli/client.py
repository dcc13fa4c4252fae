"""A thin client of the REST API: one request in, one document out, every refusal a `CliError`.

It stands on `http.client`: importing httpx takes 130 ms here, more than the rest of the command together, and a
command makes two or three requests to one address.
"""

import http.client
import json
import os
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from tenantry.cli.connection import Connection
from tenantry.cli.documents import Document
from tenantry.cli.errors import CliError, InvalidInput, NotFound, Refused, Unauthorized, Unreachable, UsageProblem

ANSWER_SECONDS = 30.0  # every ordinary answer takes milliseconds; a dump before a delete takes longest
LONG_POLL_SECONDS = 20  # below the idle time-outs of proxies
PAGE_SIZE = 200

Query = Mapping[str, str | int | None]


def path(*segments: str | int) -> str:
    """Join path segments below /api/v1. Refuses what would become another path (`../x`, `a/b`, an empty name)."""
    for segment in segments:
        text = str(segment)
        if not text or text in (".", "..") or "/" in text or "\\" in text or not text.isprintable() or len(text) > 300:
            raise UsageProblem("name", f"«{text}» cannot be a name.")
    return "/api/v1/" + "/".join(quote(str(segment), safe="") for segment in segments)


class Client:
    """Requests to one platform over one kept-alive connection. Not for use by two threads."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        parts = urlsplit(connection.url)
        self._prefix = parts.path
        self._http: http.client.HTTPConnection
        if parts.scheme == "https":
            self._http = http.client.HTTPSConnection(
                parts.netloc, timeout=ANSWER_SECONDS, context=ssl.create_default_context()
            )
        else:
            self._http = http.client.HTTPConnection(parts.netloc, timeout=ANSWER_SECONDS)

    def get(self, address: str, query: Query | None = None, *, patience: float = 0) -> Any:
        """GET a JSON document. `patience` in seconds: how long the server may hold the answer back (a long poll)."""
        return self._exchange("GET", address, query, None, ANSWER_SECONDS + patience)

    def post(self, address: str, document: Document | None = None) -> Any:
        return self._exchange("POST", address, None, document or {}, ANSWER_SECONDS)

    def patch(self, address: str, document: Document) -> Any:
        return self._exchange("PATCH", address, None, document, ANSWER_SECONDS)

    def put(self, address: str, document: Document) -> Any:
        return self._exchange("PUT", address, None, document, ANSWER_SECONDS)

    def delete(self, address: str, query: Query | None = None, *, patience: float = 0) -> Any:
        return self._exchange("DELETE", address, query, None, ANSWER_SECONDS + patience)

    def items(self, address: str, query: Query | None = None, *, limit: int | None = None) -> list[Any]:
        """Every item of a collection, at most `limit`, following its cursors."""
        found: list[Any] = []
        asked = dict(query or {})
        while True:
            page = self.get(address, asked)
            if isinstance(page, list):
                found += page
                return found[:limit]
            found += page["items"]
            cursor = page.get("next_cursor")
            if not cursor or (limit is not None and len(found) >= limit):
                return found[:limit]
            asked["cursor"] = cursor

    def lines(
        self,
        address: str,
        query: Query | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        silence: float | None = None,
    ) -> Iterator[str]:
        """The lines of an answer as they arrive, without line ends, until the server ends it.

        `silence` in seconds is how long nothing may come before it counts as unreachable; None waits for ever.
        """
        response = self._send("GET", address, query, None, ANSWER_SECONDS, headers or {})
        if response.status >= http.client.BAD_REQUEST:
            self._refuse(response.status, self._body(response))
        if self._http.sock is not None:
            self._http.sock.settimeout(silence)
        try:
            while True:
                with self._translated():
                    raw = response.readline()
                if not raw:
                    return
                yield raw.decode("utf-8", "replace").rstrip("\r\n")
        finally:
            self.close()

    def close(self) -> None:
        self._http.close()

    def _exchange(self, method: str, address: str, query: Query | None, document: Document | None, wait: float) -> Any:
        response = self._send(method, address, query, document, wait, {})
        body = self._body(response)
        if response.status >= http.client.BAD_REQUEST:
            self._refuse(response.status, body)
        if not body:
            return None
        try:
            return json.loads(body)
        except ValueError:
            raise Unreachable(
                f"What answers at {self.connection.url} is not Tenantry (no JSON).",
                f"Check the address in {self.connection.source}.",
            ) from None

    def _send(
        self,
        method: str,
        address: str,
        query: Query | None,
        document: Document | None,
        wait: float,
        headers: Mapping[str, str],
    ) -> http.client.HTTPResponse:
        asked = {name: value for name, value in (query or {}).items() if value is not None}
        target = self._prefix + address + (f"?{urlencode(asked)}" if asked else "")
        body = None if document is None else json.dumps(document).encode()
        sent = {
            "Authorization": f"Bearer {self.connection.token}",
            "Accept": "application/json, application/problem+json, text/event-stream, text/plain",
            "User-Agent": "tenantry-cli",
            **({"Content-Type": "application/json"} if body is not None else {}),
            **headers,
        }
        with self._translated():
            self._http.timeout = wait
            if self._http.sock is not None:
                self._http.sock.settimeout(wait)
            try:
                self._http.request(method, target, body, sent)
                return self._http.getresponse()
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                # The server closed the idle connection. A write may have been done: only reads are asked again.
                self._http.close()
                if method != "GET":
                    raise
                self._http.request(method, target, body, sent)
                return self._http.getresponse()

    def _body(self, response: http.client.HTTPResponse) -> bytes:
        with self._translated():
            return response.read()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn the network's errors into `Unreachable`; the connection is closed and may be used again."""
        url = self.connection.url
        try:
            yield
        except TimeoutError as error:
            self._http.close()
            raise Unreachable(
                f"The platform at {url} took too long to answer.",
                "See «tenantry doctor» and the logs in the platform's home.",
            ) from error
        except ssl.SSLError as error:
            self._http.close()
            raise Unreachable(
                f"No safe connection to {url}: {error.reason or error}.",
                "Does the platform sign its own certificates? Name its authority: "
                "SSL_CERT_FILE=HOME/etc/ca.pem, from the home of a node.",
            ) from error
        except (OSError, http.client.HTTPException) as error:
            self._http.close()
            raise Unreachable(
                f"The platform at {url} does not answer{_reason(error)}.", "Run bin/up or set TENANTRY_URL."
            ) from error

    def _refuse(self, status: int, body: bytes) -> None:
        """Raise the error that an HTTP error answer means."""
        raise refusal(status, body, self.connection)


def _reason(error: Exception) -> str:
    if isinstance(error, ConnectionRefusedError):
        return ""
    if isinstance(error, OSError) and error.errno is not None:
        return f" ({error.strerror or os.strerror(error.errno)})"
    return f" ({error})" if str(error) else " (it broke off)"


def refusal(status: int, body: bytes, connection: Connection) -> CliError:
    """The error an HTTP status of 400 or more means; a body that is no problem document is not shown."""
    try:
        problem = json.loads(body)
    except ValueError:
        problem = {}
    if not isinstance(problem, dict):
        problem = {}
    message = str(problem.get("detail") or problem.get("title") or f"The platform answered {status}.")
    errors = [
        (str(entry.get("field", "")), str(entry.get("message", "")))
        for entry in problem.get("errors") or ()
        if isinstance(entry, dict)
    ]
    match status:
        case 401:
            return Unauthorized(
                status,
                f"The token from {connection.source} is not accepted by {connection.url}.",
                "Run bin/up to make a new one, or set TENANTRY_URL and TENANTRY_TOKEN.",
            )
        case 403:
            return Unauthorized(status, message, "Use a token that may do this; «tenantry whoami» shows yours.")
        case 404:
            return NotFound(status, message)
        case 422:
            return InvalidInput(message, errors)
        case 503:
            return Refused(status, message, "Try again in a moment; «tenantry doctor» shows what is wrong.")
        case _ if status >= 500:
            return Refused(status, message, "See logs/control.log in the platform's home.")
        case _:
            return Refused(status, message)
