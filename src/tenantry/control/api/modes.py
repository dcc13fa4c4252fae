"""Modes of sites: one's, many at once, links for those who are let in."""

from django.http import HttpRequest, HttpResponse
from ninja import Router, Status

from tenantry.control.api import mode_schemas, schemas
from tenantry.control.api.authentication import Bearer, actor
from tenantry.control.api.parameters import PROBLEMS, IfMatch, Name
from tenantry.control.api.parsing import parse_if_match
from tenantry.control.sites import queries, services

router = Router(auth=Bearer())
NO_HOURS = mode_schemas.BypassInput(hours=8)


@router.put("/sites/{slug}/mode", response={200: schemas.Site, **PROBLEMS}, tags=["modes"])
def set_mode(
    request: HttpRequest, slug: Name, body: mode_schemas.ModeInput, response: HttpResponse, if_match: IfMatch = None
) -> schemas.Site:
    """Choose what visitors of a site get. No process is restarted."""
    services.set_mode(actor(request), slug, body.mode, _details(body), expected_revision=parse_if_match(if_match))
    site = schemas.Site.from_orm(queries.site(slug))
    response.headers["ETag"] = f'"{site.revision}"'
    return site


@router.post("/modes", response={200: mode_schemas.Modes, **PROBLEMS}, tags=["modes"])
def set_modes(request: HttpRequest, body: mode_schemas.ModesInput) -> mode_schemas.Modes:
    """Choose what visitors of many sites get. Each site is a change of its own; the answer tells which were made."""
    outcome = services.set_modes(actor(request), body.sites, body.mode, _details(body))
    return mode_schemas.Modes(
        changed=outcome.changed,
        unchanged=outcome.unchanged,
        failed=[
            mode_schemas.ModeFailure(site=slug, status=error.status, detail=error.message)
            for slug, error in outcome.failed.items()
        ],
        revision=outcome.revision,
    )


@router.post("/sites/{slug}/bypass", response={201: mode_schemas.Bypass, **PROBLEMS}, tags=["modes"])
def make_bypass(
    request: HttpRequest, slug: Name, body: mode_schemas.BypassInput = NO_HOURS
) -> Status[mode_schemas.Bypass]:
    """Make a link that lets a person into the site while it is closed to others."""
    made = services.make_bypass(actor(request), slug, hours=body.hours)
    origin = (queries.site(slug).url or "").rstrip("/")
    return Status(
        201, mode_schemas.Bypass(url=f"{origin}{made.url_path}", cookie=made.cookie, expires_at=made.expires_at)
    )


@router.delete("/sites/{slug}/bypass", response={202: schemas.Site, **PROBLEMS}, tags=["modes"])
def revoke_bypass(request: HttpRequest, slug: Name) -> Status[schemas.Site]:
    """Make every link and cookie of before worthless. It holds once the nodes have applied the site's revision."""
    services.revoke_bypass(actor(request), slug)
    return Status(202, schemas.Site.from_orm(queries.site(slug)))


def _details(body: mode_schemas.ModeInput) -> services.ModeDetails:
    return services.ModeDetails(**body.model_dump(exclude={"mode", "sites"}))
