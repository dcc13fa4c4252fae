"""Projects, their releases, and what a build says while it runs."""

from typing import Any

from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from tenantry.control.changelog.queries import head
from tenantry.control.dashboard import queries
from tenantry.control.dashboard.access import signed_in
from tenantry.control.dashboard.logs import Tail, read_tail
from tenantry.control.dashboard.positions import live_query
from tenantry.control.errors import NotFound
from tenantry.control.logs import build_log as build_log_path
from tenantry.control.releases import queries as release_queries
from tenantry.spec.errors import InvalidName
from tenantry.spec.sites import ReleaseName

CHANGES_BESIDE = 12
RELEASES_SHOWN = 50
BUILD_LOG_LINES = 1_000


@signed_in
@require_safe
def projects(request: HttpRequest) -> HttpResponse:
    """All projects."""
    _, revision = head()
    live = live_query(revision, page="projects")
    context = {"section": "projects", **projects_context(), "live": live}
    return render(request, "dashboard/projects.html", context)


@signed_in
@require_safe
def project(request: HttpRequest, name: str) -> HttpResponse:
    """The page of a project."""
    _, revision = head()
    live = live_query(revision, page="project", project=name)
    return render(request, "dashboard/project.html", {"section": "projects", **project_context(name), "live": live})


@signed_in
@require_safe
def releases(request: HttpRequest, name: str) -> HttpResponse:
    """The list of a project's releases alone: asked for every second while one is being built."""
    return render(request, "dashboard/parts/releases.html", project_context(name))


@signed_in
@require_safe
def release(request: HttpRequest, name: str) -> HttpResponse:
    """The page of a release, with its build's log; the inner part alone while htmx follows a build."""
    try:
        found = release_queries.release(str(ReleaseName.parse(name)))
    except (NotFound, InvalidName) as error:
        raise Http404(str(error)) from error
    context = {
        "section": "projects",
        "release": found,
        "building": found.status in queries.UNFINISHED,
        "log": build_log(found),
    }
    part = "HX-Request" in request.headers and "HX-History-Restore-Request" not in request.headers
    return render(request, "dashboard/parts/release.html" if part else "dashboard/release.html", context)


def projects_context() -> dict[str, Any]:
    """Return what the list of projects shows."""
    return {"projects": release_queries.projects(), "building": queries.building_projects()}


def project_context(name: str) -> dict[str, Any]:
    """Return what the parts of a project's page show; raises Http404."""
    try:
        found = release_queries.project(name)
        listed = release_queries.releases(name, limit=RELEASES_SHOWN)
    except NotFound as error:
        raise Http404(error.message) from error
    sites = queries.release_counts(name)
    return {
        "project": found,
        "releases": [{"release": one, "sites": sites.get(one.name, 0)} for one in listed],
        "building": any(one.status in queries.UNFINISHED for one in listed),
        "changes": queries.last_changes(CHANGES_BESIDE, project=name),
    }


def build_log(found: release_queries.ReleaseView) -> Tail:
    """Return the end of a build's log; what the build kept of it in the database, when the file is gone."""
    log = read_tail(build_log_path(str(ReleaseName.parse(found.name))), BUILD_LOG_LINES)
    return log if log.text or not found.log_tail else Tail(found.log_tail)
