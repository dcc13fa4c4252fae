"""Nodes: how they are, and what people ask of them. How a machine becomes one is in `api.joining`."""

from typing import Annotated, Any

from django.http import HttpRequest, HttpResponse
from ninja import Query, Router, Status

from tenantry.control.api import schemas
from tenantry.control.api.authentication import Bearer, actor
from tenantry.control.api.parameters import PROBLEMS, Name
from tenantry.control.api.serializing import page
from tenantry.control.changelog import queries as changelog
from tenantry.control.database import database_now
from tenantry.control.errors import NotFound
from tenantry.control.fleet import queries, services
from tenantry.control.fleet.verdicts import Verdict, verdicts

router = Router(auth=Bearer(), tags=["nodes"])
DRAIN = schemas.DrainInput()
CHECK = schemas.CheckInput()
DRIFTS_MAX = 1000


@router.get("/nodes", response={200: schemas.Page[schemas.Node], **PROBLEMS})
def list_nodes(request: HttpRequest) -> schemas.Page[schemas.Node]:
    """List the nodes by name, with how far each has come and whether they agree."""
    rows = _nodes()
    return page(rows, len(rows), lambda row: row, lambda row: row.name)


@router.get("/nodes/{name}", response={200: schemas.Node, **PROBLEMS})
def get_node(request: HttpRequest, name: Name) -> schemas.Node:
    """Show a node."""
    return _node(name)


@router.delete("/nodes/{name}", response={204: None, **PROBLEMS})
def remove_node(
    request: HttpRequest,
    name: Name,
    force: Annotated[bool, Query(description="Also while it serves: a machine that is not trusted any more.")] = False,
    keep_passwords: Annotated[
        bool, Query(description="Leave the sites the database and cache passwords that the node knew.")
    ] = False,
) -> HttpResponse:
    """Take a node's rights and forget it. 409 unless it is drained or silent, or `force` is given.

    Jobs then renew the passwords of all sites, one site after another, without interrupting any: the changes
    `site.passwords` tell of each.
    """
    services.remove(actor(request), name, force=force, keep_passwords=keep_passwords)
    return HttpResponse(status=204)


@router.post("/nodes/{name}/drain", response={200: schemas.Node, **PROBLEMS})
def drain_node(request: HttpRequest, name: Name, body: schemas.DrainInput = DRAIN) -> schemas.Node:
    """Make a node say that it takes no more visitors, or undo that. Whoever still comes is served."""
    services.drain(actor(request), name, undo=body.undo)
    return _node(name)


@router.post("/nodes/{name}/confirm", response={200: schemas.Node, **PROBLEMS})
def confirm_removal(request: HttpRequest, name: Name, body: schemas.ConfirmInput) -> schemas.Node:
    """Let a node remove the sites whose removal it refused; the token in its condition stands for exactly these."""
    services.confirm_removal(actor(request), name, body.token)
    return _node(name)


@router.post("/nodes/{name}/check", response={202: schemas.CheckOrder, **PROBLEMS})
def check_node(request: HttpRequest, name: Name, body: schemas.CheckInput = CHECK) -> Status[schemas.CheckOrder]:
    """Ask a node to compare itself with the desired state now, and to repair what differs if that is wanted."""
    requested_at = database_now()
    number = services.request_check(actor(request), name, repair=body.repair)
    return Status(202, schemas.CheckOrder(check=number, requested_at=requested_at))


@router.get("/nodes/{name}/drift", response={200: schemas.Page[schemas.Drift], **PROBLEMS})
def list_drift(
    request: HttpRequest,
    name: Name,
    open: Annotated[bool, Query(description="Only what is not repaired.")] = False,
    limit: Annotated[int, Query(ge=1, le=DRIFTS_MAX, description="At most this many.")] = 100,
) -> schemas.Page[schemas.Drift]:
    """List what a node found that was not as it should be, the latest first. Kept for 30 days."""
    rows = queries.drift_of(name, limit, open_only=open)
    return page(rows, limit, schemas.Drift.from_orm, lambda row: "")


def _nodes() -> list[schemas.Node]:
    epoch, _ = changelog.head()
    rows = queries.nodes()
    found = verdicts(rows, str(epoch))
    return [_document(row, found[row.name]) for row in rows]


def _node(name: str) -> schemas.Node:
    """The whole fleet is read: whether a node agrees is seen beside the others."""
    for document in _nodes():
        if document.name == name:
            return document
    raise NotFound(f"There is no node «{name}».")


def _document(row: queries.NodeView, verdict: Verdict) -> schemas.Node:
    fields: dict[str, Any] = {
        name: getattr(row, name) for name in schemas.Node.model_fields if name not in ("agrees", "problems", "notes")
    }
    return schemas.Node(**fields, agrees=verdict.agrees, problems=list(verdict.problems), notes=list(verdict.notes))
