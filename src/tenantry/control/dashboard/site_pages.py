"""Everything about one site, and the forms that act on it. Each act is a call of a service."""

from collections.abc import Callable, Iterable
from typing import Any

from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.http import urlencode
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from tenantry.control.access.actors import Actor
from tenantry.control.access.services import actor_of
from tenantry.control.changelog.queries import head
from tenantry.control.dashboard import queries
from tenantry.control.dashboard.access import signed_in
from tenantry.control.dashboard.logs import Tail, read_tail
from tenantry.control.dashboard.modes import mode_form
from tenantry.control.dashboard.positions import live_query
from tenantry.control.errors import Conflict, ControlError, InvalidInput, NotFound
from tenantry.control.logs import site_log as site_log_path
from tenantry.control.sites import services
from tenantry.control.sites.queries import SiteView
from tenantry.control.sites.queries import site as find_site
from tenantry.spec.errors import InvalidName
from tenantry.spec.names import parse_slug

CHANGES_BESIDE = 12
LOG_LINES = 200
NOTICES = {
    "created": "Created. It serves in a moment.",
    "restarted": "Restarting: a new generation starts beside the old one, which serves until the new one is ready.",
    "added": "Hostname added.",
    "removed": "Hostname removed.",
    "mode": "The mode is set; nodes follow at once.",
}
Errors = dict[str, str]


@signed_in
@require_safe
def site(request: HttpRequest, slug: str) -> HttpResponse:
    """The page of a site."""
    return site_page(request, find(slug))


@signed_in
@require_safe
def site_log(request: HttpRequest, slug: str) -> HttpResponse:
    """The last lines of the site's log; 204 while they are those that the page has `seen`."""
    found = find(slug)
    log = log_of(found.slug)
    if request.GET.get("seen") == log.mark:
        return HttpResponse(status=204)
    return render(request, "dashboard/parts/log.html", {"site": found, "log": log})


@signed_in
@require_http_methods(["GET", "HEAD", "POST"])
def new_site(request: HttpRequest) -> HttpResponseBase:
    """The form of a new site; refusals stand beside their fields."""
    typed = {name: str(request.POST.get(name, "")).strip() for name in ("slug", "project", "hostname")}
    errors: Errors = {}
    if request.method == "POST":
        hostnames = [typed["hostname"]] if typed["hostname"] else []
        asked = services.SiteRequest(slug=typed["slug"], project=typed["project"], hostnames=hostnames)
        errors = try_act(lambda actor: services.create_site(actor, asked), actor_of(request.user), "")
        if not errors:
            return redirect(site_address(typed["slug"], "created"))
    else:
        typed["project"] = request.GET.get("project", "")
    context = {
        "section": "sites",
        "typed": typed,
        "errors": errors,
        "form_error": " ".join(_beside(errors, {"slug", "project", "hostnames"})),
        "projects": queries.creatable_projects(),
    }
    return render(request, "dashboard/new_site.html", context, status=422 if errors else 200)


@signed_in
@require_POST
def add_hostname(request: HttpRequest, slug: str) -> HttpResponseBase:
    """Add a hostname. htmx gets the form again, and with it the list."""
    typed = str(request.POST.get("hostname", "")).strip()
    errors = try_act(lambda actor: services.add_hostname(actor, slug, typed), actor_of(request.user), "name")
    found = find(slug)
    typed_again = typed if errors else ""
    form = {"hostname_typed": typed_again, "hostname_error": " ".join(errors.values())}
    if "HX-Request" in request.headers:
        context = {"site": found, "hostnames": found.hostnames, "pushed": not errors, **form}
        name = "dashboard/parts/hostname_answer.html"
        return render(request, name, context, status=422 if errors else 200)
    if errors:
        return site_page(request, found, form, status=422)
    return redirect(site_address(slug, "added"))


@signed_in
@require_POST
def remove_hostname(request: HttpRequest, slug: str, name: str) -> HttpResponseBase:
    """Remove a hostname; one that is gone already is no error for somebody who wants it gone."""
    errors: Errors = {}
    try:
        services.remove_hostname(actor_of(request.user), slug, name)
    except NotFound:
        pass
    except ControlError as error:
        errors = {"name": error.message}
    found = find(slug)
    told = {"removal_error": " ".join(errors.values())}
    status = 409 if errors else 200
    if "HX-Request" in request.headers:
        context = {"site": found, "hostnames": found.hostnames, **told}
        return render(request, "dashboard/parts/hostnames.html", context, status=status)
    return site_page(request, found, told, status) if errors else redirect(site_address(slug, "removed"))


@signed_in
@require_POST
def restart(request: HttpRequest, slug: str) -> HttpResponseBase:
    """Restart a site's processes."""
    errors = try_act(lambda actor: services.restart_site(actor, slug), actor_of(request.user), "")
    if errors:
        return site_page(request, find(slug), {"failure": " ".join(errors.values())}, status=409)
    return redirect(site_address(slug, "restarted"))


@signed_in
@require_POST
def delete_site(request: HttpRequest, slug: str) -> HttpResponseBase:
    """Delete a site; the slug must be typed again."""
    typed = str(request.POST.get("confirm", "")).strip()
    dump = request.POST.get("dump") == "1"
    errors = try_act(
        lambda actor: services.delete_site(actor, slug, confirm=typed, dump=dump), actor_of(request.user), "confirm"
    )
    if not errors:
        return redirect(site_address(slug))
    told = f"Type «{slug}» to delete it. Nothing was deleted." if typed != slug else " ".join(errors.values())
    return site_page(request, find(slug), {"delete_error": told}, status=422)


def log_of(slug: str) -> Tail:
    """Return the end of a site's log. The slug is parsed again here, because it becomes part of a path."""
    return read_tail(site_log_path(parse_slug(slug)), LOG_LINES)


def site_context(found: SiteView) -> dict[str, Any]:
    """Return what the parts of a site's page show, for the page and for the stream."""
    return {
        "site": found,
        "hostnames": found.hostnames,
        "nodes": queries.node_states(found),
        "changes": queries.last_changes(CHANGES_BESIDE, site=found.slug),
    }


def site_page(
    request: HttpRequest, found: SiteView, told: dict[str, Any] | None = None, status: int = 200
) -> HttpResponse:
    """Return the page of a site; `told` adds to what it shows."""
    _, revision = head()
    context = {
        "section": "sites",
        **site_context(found),
        **mode_form(found),
        "log": log_of(found.slug),
        "live": live_query(revision, page="site", slug=found.slug),
        "notice": NOTICES.get(request.GET.get("done", "")) if request.method == "GET" else None,
        **(told or {}),
    }
    return render(request, "dashboard/site.html", context, status=status)


def find(slug: str) -> SiteView:
    """Return the site; raises Http404 for one that is not there or cannot be."""
    try:
        return find_site(parse_slug(slug))
    except (NotFound, InvalidName) as error:
        raise Http404(str(error)) from error


def try_act(act: Callable[[Actor], object], actor: Actor, field: str) -> Errors:
    """Run a service. Return what it refused, by field; a refusal of the whole goes to `field`. NotFound is a 404."""
    try:
        act(actor)
    except InvalidInput as error:
        return _by_field(error.errors)
    except InvalidName as error:
        return {error.field: error.message}
    except NotFound as error:
        raise Http404(error.message) from error
    except Conflict as error:
        return {error.field or field: error.message}
    except ControlError as error:
        return {field: error.message}
    return {}


def _by_field(errors: Iterable[tuple[str, str]]) -> Errors:
    found: Errors = {}
    for field, message in errors:
        found[field] = f"{found[field]} {message}" if field in found else message
    return found


def _beside(errors: Errors, shown: set[str]) -> list[str]:
    """Return the messages that no field of the form shows."""
    return [message for field, message in errors.items() if field not in shown]


def site_address(slug: str, done: str = "") -> str:
    """Return the address of a site's page, which says what was `done`."""
    return reverse("dashboard:site", args=[slug]) + (f"?{urlencode({'done': done})}" if done else "")
