"""The nodes: how far each has come, what is wrong with it, and the forms that act on it."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.http import urlencode
from django.views.decorators.http import require_POST, require_safe

from tenantry.control.access.actors import Actor
from tenantry.control.access.services import actor_of
from tenantry.control.changelog.queries import head
from tenantry.control.dashboard.access import signed_in
from tenantry.control.dashboard.positions import live_query
from tenantry.control.errors import ControlError, NotFound
from tenantry.control.fleet import queries, services
from tenantry.control.fleet.verdicts import HARMLESS, verdicts

DRIFTS_SHOWN = 30
HELD = ("MassRemovalRefused", "RemovalHeld")
NOTICES = {
    "draining": "Told to drain. It is drained when no visitor is connected.",
    "resumed": "Told to take visitors again.",
    "check": "Asked for a check. Its result appears here in a moment.",
    "confirmed": "Confirmed. The node removes these sites now.",
    "removed": "The node is removed. Stop what runs on that machine.",
}
_TOKEN_AT_END = re.compile(r"\b([0-9a-f]{8})\Z")


@dataclass(frozen=True, slots=True)
class Held:
    """A removal that a node does not believe in until a person confirms it."""

    message: str
    token: str


@signed_in
@require_safe
def nodes(request: HttpRequest) -> HttpResponse:
    """All nodes."""
    _, revision = head()
    notice = NOTICES.get(request.GET.get("done", ""))
    context = {"section": "nodes", **fleet_context(), "live": live_query(revision, page="nodes"), "notice": notice}
    return render(request, "dashboard/nodes.html", context)


@signed_in
@require_safe
def node(request: HttpRequest, name: str) -> HttpResponse:
    """The page of a node."""
    return _node_page(request, name)


@signed_in
@require_POST
def drain_node(request: HttpRequest, name: str) -> HttpResponseBase:
    """Drain a node, or undo that."""
    undo = request.POST.get("undo") == "1"
    act: Callable[[Actor], object] = lambda actor: services.drain(actor, name, undo=undo)  # noqa: E731
    return _done(request, name, act, "resumed" if undo else "draining")


@signed_in
@require_POST
def check_node(request: HttpRequest, name: str) -> HttpResponseBase:
    """Ask a node for a check now, with a repair of what it finds if that is wanted."""
    repair = request.POST.get("repair") == "1"
    return _done(request, name, lambda actor: services.request_check(actor, name, repair=repair), "check")


@signed_in
@require_POST
def confirm_node(request: HttpRequest, name: str) -> HttpResponseBase:
    """Confirm the removal that a node refused: the one whose token the page showed."""
    token = str(request.POST.get("token", "")).strip()
    return _done(request, name, lambda actor: services.confirm_removal(actor, name, token), "confirmed")


@signed_in
@require_POST
def remove_node(request: HttpRequest, name: str) -> HttpResponseBase:
    """Remove a node; its name must be typed again."""
    if str(request.POST.get("confirm", "")).strip() != name:
        told = {"remove_error": f"Type «{name}» to remove it. Nothing was removed."}
        return _node_page(request, name, told, 422)
    refused = _refusal(lambda actor: services.remove(actor, name), actor_of(request.user))
    if refused:
        return _node_page(request, name, {"remove_error": refused}, 409)
    return redirect(f"{reverse('dashboard:nodes')}?{urlencode({'done': 'removed'})}")


def fleet_context() -> dict[str, Any]:
    """Return what lists of nodes show, for pages and for the stream."""
    _, revision = head()
    found = _nodes()
    return {"nodes": found, "revision": revision, "unconverged": [one["name"] for one in found if one["problems"]]}


def node_context(name: str) -> dict[str, Any]:
    """Return what the parts of a node's page show; raises Http404."""
    for found in _nodes():
        if found["name"] == name:
            return {
                "node": found,
                "told": _told(found),
                "held": _held(found),
                "drifts": _drifts(name),
            }
    raise Http404(f"There is no node «{name}».")


def _nodes() -> list[dict[str, Any]]:
    """Every node with the verdict on it: whether one agrees is seen beside the others."""
    epoch, _ = head()
    rows = queries.nodes()
    judged = verdicts(rows, str(epoch))
    return [_shown(row) | _judged(judged[row.name]) for row in rows]


def _shown(row: queries.NodeView) -> dict[str, Any]:
    fields = {name: getattr(row, name) for name in row.__slots__}
    conditions = [{**one, "harmless": one.get("type") in HARMLESS} for one in row.conditions]
    return fields | {"conditions": conditions, "check_pending": row.check_requested > row.checked_id}


def _judged(verdict: Any) -> dict[str, Any]:
    return {"agrees": verdict.agrees, "problems": verdict.problems, "notes": verdict.notes}


def _told(found: dict[str, Any]) -> dict[str, list[str]]:
    """What stands above all else on a node's page: its conditions have a list of their own there."""
    conditions = [f"reports {one.get('type')}:" for one in found["conditions"]]
    problems = [text for text in found["problems"] if not text.startswith(tuple(conditions))]
    return {"problems": problems, "notes": list(found["notes"])}


def _drifts(name: str) -> list[queries.DriftView]:
    """What is open, then what was repaired lately: an open one may be older than all of these."""
    repaired = [one for one in queries.drift_of(name, DRIFTS_SHOWN) if one.repaired_at is not None]
    return [*queries.drift_of(name, DRIFTS_SHOWN, open_only=True), *repaired][:DRIFTS_SHOWN]


def _held(found: dict[str, Any]) -> Held | None:
    for condition in found["conditions"]:
        message = str(condition.get("message", ""))
        token = _TOKEN_AT_END.search(message)
        if condition.get("type") in HELD and token:
            return Held(message, token[1])
    return None


def _node_page(request: HttpRequest, name: str, told: dict[str, str] | None = None, status: int = 200) -> HttpResponse:
    _, revision = head()
    context = {
        "section": "nodes",
        **node_context(name),
        "live": live_query(revision, page="node", node=name),
        "notice": NOTICES.get(request.GET.get("done", "")) if request.method == "GET" else None,
        **(told or {}),
    }
    return render(request, "dashboard/node.html", context, status=status)


def _done(request: HttpRequest, name: str, act: Callable[[Actor], object], done: str) -> HttpResponseBase:
    """Run a service, then show the node's page again: with what was done, or why it was refused."""
    refused = _refusal(act, actor_of(request.user))
    if refused:
        return _node_page(request, name, {"failure": refused}, 409)
    return redirect(f"{reverse('dashboard:node', args=[name])}?{urlencode({'done': done})}")


def _refusal(act: Callable[[Actor], object], actor: Actor) -> str:
    """Run a service; return what it refused, nothing when it did not. NotFound is a 404."""
    try:
        act(actor)
    except NotFound as error:
        raise Http404(error.message) from error
    except ControlError as error:
        return error.message
    return ""
