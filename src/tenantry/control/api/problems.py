"""Errors as RFC 9457 problem documents: the one mapping from domain errors, Django and ninja to HTTP."""

import json
import logging
from collections.abc import Awaitable, Callable, Iterable
from http import HTTPStatus
from typing import Any

from asgiref.sync import iscoroutinefunction
from django.core.exceptions import RequestDataTooBig
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.utils.decorators import sync_and_async_middleware
from ninja import NinjaAPI
from ninja.errors import AuthenticationError, HttpError, ValidationError
from psycopg_pool import PoolTimeout

from tenantry.control.errors import Busy, Conflict, ControlError, InvalidInput, NotAuthenticated, NotFound
from tenantry.spec.errors import InvalidName

CONTENT_TYPE = "application/problem+json"
BUSY_RETRY_SECONDS = 1

logger = logging.getLogger(__name__)


def problem(
    status: int, title: str, detail: str = "", errors: Iterable[tuple[str, str]] = (), instance: str = ""
) -> HttpResponse:
    """Return a problem document. `errors` name the input fields at fault; `instance` is the request's path."""
    document: dict[str, Any] = {"type": "about:blank", "title": title, "status": status}
    if detail:
        document["detail"] = detail
    if instance:
        document["instance"] = instance
    listed = [{"field": field, "message": message} for field, message in errors]
    if listed:
        document["errors"] = listed
    response = HttpResponse(json.dumps(document), status=status, content_type=CONTENT_TYPE)
    if status == HTTPStatus.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = 'Bearer realm="tenantry"'
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        response.headers["Retry-After"] = str(BUSY_RETRY_SECONDS)
    return response


def problem_of(error: ControlError, instance: str = "") -> HttpResponse:
    """Return the answer to a domain error."""
    errors: Iterable[tuple[str, str]] = ()
    if isinstance(error, InvalidInput):
        errors = error.errors
    elif isinstance(error, Conflict) and error.field:
        errors = [(error.field, error.message)]
    return problem(error.status, error.title, error.message, errors, instance)


def install_exception_handlers(api: NinjaAPI) -> None:
    """Make every exception that an operation of `api` may raise a problem document."""
    _install_refusals(api)
    _install_failures(api)


def _install_refusals(api: NinjaAPI) -> None:
    """What is wrong with a request, found by services, by the parser or by Django."""

    @api.exception_handler(ControlError)
    def on_control_error(request: HttpRequest, error: ControlError) -> HttpResponse:
        return problem_of(error, request.path)

    @api.exception_handler(InvalidName)
    def on_invalid_name(request: HttpRequest, error: InvalidName) -> HttpResponse:
        return problem_of(InvalidInput.of(error.field, error.message), request.path)

    @api.exception_handler(ValidationError)
    def on_validation_error(request: HttpRequest, error: ValidationError) -> HttpResponse:
        return problem_of(InvalidInput([_field_error(entry) for entry in error.errors]), request.path)

    @api.exception_handler(HttpError)
    def on_http_error(request: HttpRequest, error: HttpError) -> HttpResponse:
        # What the parser raises reaches us wrapped in ninja's own «cannot parse».
        if isinstance(error.__cause__, ControlError):
            return problem_of(error.__cause__, request.path)
        return problem(error.status_code, HTTPStatus(error.status_code).phrase, error.message, instance=request.path)

    @api.exception_handler(AuthenticationError)
    def on_authentication_error(request: HttpRequest, error: AuthenticationError) -> HttpResponse:
        return problem_of(NotAuthenticated("A token is needed."), request.path)

    @api.exception_handler(Http404)
    def on_not_found(request: HttpRequest, error: Http404) -> HttpResponse:
        return problem_of(NotFound("There is nothing here."), request.path)

    @api.exception_handler(RequestDataTooBig)
    def on_too_big(request: HttpRequest, error: RequestDataTooBig) -> HttpResponse:
        return problem(413, "Content too large", "A request has at most 1 MiB.", instance=request.path)


def _install_failures(api: NinjaAPI) -> None:
    """What is wrong with the platform."""

    @api.exception_handler(PoolTimeout)
    @api.exception_handler(OperationalError)
    @api.exception_handler(InterfaceError)
    def on_no_database(request: HttpRequest, error: Exception) -> HttpResponse:
        logger.warning("%s %s: %s", request.method, request.path, error)
        return problem_of(Busy("The database cannot be reached. Try again in a moment."), request.path)

    @api.exception_handler(Exception)
    def on_bug(request: HttpRequest, error: Exception) -> HttpResponse:
        logger.error("%s %s failed", request.method, request.path, exc_info=error)
        return problem(500, "Internal error", "The platform failed; its log has the reason.", instance=request.path)


def _field_error(entry: dict[str, Any]) -> tuple[str, str]:
    """Name the field as the client wrote it: pydantic puts where it looked (body, query) and our parameter first."""
    location = [str(part) for part in entry.get("loc", ())]
    if location and location[0] in {"body", "query", "path", "header"}:
        outer = location.pop(0)
        if outer == "body" and len(location) > 1:
            location.pop(0)
    return ".".join(location) or "body", str(entry.get("msg", "invalid"))


def has_nul(request: HttpRequest) -> bool:
    """Whether the address has a NUL, which PostgreSQL's text does not take: nothing here has such a name."""
    return "\0" in request.path or "%00" in request.META.get("QUERY_STRING", "")


@sync_and_async_middleware
def problem_responses(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """Turn what Django answers by itself below /api/ (404, 405, 400, 413, 500) into problem documents.

    An address with a NUL is refused here, for every surface.
    """

    def finish(request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        if not request.path.startswith("/api/") or response.status_code < HTTPStatus.BAD_REQUEST:
            return response
        if response.headers.get("Content-Type", "").startswith(CONTENT_TYPE):
            return response
        converted = problem(response.status_code, HTTPStatus(response.status_code).phrase, instance=request.path)
        if "Allow" in response.headers:
            converted.headers["Allow"] = response.headers["Allow"]
        response.close()
        return converted

    if iscoroutinefunction(get_response):
        awaitable: Callable[[HttpRequest], Awaitable[HttpResponseBase]] = get_response

        async def answer_async(request: HttpRequest) -> HttpResponseBase:
            if has_nul(request):
                return problem(404, "Not found", "No name has a NUL character.")
            return finish(request, await awaitable(request))

        return answer_async

    def answer(request: HttpRequest) -> HttpResponseBase:
        if has_nul(request):
            return problem(404, "Not found", "No name has a NUL character.")
        return finish(request, get_response(request))

    return answer
