"""Sites and hostnames."""

from typing import Annotated, Any

from django.http import HttpRequest, HttpResponse, HttpResponseBase
from ninja import Query, Router, Status

from tenantry.control import logs
from tenantry.control.api import schemas
from tenantry.control.api.authentication import AsyncBearer, Bearer, actor, may_go_on
from tenantry.control.api.creating import created
from tenantry.control.api.parameters import PROBLEMS, Cursor, IdempotencyKey, IfMatch, Limit, Name
from tenantry.control.api.parsing import parse_if_match
from tenantry.control.api.projects import text_response
from tenantry.control.api.serializing import page
from tenantry.control.database import in_database
from tenantry.control.sites import queries, services, waiting
from tenantry.control.sites.models import SiteStatus

router = Router(auth=Bearer())
NOTHING = schemas.Nothing()
DEFAULT_LINES = 100


@router.get("/sites", response={200: schemas.Page[schemas.Site], **PROBLEMS}, tags=["sites"])
def list_sites(
    request: HttpRequest,
    project: Annotated[str, Query(max_length=100, description="Only sites of this project.")] = "",
    q: Annotated[str, Query(max_length=253, description="Only with this text in the slug or a hostname.")] = "",
    status: Annotated[SiteStatus | None, Query(description="Only of this status.")] = None,
    limit: Limit = 100,
    cursor: Cursor = "",
) -> schemas.Page[schemas.Site]:
    """List the sites by slug."""
    rows = queries.sites(project=project, text=q, status=status or "", after=cursor, limit=limit + 1)
    return page(rows, limit, schemas.Site.from_orm, lambda row: row.slug)


@router.post("/sites", response={201: schemas.Site, **PROBLEMS}, tags=["sites"])
def create_site(request: HttpRequest, body: schemas.SiteInput, key: IdempotencyKey = None) -> HttpResponse:
    """Create a site. It answers at once with status `provisioning`; see convergence for when it serves."""

    def produce() -> schemas.Site:
        site = services.create_site(actor(request), services.SiteRequest(**body.model_dump()))
        return _site(site.slug)

    return created(request, key, _location, produce)


@router.get("/sites/{slug}", response={200: schemas.Site, **PROBLEMS}, tags=["sites"])
def get_site(request: HttpRequest, slug: Name, response: HttpResponse) -> schemas.Site:
    """Show a site, with what each node says of it. The ETag is its revision."""
    return _tagged(_site(slug), response)


@router.patch("/sites/{slug}", response={200: schemas.Site, **PROBLEMS}, tags=["sites"])
def update_site(
    request: HttpRequest, slug: Name, body: schemas.SitePatch, response: HttpResponse, if_match: IfMatch = None
) -> schemas.Site:
    """Change a site. Only what is given changes; the old processes serve until the new ones answer."""
    change = services.SiteChange(**body.model_dump())
    services.update_site(actor(request), slug, change, expected_revision=parse_if_match(if_match))
    return _tagged(_site(slug), response)


@router.delete("/sites/{slug}", response={202: schemas.Site, **PROBLEMS}, tags=["sites"])
def delete_site(
    request: HttpRequest,
    slug: Name,
    confirm: Annotated[str, Query(max_length=100, description="The slug again.")] = "",
    dump: Annotated[bool, Query(description="Keep a last dump of its database.")] = True,
) -> Status[schemas.Site]:
    """Delete a site, its database, its cache entries and its files."""
    services.delete_site(actor(request), slug, confirm=confirm, dump=dump)
    return Status(202, _site(slug))


@router.post("/sites/{slug}/restart", response={200: schemas.Site, **PROBLEMS}, tags=["sites"])
def restart_site(request: HttpRequest, slug: Name, body: schemas.Nothing = NOTHING) -> schemas.Site:
    """Start new processes; the old ones serve until the new ones answer."""
    services.restart_site(actor(request), slug)
    return _site(slug)


@router.put("/sites/{slug}/runtime", response={200: schemas.Site, **PROBLEMS}, tags=["sites"])
def set_runtime(request: HttpRequest, slug: Name, body: schemas.RuntimeInput) -> schemas.Site:
    """Choose whether a site keeps its processes, or sleeps while nobody asks for it."""
    services.set_runtime(actor(request), slug, body.runtime)
    return _site(slug)


@router.get(
    "/sites/{slug}/convergence",
    response={200: schemas.Convergence, **PROBLEMS},
    tags=["sites"],
    auth=AsyncBearer(),
)
async def get_convergence(
    request: HttpRequest,
    slug: Name,
    wait: Annotated[float, Query(ge=0, le=60, description="Seconds to wait for it to converge or to fail.")] = 0,
) -> queries.Convergence:
    """How far the nodes have come with the site's latest change. For a deleted site: 404 once nothing is left of it."""
    return await waiting.wait_for_convergence(slug, wait)


@router.get(
    "/sites/{slug}/logs",
    response={200: str, **PROBLEMS},
    tags=["sites"],
    auth=AsyncBearer(),
    openapi_extra={"responses": {200: {"description": "The log", "content": {"text/plain": {}}}}},
)
async def get_site_logs(
    request: HttpRequest,
    slug: Name,
    lines: Annotated[int, Query(ge=0, le=logs.LINES_MAX, description="How many from the end.")] = DEFAULT_LINES,
    follow: Annotated[bool, Query(description="Go on with what is written from now on.")] = False,
) -> HttpResponseBase:
    """What the site's processes on this node wrote, as plain text."""
    site = await in_database(queries.site, slug)
    path = logs.site_log(site.slug)
    if not follow:
        return text_response((await in_database(logs.tail, path, lines))[0])

    async def finished() -> bool:
        return not await in_database(queries.exists, slug) or not await may_go_on(request)

    return text_response(logs.follow(path, lines, finished))


@router.post("/sites/{slug}/commands", response={201: schemas.Command, **PROBLEMS}, tags=["sites"])
def record_command(request: HttpRequest, slug: Name, body: schemas.CommandInput) -> Status[schemas.Command]:
    """Note in the change log that a command is about to be run in the site's environment."""
    revision = services.record_command(actor(request), slug, body.argv)
    return Status(201, schemas.Command(site=slug, revision=revision))


@router.post("/sites/{slug}/hostnames", response={201: schemas.Hostname, **PROBLEMS}, tags=["hostnames"])
def add_hostname(
    request: HttpRequest, slug: Name, body: schemas.HostnameInput, key: IdempotencyKey = None
) -> HttpResponse:
    """Lead a hostname to a site. No process is restarted."""

    def produce() -> schemas.Hostname:
        name = services.add_hostname(actor(request), slug, body.name)
        return schemas.Hostname(name=name, site=slug)

    return created(request, key, lambda document: f"/api/v1/sites/{slug}/hostnames", produce)


@router.delete("/sites/{slug}/hostnames/{name}", response={204: None, **PROBLEMS}, tags=["hostnames"])
def remove_hostname(request: HttpRequest, slug: Name, name: Name) -> HttpResponse:
    """Lead a hostname to a site no more."""
    services.remove_hostname(actor(request), slug, name)
    return HttpResponse(status=204)


@router.get("/hostnames", response={200: schemas.Page[schemas.Hostname], **PROBLEMS}, tags=["hostnames"])
def list_hostnames(request: HttpRequest, limit: Limit = 100, cursor: Cursor = "") -> schemas.Page[schemas.Hostname]:
    """List every hostname and its site."""
    rows = queries.hostnames(after=cursor, limit=limit + 1)
    return page(rows, limit, lambda row: schemas.Hostname(name=row[0], site=row[1]), lambda row: row[0])


def _site(slug: str) -> schemas.Site:
    return schemas.Site.from_orm(queries.site(slug))


def _tagged(site: schemas.Site, response: HttpResponse) -> schemas.Site:
    response.headers["ETag"] = f'"{site.revision}"'
    return site


def _location(document: Any) -> str:
    return f"/api/v1/sites/{document.slug}"
