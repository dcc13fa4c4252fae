"""The API's authentication, for operations that run in a thread and for those on the event loop."""

from typing import Any

from django.http import HttpRequest
from ninja.security import HttpBearer

from tenantry.control.access.actors import Actor, require_admin
from tenantry.control.access.authentication import actor_of_request
from tenantry.control.database import in_database
from tenantry.control.errors import Forbidden, NotAuthenticated


class Bearer(HttpBearer):
    """For synchronous operations. `request.auth` is the actor."""

    def __call__(self, request: HttpRequest) -> Any:
        return _administrator(request)

    def authenticate(self, request: HttpRequest, token: str) -> Any:
        raise NotImplementedError("__call__ reads the header itself")


class AsyncBearer(HttpBearer):
    """For asynchronous operations: the look-up runs in a thread, and its connection is given back."""

    def __call__(self, request: HttpRequest) -> Any:
        return in_database(_administrator, request)

    async def authenticate(self, request: HttpRequest, token: str) -> Any:
        raise NotImplementedError("__call__ reads the header itself")


def actor(request: HttpRequest) -> Actor:
    """Return the actor that authentication found."""
    found: Actor = request.auth  # type: ignore[attr-defined]
    return found


async def may_go_on(request: HttpRequest) -> bool:
    """Whether the request would still be let in: a long answer asks again, since its token may have been revoked."""
    try:
        await in_database(_administrator, request)
    except (NotAuthenticated, Forbidden):
        return False
    return True


def _administrator(request: HttpRequest) -> Actor:
    """Reading asks no service for permission, so it is checked here: the platform is its administrators'."""
    found = actor_of_request(request)
    require_admin(found)
    return found
