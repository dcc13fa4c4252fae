"""Reading projects and releases."""

from dataclasses import dataclass
from datetime import datetime

from django.db.models import Count, QuerySet

from tenantry.control.errors import NotFound
from tenantry.control.releases.models import Project, Release


@dataclass(frozen=True, slots=True)
class ProjectView:
    """A project as people see it. Empty texts mean: left to the build to find."""

    name: str
    number: int
    source: str
    settings: str
    wsgi: str
    engine: str
    asgi: str
    python: str
    health_path: str
    warm_paths: list[str]
    serve_media: bool
    environment_names: list[str]
    current_release: str | None
    sites: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class ReleaseView:
    """A release as people see it, with the step at which its build stands."""

    name: str
    project: str
    number: int
    status: str
    step: str
    error: str
    log_tail: str
    digest: str
    commit: str
    python: str
    django: str
    wsgi: str
    engine: str
    asgi: str
    settings: str
    static: str | None
    created_at: datetime
    finished_at: datetime | None


def projects(after: str = "", limit: int = 200) -> list[ProjectView]:
    """Return projects by name, later than `after`."""
    return _project_views(Project.objects.filter(name__gt=after).order_by("name"), limit)


def project(name: str) -> ProjectView:
    """Return one project; raises `NotFound`."""
    found = _project_views(Project.objects.filter(name=name), 1)
    if not found:
        raise NotFound(f"There is no project «{name}».")
    return found[0]


def releases(project_name: str, before: int | None = None, limit: int = 200) -> list[ReleaseView]:
    """Return a project's releases, the newest first, with numbers below `before`; raises `NotFound`."""
    if not Project.objects.filter(name=project_name).exists():
        raise NotFound(f"There is no project «{project_name}».")
    found = Release.objects.filter(project__name=project_name).select_related("project").order_by("-number")
    if before is not None:
        found = found.filter(number__lt=before)
    return [release_view(release) for release in found[:limit]]


def release(name: str) -> ReleaseView:
    """Return one release; raises `NotFound`."""
    found = Release.objects.filter(name=name).select_related("project").first()
    if found is None:
        raise NotFound(f"There is no release «{name}».")
    return release_view(found)


def is_artifact(artifact: str) -> bool:
    """Return whether a release has the artifact «sha256:…»."""
    return Release.objects.filter(artifact=artifact).exists()


def release_view(release: Release) -> ReleaseView:
    """Return the row as people see it."""
    return ReleaseView(
        name=release.name,
        project=release.project.name,
        number=release.number,
        status=release.status,
        step=release.step,
        error=release.error,
        log_tail=release.log_tail,
        digest=release.digest,
        commit=release.commit,
        python=release.python,
        django=release.django,
        wsgi=release.wsgi,
        engine=release.engine,
        asgi=release.asgi,
        settings=release.settings,
        static=release.static,
        created_at=release.created_at,
        finished_at=release.finished_at,
    )


def _project_views(rows: QuerySet[Project], limit: int) -> list[ProjectView]:
    counted = rows.select_related("current_release").annotate(site_count=Count("sites"))
    return [
        ProjectView(
            name=row.name,
            number=row.number,
            source=row.source,
            settings=row.settings,
            wsgi=row.wsgi,
            engine=row.engine,
            asgi=row.asgi,
            python=row.python,
            health_path=row.health_path,
            warm_paths=row.warm_paths,
            serve_media=row.serve_media,
            environment_names=row.environment_names,
            current_release=row.current_release.name if row.current_release else None,
            sites=row.site_count,
            created_at=row.created_at,
        )
        for row in counted[:limit]
    ]
