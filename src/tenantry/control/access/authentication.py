"""Who a request comes from: a bearer token, or for reading a logged-in person's session."""

from django.http import HttpRequest

from tenantry.control.access.actors import Actor
from tenantry.control.access.services import actor_of, authenticate
from tenantry.control.errors import NotAuthenticated

SAFE_METHODS = frozenset({"GET", "HEAD"})


def actor_of_request(request: HttpRequest) -> Actor:
    """Return the actor of a request; raises `NotAuthenticated`.

    A session is taken for safe methods only: no other site's page can then make a person's browser change anything.
    """
    scheme, _, text = request.headers.get("Authorization", "").partition(" ")
    if scheme:
        if scheme.lower() != "bearer" or not text:
            raise NotAuthenticated("Send «Authorization: Bearer TOKEN».")
        return authenticate(text.strip())
    if request.method in SAFE_METHODS and hasattr(request, "user") and request.user.is_authenticated:
        return actor_of(request.user)
    raise NotAuthenticated("A token is needed: send «Authorization: Bearer TOKEN».")
