"""The jobs of releases: build one, publish those without an artifact, remove a project's."""

import contextlib
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from tenantry.control.errors import NotFound
from tenantry.control.jobs.platform import Platform
from tenantry.control.jobs.retries import Interrupted
from tenantry.control.releases import queries, services
from tenantry.control.releases.artifacts import PackingCancelled, StoreError, publish
from tenantry.control.releases.building import (
    BuildContext,
    BuildError,
    BuildRequest,
    BuildResult,
    StepUpdate,
    build,
    clean_leftovers,
)
from tenantry.control.releases.building import remove_release as remove_files
from tenantry.control.releases.building.freeze import MARKER, digest_of
from tenantry.control.releases.models import Release, ReleaseStatus
from tenantry.control.sealing import environment_of
from tenantry.removal import remove_tree
from tenantry.spec.sites import Engine

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Either:
    """Set when the worker ends or the release is not wanted any more."""

    stopping: threading.Event
    unwanted: threading.Event

    def is_set(self) -> bool:
        return self.stopping.is_set() or self.unwanted.is_set()


def build_release(platform: Platform, name: str) -> None:
    """Build a queued release and record how it went. A release that is finished is left alone.

    When the worker ends meanwhile, the build is undone and `Interrupted` raised: it starts anew later.
    """
    release = Release.objects.select_related("project").filter(name=name).first()
    if release is None or release.status in (ReleaseStatus.READY, ReleaseStatus.FAILED):
        return
    unwanted = threading.Event()

    def note(update: StepUpdate) -> None:
        services.start_release_step(name, update.step)
        if not Release.objects.filter(name=name).exists():
            unwanted.set()

    context = build_context(platform, unwanted, note)
    request = _request(release)
    try:
        result = build(request, context)
    except BuildError as error:
        if platform.stopping.is_set():
            raise Interrupted("the worker ends during a build") from error
        _record_failure(name, error)
        return
    try:
        services.finish_release(name, _facts(result))
    except NotFound:
        remove_files(context, request.project, request.number)
        _remove_artifacts(platform, [result.artifact] if result.artifact else [])


def publish_missing(platform: Platform) -> None:
    """Publish the ready releases of this home that have no artifact: those built before there was a store.

    One that cannot be published does not keep the others from it: what is wrong is logged, and the next start of the
    worker tries again. A damaged directory is not published: nodes would fetch the damage.
    """
    for release in Release.objects.filter(status=ReleaseStatus.READY, artifact=None).order_by("pk"):
        directory = platform.home / "releases" / release.name
        if not (directory / MARKER).is_file():
            logger.warning("%s is not published: its directory %s is not here", release.name, directory)
            continue
        if digest_of(directory) != release.digest:
            logger.warning("%s is not published: its directory was changed since it was built", release.name)
            continue
        try:
            packed = publish(directory, platform.store, platform.stopping.is_set)
            services.publish_release(release.name, f"sha256:{packed.digest}", packed.size)
        except PackingCancelled as error:
            raise Interrupted("the worker ends while a release is published") from error
        except NotFound:
            _remove_artifacts(platform, [f"sha256:{packed.digest}"])  # its project was removed meanwhile
        except (OSError, StoreError) as error:
            logger.warning("%s is not published: %s", release.name, error)


def _remove_artifacts(platform: Platform, artifacts: list[str]) -> None:
    """Remove what no release has any more from the store."""
    for artifact in artifacts:
        if not queries.is_artifact(artifact):
            platform.store.remove(artifact.removeprefix("sha256:"))


def _record_failure(name: str, error: BuildError) -> None:
    try:
        services.fail_release(name, error.step, error.message, error.log_tail)
    except NotFound:
        pass  # the project was removed during the build


def build_context(
    platform: Platform, unwanted: threading.Event | None = None, note: Callable[[StepUpdate], None] | None = None
) -> BuildContext:
    """Return what builds may use of the platform."""
    return BuildContext(
        home=platform.home,
        uid_base=platform.uid_base,
        server=platform.server,
        cache=platform.cache,
        library_wheel=platform.library_wheel,
        uv=platform.uv,
        on_step=note or (lambda update: None),
        cancelled=_Either(platform.stopping, unwanted or threading.Event()),
        store=platform.store,
    )


def _request(release: Release) -> BuildRequest:
    project = release.project
    url, _, ref = project.source.removeprefix("git+").partition("#")
    is_path = project.source.startswith("/")
    return BuildRequest(
        project=project.name,
        project_number=project.number,
        number=release.number,
        source=project.source if is_path else url,
        ref="" if is_path else ref,
        settings=project.settings,
        wsgi=project.wsgi,
        engine=Engine(release.engine),
        asgi=project.asgi,
        python=project.python,
        environment=environment_of(project.sealed_environment),
    )


def _facts(result: BuildResult) -> services.ReleaseFacts:
    return services.ReleaseFacts(
        digest=result.digest,
        commit=result.commit,
        python=result.python,
        django=result.django,
        wsgi=result.wsgi,
        engine=result.engine,
        asgi=result.asgi,
        settings=result.settings,
        manage=result.manage,
        static=result.static,
        artifact=result.artifact,
        artifact_size=result.artifact_size,
    )


def remove_project(platform: Platform, name: str, releases: list[str], artifacts: list[str]) -> None:
    """Remove directories, artifacts, template databases, logs and package cache of a project whose rows are gone."""
    context = build_context(platform)
    for release in releases:
        project, _, number = release.rpartition("-")
        remove_files(context, project, int(number))
        (platform.home / "logs" / "builds" / f"{release}.log").unlink(missing_ok=True)
    _remove_artifacts(platform, artifacts)
    if not Release.objects.filter(project__name=name).exists():
        with contextlib.suppress(OSError):
            remove_tree(platform.home / "cache" / "uv" / name)


def remove_leftovers(platform: Platform) -> list[str]:
    """Remove what killed builds left. Only while no build runs."""
    return clean_leftovers(build_context(platform))
