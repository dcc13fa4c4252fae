"""Nodes."""

from django.http import HttpRequest
from ninja import Router

from tenantry.control.api import schemas
from tenantry.control.api.authentication import Bearer
from tenantry.control.api.parameters import PROBLEMS, Name
from tenantry.control.api.serializing import page
from tenantry.control.fleet import queries

router = Router(auth=Bearer(), tags=["nodes"])


@router.get("/nodes", response={200: schemas.Page[schemas.Node], **PROBLEMS})
def list_nodes(request: HttpRequest) -> schemas.Page[schemas.Node]:
    """List the nodes by name, with how far each has come."""
    rows = queries.nodes()
    return page(rows, len(rows), schemas.Node.from_orm, lambda row: row.name)


@router.get("/nodes/{name}", response={200: schemas.Node, **PROBLEMS})
def get_node(request: HttpRequest, name: Name) -> queries.NodeView:
    """Show a node."""
    return queries.node(name)
