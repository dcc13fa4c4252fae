"""Acts on projects and releases, for people (with an actor) and for the build job (without)."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

from django.conf import settings
from django.db import IntegrityError, transaction
from django.utils import timezone

from tenantry.control.access.actors import JOBS, Actor, require_admin
from tenantry.control.changelog.models import Change
from tenantry.control.changelog.services import ChangeType, act, append
from tenantry.control.deferral import defer
from tenantry.control.errors import Conflict, InvalidInput, NotFound
from tenantry.control.releases.models import Project, Release, ReleaseStatus
from tenantry.control.sealing import sealer
from tenantry.control.users import check_user_id
from tenantry.control.validation import Parser, parse_environment
from tenantry.spec.names import Slug, parse_asgi, parse_module, parse_slug, parse_wsgi
from tenantry.spec.sites import Engine, is_url_path
from tenantry.spec.users import project_uid

WARM_PATHS_MAX = 20
PATH_SHOWN = 60  # characters of one that is refused
SOURCE_MAX = 2_000  # characters of a path or URL
_PYTHON = re.compile(r"3\.\d{1,2}(?:\.\d{1,3})?\Z")
_PASSWORD = re.compile(r"(?:git\+)?(?:https?://[^/\s]*@|[a-z]+://[^/\s]*:[^/\s]*@)")  # a token is often the user's name
_GIT = re.compile(r"(?:https?|ssh|git|file)://[^\s]+\Z|[\w.-]+@[\w.-]+:[^\s]+\Z|git\+[^\s]+\Z")
_SSH = re.compile(r"(?:git\+)?ssh://|[\w.-]+@[\w.-]+:")


@dataclass(frozen=True, slots=True)
class ProjectRequest:
    """What a person says of a new project. Empty texts are left to the build to find."""

    name: str
    source: str
    settings: str = ""
    wsgi: str = ""
    engine: str = Engine.UWSGI
    asgi: str = ""
    python: str = ""
    health_path: str = "/"
    serve_media: bool = True
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    warm_paths: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class ProjectChange:
    """What a person wants changed of a project; None leaves it."""

    health_path: str | None = None
    warm_paths: Sequence[str] | None = None


@dataclass(frozen=True, slots=True)
class ReleaseFacts:
    """What a finished build found and made. `static` is relative to the release's directory, or None.

    `artifact` («sha256:…») and `artifact_size` are None when the release was not published.
    """

    digest: str
    commit: str
    python: str
    django: str
    wsgi: str
    settings: str
    manage: str
    static: str | None
    artifact: str | None = None
    artifact_size: int | None = None
    engine: Engine = Engine.UWSGI
    asgi: str = ""


def add_project(actor: Actor, request: ProjectRequest) -> Project:
    """Add a project and queue its first release; returns the project.

    Raises `InvalidInput`, and `Conflict` when the home has no user id left for it.
    """
    require_admin(actor)
    name = _checked(request)
    with act():
        try:
            with transaction.atomic():
                project = Project.objects.create(
                    name=name,
                    source=request.source,
                    settings=request.settings,
                    wsgi=parse_wsgi(request.wsgi) if request.wsgi else "",
                    engine=request.engine,
                    asgi=parse_asgi(request.asgi) if request.asgi else "",
                    python=request.python,
                    health_path=request.health_path,
                    warm_paths=list(request.warm_paths),
                    serve_media=request.serve_media,
                    sealed_environment=sealer().seal({"environment": dict(request.environment)}),
                    environment_names=sorted(request.environment),
                    last_release=_last_release_of_namesake(name),
                )
        except IntegrityError as error:
            message = f"There is a project «{name}» already; choose another name, or remove it first."
            raise InvalidInput.of("name", message) from error
        check_user_id(project_uid, project.number)
        release = _queue_release(project)
        append(ChangeType.PROJECT_CREATED, actor=actor.name, project=name, metadata={"release": release.name})
    return project


def update_project(actor: Actor, name: str, change: ProjectChange) -> Project:
    """Change what new processes of the project's sites must answer. Those that serve are not asked again.

    Raises `NotFound`, `InvalidInput`. Nodes read it with each site's next change, and within a minute in any case.
    """
    require_admin(actor)
    parser = Parser()
    _check_paths(parser, change.health_path, change.warm_paths)
    parser.check()
    with act():
        project = _locked_project(name)
        wanted = {"health_path": change.health_path, "warm_paths": change.warm_paths}
        changed = {key: value for key, value in wanted.items() if value is not None and value != getattr(project, key)}
        for key, value in changed.items():
            setattr(project, key, value)
        if changed:
            project.save(update_fields=list(changed))
            append(ChangeType.PROJECT_UPDATED, actor=actor.name, project=name, metadata=changed)
    return project


@dataclass(frozen=True, slots=True)
class ReleaseRequest:
    """What a person says of a new release. It becomes current when built if `activate`, or if there is no current one.

    `engine` and `asgi` are the project's from then on; None: as they are.
    """

    activate: bool = False
    engine: str | None = None
    asgi: str | None = None


AS_BEFORE = ReleaseRequest()


def request_release(actor: Actor, project_name: str, request: ReleaseRequest = AS_BEFORE) -> Release:
    """Queue a build of the project's source as it is now. Raises `NotFound`, `InvalidInput`."""
    require_admin(actor)
    parser = Parser()
    _check_engine(parser, Engine.UWSGI if request.engine is None else request.engine, request.asgi or "")
    parser.check()
    with act():
        project = _locked_project(project_name)
        if request.engine is not None:
            project.engine = request.engine
        if request.asgi is not None:
            project.asgi = parse_asgi(request.asgi) if request.asgi else ""
        project.save(update_fields=["engine", "asgi"])
        release = _queue_release(project, activate=request.activate)
        metadata = {"release": release.name, "engine": release.engine}
        append(ChangeType.RELEASE_REQUESTED, actor=actor.name, project=project.name, metadata=metadata)
    return release


def activate(actor: Actor, release_name: str) -> Project:
    """Make a ready release its project's current one: new sites get it. Raises `NotFound`, `Conflict`."""
    require_admin(actor)
    with act():
        release = _locked_release(release_name)
        if release.status != ReleaseStatus.READY:
            raise Conflict(f"{release.name} is {release.status}: only a ready release can be activated.")
        project = release.project
        if project.current_release_id != release.pk:
            project.current_release = release
            project.save(update_fields=["current_release"])
            append(
                ChangeType.RELEASE_ACTIVATED, actor=actor.name, project=project.name, metadata={"release": release.name}
            )
    return project


def remove_project(actor: Actor, name: str) -> None:
    """Remove a project and its releases; refused (`Conflict`) while it has sites. Raises `NotFound`."""
    require_admin(actor)
    with act():
        project = _locked_project(name)
        sites = project.sites.count()
        if sites:
            raise Conflict(f"The project «{name}» still has {sites} site{'s' * (sites != 1)}: delete them first.")
        releases = list(project.releases.all())
        names = [release.name for release in releases]
        artifacts = [release.artifact for release in releases if release.artifact]
        number = project.number
        project.delete()
        defer(
            "remove_project",
            lock=f"project-{number}",
            project_number=number,
            project_name=name,
            releases=names,
            artifacts=artifacts,
        )
        metadata = {"releases": names, "last_release": project.last_release}
        append(ChangeType.PROJECT_REMOVED, actor=actor.name, project=name, metadata=metadata)


def start_release_step(release_name: str, step: str) -> None:
    """Note that the build has reached `step`. Progress, not a change: no revision. Nothing once it is finished."""
    Release.objects.filter(name=release_name, status__in=[ReleaseStatus.QUEUED, ReleaseStatus.BUILDING]).update(
        status=ReleaseStatus.BUILDING, step=step
    )


def finish_release(release_name: str, facts: ReleaseFacts) -> None:
    """Note that the build is done. Again is no error. Raises `NotFound` when the release was removed meanwhile."""
    with act():
        release = _locked_release(release_name)
        if release.status == ReleaseStatus.READY:
            return
        release.status = ReleaseStatus.READY
        release.finished_at = timezone.now()
        release.step = release.error = release.log_tail = ""
        for fact in fields(ReleaseFacts):
            setattr(release, fact.name, getattr(facts, fact.name))
        release.save()
        project = release.project
        becomes_current = release.activate_when_ready or project.current_release_id is None
        if becomes_current:
            project.current_release = release
            project.save(update_fields=["current_release"])
        metadata = {"release": release.name, "digest": release.digest, "current": becomes_current}
        append(ChangeType.RELEASE_BUILT, actor=JOBS.name, project=project.name, metadata=metadata)


def publish_release(release_name: str, artifact: str, size: int) -> None:
    """Note where a ready release that had no artifact can be fetched. Again is no error. Raises `NotFound`."""
    with act():
        release = _locked_release(release_name)
        if release.status != ReleaseStatus.READY or release.artifact == artifact:
            return
        release.artifact, release.artifact_size = artifact, size
        release.save(update_fields=["artifact", "artifact_size"])
        metadata = {"release": release.name, "artifact": artifact, "size": size}
        append(ChangeType.RELEASE_PUBLISHED, actor=JOBS.name, project=release.project.name, metadata=metadata)


def fail_release(release_name: str, step: str, message: str, log_tail: str = "") -> None:
    """Note that the build failed at `step`. A release that is ready stays so."""
    with act():
        release = _locked_release(release_name)
        if release.status in (ReleaseStatus.READY, ReleaseStatus.FAILED):
            return
        release.status = ReleaseStatus.FAILED
        release.finished_at = timezone.now()
        release.step, release.error, release.log_tail = step, _storable(message), _storable(log_tail)
        release.save()
        metadata = {"release": release.name, "step": step, "message": _storable(message)}
        append(ChangeType.RELEASE_FAILED, actor=JOBS.name, project=release.project.name, metadata=metadata)


def _storable(text: str) -> str:
    """PostgreSQL's text takes no NUL, which programs do print."""
    return text.replace("\0", "")


def _checked(request: ProjectRequest) -> Slug:
    parser = Parser()
    name = parser.take(parse_slug, request.name, field="name")
    source = request.source
    if not source or len(source) > SOURCE_MAX or not source.isprintable():
        parser.refuse("source", f"A path or a git URL of 1 to {SOURCE_MAX} printable characters is needed.")
    elif not source.startswith("/") and not _GIT.match(source):
        parser.refuse("source", "An absolute path or a git URL is needed, for example «/srv/shop».")
    elif _PASSWORD.match(source):
        parser.refuse(
            "source",
            "A password or token in the URL would be stored and shown to everybody. Clone the repository yourself and "
            "give the directory.",
        )
    elif settings.TENANTRY.uid_base is not None and _SSH.match(source):
        # ssh refuses a user without an entry in the machine's user database, and such a user has no keys.
        parser.refuse(
            "source",
            "Builds here run as users of their own, who cannot use ssh or anybody's keys. Clone the repository "
            "yourself and give the directory, or give an https URL that needs no login.",
        )
    if request.settings:
        parser.take(parse_module, request.settings, field="settings")
    if request.wsgi:
        parser.take(parse_wsgi, request.wsgi)
    _check_engine(parser, request.engine, request.asgi)
    if request.python and not _PYTHON.match(request.python):
        parser.refuse("python", "A Python version is written «3.13» or «3.13.2».")
    _check_paths(parser, request.health_path, request.warm_paths)
    parser.take(parse_environment, request.environment)
    parser.check()
    if name is None:
        raise AssertionError("an unparsed name passed the check")
    return name


def _check_engine(parser: Parser, engine: str, asgi: str) -> None:
    known = [one.value for one in Engine]
    if engine not in known:
        parser.refuse("engine", f"An engine is one of {', '.join(known)}.")
    if asgi:
        parser.take(parse_asgi, asgi)
        if engine == Engine.UWSGI:
            parser.refuse("asgi", f"uWSGI serves no ASGI application: give the engine «{Engine.GRANIAN}», too.")


def _check_paths(parser: Parser, health_path: str | None, warm_paths: Sequence[str] | None) -> None:
    if health_path is not None and not is_url_path(health_path):
        parser.refuse("health_path", "A path of printable ASCII that begins with «/», for example «/healthz».")
    if warm_paths is None:
        return
    if len(warm_paths) > WARM_PATHS_MAX:
        parser.refuse("warm_paths", f"At most {WARM_PATHS_MAX} paths: each thread of a new process is asked each.")
    for path in warm_paths:
        if not is_url_path(path):
            parser.refuse("warm_paths", f"Paths of printable ASCII that begin with «/», not «{path[:PATH_SHOWN]}».")


def _queue_release(project: Project, *, activate: bool = False) -> Release:
    project.last_release += 1
    project.save(update_fields=["last_release"])
    release = Release.objects.create(
        project=project,
        number=project.last_release,
        name=f"{project.name}-{project.last_release}",
        activate_when_ready=activate,
        engine=project.engine,
    )
    defer("build_release", lock=f"project-{project.number}", release_name=release.name)
    release.refresh_from_db()
    return release


def _last_release_of_namesake(name: str) -> int:
    """Return the last release number of a removed project of this name: directories and databases are named by it."""
    removed = Change.objects.filter(project=name, type=ChangeType.PROJECT_REMOVED).order_by("-revision").first()
    return int(removed.metadata["last_release"]) if removed else 0


def _locked_project(name: str) -> Project:
    project = Project.objects.select_for_update().filter(name=name).first()
    if project is None:
        raise NotFound(f"There is no project «{name}».")
    return project


def _locked_release(name: str) -> Release:
    """Lock the project, then the release: the order in which every act here takes them."""
    found = Release.objects.filter(name=name).values_list("project__name", flat=True).first()
    if found is None:
        raise NotFound(f"There is no release «{name}».")
    project = _locked_project(found)
    release = Release.objects.select_for_update().filter(name=name).first()
    if release is None:
        raise NotFound(f"There is no release «{name}».")
    release.project = project
    return release
