"""The act behind the form of a site's mode."""

from datetime import UTC, datetime

from django.http import HttpRequest, HttpResponseBase
from django.shortcuts import redirect
from django.views.decorators.http import require_POST

from tenantry.control.access.services import actor_of
from tenantry.control.dashboard.access import signed_in
from tenantry.control.dashboard.modes import MODES
from tenantry.control.dashboard.site_pages import find, site_address, site_page, try_act
from tenantry.control.sites import services


@signed_in
@require_POST
def set_mode(request: HttpRequest, slug: str) -> HttpResponseBase:
    """Set a site's mode. What the form does not show (networks, a page, Retry-After) stays as it is."""
    typed = {name: str(request.POST.get(name, "")).strip() for name in ("mode", "message", "until")}
    typed["message"] = typed["message"].replace("\r\n", "\n")
    found = find(slug)
    errors = {}
    try:
        until = None if not typed["until"] else datetime.fromisoformat(typed["until"])
    except ValueError:
        errors["until"] = f"«{typed['until']}» is no time such as 2030-01-31 18:00."
    else:
        live = typed["mode"] == "live"
        details = services.ModeDetails(
            message="" if live else typed["message"],
            until=None if live or until is None else until if until.tzinfo else until.replace(tzinfo=UTC),
            retry_after_seconds=None if live else found.mode_options.retry_after_seconds,
            networks=None,
            page=None,
        )
        errors = try_act(
            lambda actor: services.set_mode(actor, slug, typed["mode"], details), actor_of(request.user), ""
        )
    if not errors:
        return redirect(site_address(slug, "mode"))
    beside = [message for field, message in errors.items() if field not in ("message", "until")]
    told = {"modes": MODES, "mode_typed": typed, "mode_errors": errors, "mode_error": " ".join(beside)}
    return site_page(request, find(slug), told, status=422)
