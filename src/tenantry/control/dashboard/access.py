"""Who may see pages: logging in and out, and the guard that every other page stands behind."""

import asyncio
import contextlib
import hashlib
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec

from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth import authenticate, login, logout
from django.contrib.auth.models import AbstractBaseUser, AnonymousUser, User
from django.core.exceptions import PermissionDenied
from django.db import connection
from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme, urlencode
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_POST

from tenantry.control.access.actors import require_admin
from tenantry.control.access.services import actor_of
from tenantry.control.dashboard.pace import Pace, TooManyAttempts
from tenantry.control.dashboard.peers import peer_uid
from tenantry.control.errors import Forbidden, NotAuthenticated

P = ParamSpec("P")
View = Callable[Concatenate[HttpRequest, P], HttpResponseBase]

_pace = Pace()

# Stricter than the platform's default: pages have no inline style either, and only what is named is allowed.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


def page(view: View[P]) -> View[P]:
    """Make a view a page for everybody: it gets the policy and is never kept by a browser or proxy."""

    @wraps(view)
    def guarded(request: HttpRequest, /, *args: P.args, **kwargs: P.kwargs) -> HttpResponseBase:
        response = view(request, *args, **kwargs)
        response.headers.setdefault("Content-Security-Policy", POLICY)
        response.headers.setdefault("Cache-Control", "no-store")
        return response

    return guarded


def signed_in(view: View[P]) -> View[P]:
    """Make a view a page for administrators who are logged in; nobody is sent to the login page and back again."""

    @wraps(view)
    @page
    def guarded(request: HttpRequest, /, *args: P.args, **kwargs: P.kwargs) -> HttpResponseBase:
        if may_look(request.user):
            return view(request, *args, **kwargs)
        if request.user.is_authenticated:
            raise PermissionDenied
        address = _login_address(request)
        if "HX-Request" in request.headers:  # a fragment asked for by a page whose session has ended
            return HttpResponse(status=401, headers={"HX-Redirect": address})
        return HttpResponseRedirect(address)

    return guarded


@sensitive_post_parameters("password")
@never_cache
async def log_in(request: HttpRequest) -> HttpResponseBase:
    """Show the form, or check a user name and password. Says never which of the two was wrong.

    Asynchronous, because a wrong password is answered late: the wait holds neither a thread nor a connection.
    """
    if request.method != "POST":
        return await sync_to_async(_show_login)(request)
    following = _following(request)
    username, password = str(request.POST.get("username", "")), str(request.POST.get("password", ""))
    lane = await asyncio.to_thread(_lane, request, username)
    try:
        user = await _pace.attempt(lane, lambda: sync_to_async(_check)(request, username, password))
    except TooManyAttempts:
        text = "Too many attempts at once. Try again in a few seconds."
        return await sync_to_async(_refuse)(request, following, text, 429)
    if user is None:
        return await sync_to_async(_refuse)(request, following, "The user name or the password is wrong.", 401)
    return await sync_to_async(_admit)(request, user, following)


@page
def _show_login(request: HttpRequest) -> HttpResponseBase:
    following = _following(request)
    return redirect(following) if request.user.is_authenticated else _login_page(request, following)


@page
def _refuse(request: HttpRequest, following: str, error: str, status: int) -> HttpResponseBase:
    return _login_page(request, following, error, status)


@page
def _admit(request: HttpRequest, user: User, following: str) -> HttpResponseBase:
    login(request, user)
    return redirect(following)


def _check(request: HttpRequest, username: str, password: str) -> User | None:
    """Return the user whose name and password these are; leaves no connection open for the wait that may follow."""
    try:
        return None if "\0" in username + password else authenticate(request, username=username, password=password)
    finally:
        connection.close()


def _following(request: HttpRequest) -> str:
    """Where to go after logging in: the page asked for, never another host's."""
    following = str(request.POST.get("next") or request.GET.get("next") or "")
    if url_has_allowed_host_and_scheme(following, {request.get_host()}, require_https=request.is_secure()):
        return following
    return reverse("dashboard:overview")


@page
@require_POST
def log_out(request: HttpRequest) -> HttpResponseBase:
    """End the session. Only POST: a link on another page must not log a person out."""
    logout(request)
    return redirect(settings.LOGOUT_REDIRECT_URL or "/login")


def may_look(user: AbstractBaseUser | AnonymousUser) -> bool:
    """Whether somebody may see pages: the platform is its administrators', for reading too."""
    try:
        require_admin(actor_of(user))
    except (NotAuthenticated, Forbidden):
        return False
    return True


def _login_page(request: HttpRequest, following: str, error: str = "", status: int = 200) -> HttpResponse:
    context: dict[str, Any] = {
        "error": error,
        "next": following,
        "username": request.POST.get("username", "")[:150],
    }
    return render(request, "dashboard/login.html", context, status=status)


def _login_address(request: HttpRequest) -> str:
    here = request.get_full_path() if request.method in {"GET", "HEAD"} and "HX-Request" not in request.headers else ""
    return reverse("dashboard:login") + (f"?{urlencode({'next': here})}" if here not in {"", "/"} else "")


def _lane(request: HttpRequest, username: str) -> str:
    """Who tries which name. Sites' processes share the machine's address with the administrator, not their uid."""
    address = str(request.META.get("REMOTE_ADDR", ""))
    uid = None
    with contextlib.suppress(KeyError, ValueError):
        server = (str(request.META["SERVER_NAME"]), int(request.META["SERVER_PORT"]))
        uid = peer_uid((address, int(request.META["REMOTE_PORT"])), server)
    # A digest, so that a name's length does not matter.
    return hashlib.sha256(f"{address}\0{uid}\0{username.lower()}".encode("utf-8", "replace")).hexdigest()
