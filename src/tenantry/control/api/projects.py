"""Projects and releases."""

from typing import Annotated, Any

from django.http import HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from ninja import Query, Router

from tenantry.control import logs
from tenantry.control.api import schemas
from tenantry.control.api.authentication import AsyncBearer, Bearer, actor, may_go_on
from tenantry.control.api.creating import created
from tenantry.control.api.parameters import BIGINT_MAX, PROBLEMS, Cursor, IdempotencyKey, Limit, Name
from tenantry.control.api.serializing import page
from tenantry.control.database import in_database
from tenantry.control.errors import InvalidInput
from tenantry.control.releases import queries, services

router = Router(auth=Bearer())
NOTHING = schemas.Nothing()
RELEASE_DEFAULTS = schemas.ReleaseInput(activate=False, engine=None, asgi=None)
FINISHED = ("ready", "failed")


@router.get("/projects", response={200: schemas.Page[schemas.Project], **PROBLEMS}, tags=["projects"])
def list_projects(request: HttpRequest, limit: Limit = 100, cursor: Cursor = "") -> schemas.Page[schemas.Project]:
    """List the projects by name."""
    rows = queries.projects(after=cursor, limit=limit + 1)
    return page(rows, limit, schemas.Project.from_orm, lambda row: row.name)


@router.post("/projects", response={201: schemas.Project, **PROBLEMS}, tags=["projects"])
def add_project(request: HttpRequest, body: schemas.ProjectInput, key: IdempotencyKey = None) -> HttpResponse:
    """Add a project and queue its first release, which becomes current when it is built."""

    def produce() -> schemas.Project:
        fields = body.model_dump(exclude_none=True)
        project = services.add_project(actor(request), services.ProjectRequest(**fields))
        return schemas.Project.from_orm(queries.project(project.name))

    return created(request, key, lambda project: f"/api/v1/projects/{_name(project)}", produce)


@router.get("/projects/{name}", response={200: schemas.Project, **PROBLEMS}, tags=["projects"])
def get_project(request: HttpRequest, name: Name) -> queries.ProjectView:
    """Show a project."""
    return queries.project(name)


@router.patch("/projects/{name}", response={200: schemas.Project, **PROBLEMS}, tags=["projects"])
def update_project(request: HttpRequest, name: Name, body: schemas.ProjectChange) -> queries.ProjectView:
    """Change what new processes of its sites must answer. Only what is given changes."""
    return queries.project(
        services.update_project(actor(request), name, services.ProjectChange(**body.model_dump())).name
    )


@router.delete("/projects/{name}", response={204: None, **PROBLEMS}, tags=["projects"])
def remove_project(request: HttpRequest, name: Name) -> HttpResponse:
    """Remove a project and its releases. 409 while it has sites."""
    services.remove_project(actor(request), name)
    return HttpResponse(status=204)


@router.get("/projects/{name}/releases", response={200: schemas.Page[schemas.Release], **PROBLEMS}, tags=["releases"])
def list_releases(
    request: HttpRequest, name: Name, limit: Limit = 100, cursor: Cursor = ""
) -> schemas.Page[schemas.Release]:
    """List a project's releases, the newest first."""
    rows = queries.releases(name, before=_number(cursor), limit=limit + 1)
    return page(rows, limit, schemas.Release.from_orm, lambda row: str(row.number))


@router.post("/projects/{name}/releases", response={201: schemas.Release, **PROBLEMS}, tags=["releases"])
def request_release(
    request: HttpRequest, name: Name, body: schemas.ReleaseInput = RELEASE_DEFAULTS, key: IdempotencyKey = None
) -> HttpResponse:
    """Queue a build of the project's source as it is now."""

    def produce() -> schemas.Release:
        release = services.request_release(actor(request), name, services.ReleaseRequest(**body.model_dump()))
        return schemas.Release.from_orm(queries.release_view(release))

    return created(request, key, lambda release: f"/api/v1/releases/{_name(release)}", produce)


@router.get("/releases/{name}", response={200: schemas.Release, **PROBLEMS}, tags=["releases"])
def get_release(request: HttpRequest, name: Name) -> queries.ReleaseView:
    """Show a release, with the step at which its build is."""
    return queries.release(name)


@router.post("/releases/{name}/activate", response={200: schemas.Project, **PROBLEMS}, tags=["releases"])
def activate_release(request: HttpRequest, name: Name, body: schemas.Nothing = NOTHING) -> queries.ProjectView:
    """Make a ready release its project's current one: new sites get it. Sites that exist keep theirs."""
    return queries.project(services.activate(actor(request), name).name)


@router.get(
    "/releases/{name}/log",
    response={200: str, **PROBLEMS},
    tags=["releases"],
    auth=AsyncBearer(),
    openapi_extra={"responses": {200: {"description": "The log", "content": {"text/plain": {}}}}},
)
async def get_release_log(
    request: HttpRequest,
    name: Name,
    lines: Annotated[int, Query(ge=0, le=logs.LINES_MAX, description="How many from the end.")] = logs.LINES_MAX,
    follow: Annotated[bool, Query(description="Go on until the build is over.")] = False,
) -> HttpResponseBase:
    """The log of a build as plain text."""
    release = await in_database(queries.release, name)
    path = logs.build_log(release.name)
    if not follow:
        return text_response((await in_database(logs.tail, path, lines))[0])

    async def finished() -> bool:
        return (await in_database(queries.release, name)).status in FINISHED or not await may_go_on(request)

    return text_response(logs.follow(path, lines, finished))


def text_response(content: Any) -> HttpResponseBase:
    """Plain text, whole or as it comes. No proxy may hold it back."""
    kind = "text/plain; charset=utf-8"
    if isinstance(content, bytes):
        return HttpResponse(content, content_type=kind)
    response = StreamingHttpResponse(content, content_type=kind)
    response.headers["X-Accel-Buffering"] = "no"
    return response


def _name(document: Any) -> str:
    return str(document.name)


def _number(cursor: str) -> int | None:
    if not cursor:
        return None
    if not cursor.isascii() or not cursor.isdigit() or int(cursor) > BIGINT_MAX:
        raise InvalidInput.of("cursor", "Send the `next_cursor` of the page before.")
    return int(cursor)
