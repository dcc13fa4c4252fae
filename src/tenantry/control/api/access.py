"""whoami, status, tokens."""

from importlib.metadata import version
from typing import Annotated

from django.http import HttpRequest, HttpResponse
from ninja import Path, Router, Status

from tenantry.control import queries
from tenantry.control.access import queries as access_queries
from tenantry.control.access import services
from tenantry.control.api import schemas
from tenantry.control.api.authentication import Bearer, actor
from tenantry.control.api.parameters import BIGINT_MAX, PROBLEMS
from tenantry.control.api.serializing import page, token_fields

router = Router(auth=Bearer())


@router.get("/whoami", response={200: schemas.WhoAmI, **PROBLEMS}, tags=["access"], summary="Who am I")
def whoami(request: HttpRequest) -> schemas.WhoAmI:
    """Say whom the token belongs to."""
    found = actor(request)
    return schemas.WhoAmI(
        user=found.username, is_admin=found.is_admin, token=found.token_name or None, version=version("tenantry")
    )


@router.get("/status", response={200: schemas.Status, **PROBLEMS}, tags=["platform"], summary="The platform's status")
def status(request: HttpRequest) -> queries.PlatformStatus:
    """Count projects, sites and nodes, and say which revision is the latest."""
    return queries.platform_status()


@router.get("/tokens", response={200: schemas.Page[schemas.Token], **PROBLEMS}, tags=["access"], summary="List tokens")
def list_tokens(request: HttpRequest) -> schemas.Page[schemas.Token]:
    """List every token, without its text, which is not stored."""
    rows = access_queries.tokens(actor(request))
    return page(rows, len(rows), lambda row: schemas.Token(**token_fields(row)), lambda row: str(row.pk))


@router.post("/tokens", response={201: schemas.NewToken, **PROBLEMS}, tags=["access"], summary="Create a token")
def create_token(request: HttpRequest, body: schemas.TokenInput) -> Status[schemas.NewToken]:
    """Make a token. Its text is in this answer and nowhere else, so Idempotency-Key is not taken here."""
    row, text = services.create_token(actor(request), body.name, username=body.user, expires_at=body.expires_at)
    return Status(201, schemas.NewToken(token=text, **token_fields(row)))


@router.delete("/tokens/{id}", response={204: None, **PROBLEMS}, tags=["access"], summary="Revoke a token")
def revoke_token(request: HttpRequest, id: Annotated[int, Path(ge=1, le=BIGINT_MAX)]) -> HttpResponse:
    """Make a token worthless at once."""
    services.revoke_token(actor(request), id)
    return HttpResponse(status=204)
