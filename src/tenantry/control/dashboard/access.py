"""Who may see pages: logging in and out, and the guard that every other page stands behind."""

import hashlib
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec

from django.conf import settings
from django.contrib.auth import authenticate, login, logout
from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.core.cache import cache
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme, urlencode
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_POST

from tenantry.control.access.actors import require_admin
from tenantry.control.access.services import actor_of
from tenantry.control.errors import Forbidden, NotAuthenticated

P = ParamSpec("P")
View = Callable[Concatenate[HttpRequest, P], HttpResponseBase]

FAILURES_MAX = 5  # a person mistypes a few times; a program guesses thousands of times
FAILURES_SECONDS = 300

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
@page
def log_in(request: HttpRequest) -> HttpResponseBase:
    """Show the form, or check a user name and password. Says never which of the two was wrong."""
    following = str(request.POST.get("next") or request.GET.get("next") or "")
    if not url_has_allowed_host_and_scheme(following, {request.get_host()}, require_https=request.is_secure()):
        following = reverse("dashboard:overview")
    if request.method != "POST":
        if request.user.is_authenticated:
            return redirect(following)
        return _login_page(request, following)
    username, password = str(request.POST.get("username", "")), str(request.POST.get("password", ""))
    key = _failures_key(request, username)
    if cache.get(key, 0) >= FAILURES_MAX:
        return _login_page(request, following, "Too many failed attempts. Wait five minutes, then try again.", 429)
    user = None if "\0" in username + password else authenticate(request, username=username, password=password)
    if user is None:
        cache.add(key, 0, FAILURES_SECONDS)
        try:
            cache.incr(key)
        except ValueError:  # it ran out between the two lines
            cache.set(key, 1, FAILURES_SECONDS)
        return _login_page(request, following, "The user name or the password is wrong.", 401)
    cache.delete(key)
    login(request, user)
    return redirect(following)


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


def _failures_key(request: HttpRequest, username: str) -> str:
    """One count for each address and user name: a stranger elsewhere cannot lock the administrator out."""
    pair = f"{request.META.get('REMOTE_ADDR', '')}\0{username.lower()}"
    return "dashboard-login-" + hashlib.sha256(pair.encode("utf-8", "replace")).hexdigest()
