"""The steps of a build in their order, and what is left when one fails: nothing.

1 fetch · 2 inspect · 3 interpreter · 4 venv · 5 install · 6 check (with the template database made, still empty) ·
7 static · 8 bytecode · 9 template · 10 freeze · 11 publish. Invariant: `releases/<name>/release.json` exists exactly
when everything else of the release does in this home. An interruption leaves a directory without it, a database
`tpl_…`, a Redis user `tpl_…` or an unfinished file in the artifact store; `clean_leftovers` removes the four. After one
during step 11 there may be a whole release that the database does not know: the next build begins by removing it.
"""

import errno
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import psycopg
import redis

from tenantry.control.data.databases import create_template, drop_template, seal_template, template_name
from tenantry.control.data.server import random_password
from tenantry.control.releases.artifacts import PackingCancelled, StoreError, publish
from tenantry.control.releases.building import execution, fetch, freeze, inspection, interpreters
from tenantry.control.releases.building.commands import (
    DISK_FULL,
    BuildLog,
    Owner,
    Runner,
    control_group,
    end_processes_of,
)
from tenantry.control.releases.building.context import (
    BuildContext,
    BuildError,
    BuildRequest,
    BuildResult,
    StepFailed,
    StepUpdate,
)
from tenantry.control.releases.building.install import Installation, copy_wheel, install, make_venv
from tenantry.interpreters import Interpreter
from tenantry.removal import remove_tree
from tenantry.spec.environment import CacheAccess, SiteIdentity, SitePlaces, site_environment
from tenantry.spec.users import project_uid

CANCELLED = "The build was cancelled."
BUILT_HERE = ".built-here"  # in releases/: this home has the originals, its node must not remove them
NEUTRAL_SLUG = "none"  # reserved: no site can have it


@dataclass(slots=True)
class _Build:
    """One build under way."""

    request: BuildRequest
    context: BuildContext
    log: BuildLog
    step: str = ""
    warnings: list[str] = field(default_factory=list)

    @property
    def directory(self) -> Path:
        return self.context.home / "releases" / self.request.name

    @property
    def source(self) -> Path:
        return self.directory / "src"

    @property
    def venv(self) -> Path:
        return self.directory / "venv"

    @property
    def scratch(self) -> Path:
        return self.directory / ".build"

    @property
    def template(self) -> str:
        return template_name(self.request.project, self.request.number)

    @property
    def owner(self) -> Owner:
        if self.context.uid_base is None:
            return Owner()
        uid = project_uid(self.context.uid_base, self.request.project_number)
        return Owner(uid, uid)

    @property
    def runner(self) -> Runner:
        return Runner(self.owner, self.log, self.context.cancelled)

    def begin(self, step: str) -> None:
        if self.context.cancelled.is_set():
            raise StepFailed(CANCELLED)
        self.step = step
        self.log.say(f"== {step}")
        self.context.on_step(StepUpdate(step))

    def warn(self, messages: list[str]) -> None:
        for message in messages:
            self.warnings.append(message)
            self.log.say(f"warning: {message}")
            self.context.on_step(StepUpdate(self.step, message))


def build(request: BuildRequest, context: BuildContext) -> BuildResult:
    """Make a release; returns what is to be recorded, or raises `BuildError` and leaves nothing but the log."""
    log = BuildLog(context.home / "logs" / "builds" / f"{request.name}.log", control_group(context.uid_base))
    work = _Build(request, context, log)
    try:
        with _named_failures(work):
            remove_release(context, request.project, request.number)
            result = _run_steps(work)
        log.say(f"== ready {result.digest}")
        return result
    except BaseException:
        end_processes_of(work.owner.uid)
        remove_release(context, request.project, request.number)
        raise
    finally:
        log.close()


@contextmanager
def _named_failures(work: _Build) -> Iterator[None]:
    """Turn what goes wrong into a `BuildError` of the step under way. Bugs pass as they are."""
    try:
        yield
    except (StepFailed, StoreError) as error:
        raise _failure(work, str(error)) from error
    except PackingCancelled as error:
        raise _failure(work, CANCELLED) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _failure(work, DISK_FULL) from error
        where = f"{error.filename}: " if error.filename else ""
        raise _failure(work, f"{where}{error.strerror or error}.") from error
    except psycopg.errors.DiskFull as error:
        raise _failure(work, DISK_FULL) from error
    except psycopg.OperationalError as error:
        raise _failure(work, f"The tenants' PostgreSQL did not do its part: {str(error).strip()}") from error
    except redis.RedisError as error:
        raise _failure(work, f"The tenants' Redis did not do its part: {error}") from error


def _failure(work: _Build, message: str) -> BuildError:
    tail = work.log.tail
    try:
        work.log.say(f"failed: {message}")
    except OSError:
        pass  # the disk may be full; the message reaches the person through the database
    return BuildError(work.step or "fetch", message, tail)


def _run_steps(work: _Build) -> BuildResult:
    work.begin("fetch")
    commit = _fetch(work)
    work.begin("inspect")
    found = _inspect(work)
    work.begin("interpreter")
    interpreter = _interpreter(work, found)
    work.begin("venv")
    plan = _installation(work, found)
    make_venv(plan, interpreter.path, work.runner)
    work.begin("install")
    work.warn(install(plan, work.runner))
    work.begin("check")
    with _neutral_project(work, found) as project:
        answers, wsgi, warnings = execution.check(project, work.template, work.runner)
        work.warn(warnings)
        work.begin("static")
        static, warnings = execution.collect_static(project, answers, work.directory, work.runner)
        work.warn(warnings)
        work.begin("bytecode")
        execution.compile_bytecode(project, work.runner)
        work.begin("template")
        execution.migrate(project, work.runner)
    seal_template(work.context.server, work.template)
    result = BuildResult(
        name=work.request.name,
        digest="",
        commit=commit,
        python=interpreter.version_text,
        django=answers.django,
        settings=found.settings,
        wsgi=wsgi,
        manage=found.manage,
        static=static,
        template=work.template,
        warnings=tuple(work.warnings),
        engine=work.request.engine,
        asgi=found.asgi,
    )
    work.begin("freeze")
    result = _freeze(work, result)
    work.begin("publish")
    return _publish(work, result)


def _fetch(work: _Build) -> str:
    request = work.request
    _make_directories(work)
    if fetch.is_git_url(request.source):
        limit = work.context.limits.fetch
        commit = fetch.clone(request.source, request.ref, work.source, work.scratch, work.runner, limit)
        work.warn(fetch.drop_outside_links(work.source, work.log))
        return commit
    if not request.source.startswith("/"):
        raise StepFailed(f"{request.source!r} is neither the absolute path of a directory nor an address for git.")
    source = Path(request.source)
    # Looked at before the copy: «/» or a home directory is not copied to find out that it is no project.
    inspection.find_manage(source)
    for message in fetch.copy_directory(source, work.source, work.log):
        work.warnings.append(message)
    freeze.own_tree(work.source, work.owner)
    return fetch.commit_of(source)


def _inspect(work: _Build) -> inspection.Inspection:
    request = work.request
    found = inspection.inspect_project(work.source, request.settings, request.wsgi, request.engine, request.asgi)
    application = f"asgi: {found.asgi}" if found.asgi else f"wsgi: {found.wsgi or 'asked of Django later'}"
    work.log.say(f"manage.py: {found.manage}, settings: {found.settings}, {application}, engine: {request.engine}")
    return found


def _make_directories(work: _Build) -> None:
    releases = work.context.home / "releases"
    releases.mkdir(mode=0o755, exist_ok=True)
    (releases / BUILT_HERE).touch(mode=0o644)
    work.directory.mkdir(mode=0o751)
    work.directory.chmod(0o751)
    if work.owner.gid is not None:
        # The directory itself stays the platform's: the project's code cannot put a link where src or venv was.
        os.chown(work.directory, -1, work.owner.gid)
    for path in (work.source, work.venv, work.directory / "static", work.scratch):
        path.mkdir(mode=0o750)
    for name in ("home", "tmp", "media"):
        (work.scratch / name).mkdir(mode=0o750)
    if work.context.library_wheel is not None:
        copy_wheel(work.context.library_wheel, work.scratch)
    for path in (work.source, work.venv, work.directory / "static", work.scratch):
        freeze.own_tree(path, work.owner)
    cache = work.context.home / "cache"
    cache.mkdir(mode=0o755, exist_ok=True)
    (cache / "uv").mkdir(mode=0o755, exist_ok=True)
    own = cache / "uv" / work.request.project
    own.mkdir(mode=0o700, exist_ok=True)
    if work.owner.uid is not None and work.owner.gid is not None and own.stat().st_uid != work.owner.uid:
        # A removed namesake's cache belongs to another user; begin anew.
        remove_tree(own)
        own.mkdir(mode=0o700)
        os.chown(own, work.owner.uid, work.owner.gid)


def _interpreter(work: _Build, found: inspection.Inspection) -> Interpreter:
    pinned, requires = inspection.wanted_python(work.source, found.folder)
    uid = work.owner.uid
    chosen = interpreters.choose(interpreters.find_interpreters(), work.request.python, pinned, requires, uid)
    if uid is not None:
        chosen = interpreters.make_reachable(chosen, work.context.home, uid)
    work.log.say(f"Python {chosen.version_text}: {chosen.path}")
    return chosen


def _installation(work: _Build, found: inspection.Inspection) -> Installation:
    uv, wheel = work.context.uv, work.context.library_wheel
    if work.owner.uid is not None:
        uv = interpreters.make_tool_reachable(uv, work.context.home)
    return Installation(
        uv=uv,
        source=work.source,
        folder=found.folder,
        venv=work.venv,
        cache=work.context.home / "cache" / "uv" / work.request.project,
        scratch=work.scratch,
        wheel=work.scratch / "wheels" / wheel.name if wheel else None,
        seconds=work.context.limits.install,
        engine=work.request.engine,
    )


@contextmanager
def _neutral_project(work: _Build, found: inspection.Inspection) -> Iterator[execution.Project]:
    """The project with the template database and a Redis user of its own, who is gone afterwards."""
    password = create_template(work.context.server, work.template)
    cache = _cache_user(work)
    try:
        environment = _environment(work, found, password, cache)
        yield execution.Project(
            inspection=found,
            source=work.source,
            venv=work.venv,
            environment=environment,
            limits=work.context.limits,
            library=work.context.library_wheel is not None,
        )
    finally:
        if work.context.cache is not None and cache is not None:
            work.context.cache.drop_user(work.template, work.template)


def _cache_user(work: _Build) -> CacheAccess | None:
    if work.context.cache is None:
        return None
    password = random_password()
    work.context.cache.provision_user(work.template, work.template, password)
    return work.context.cache.access(work.template, work.template, password)


def _environment(
    work: _Build, found: inspection.Inspection, password: str, cache: CacheAccess | None
) -> Mapping[str, str]:
    wsgi = found.wsgi or "none:application"
    identity = SiteIdentity(
        NEUTRAL_SLUG, ("none.invalid",), found.settings, wsgi, secrets.token_urlsafe(50), found.asgi
    )
    places = SitePlaces(
        venv=str(work.venv),
        static=str(work.directory / "static"),
        media=str(work.scratch / "media"),
        home=str(work.scratch / "home"),
        tmp=str(work.scratch / "tmp"),
    )
    database = work.context.server.access(work.template, password)
    return site_environment(identity, places, database, cache, work.request.environment)


def _freeze(work: _Build, facts: BuildResult) -> BuildResult:
    end_processes_of(work.owner.uid)
    remove_tree(work.scratch)
    freeze.refuse_special_files(work.directory)
    freeze.refuse_moved_static(work.directory, facts.static)
    freeze.set_permissions(work.directory, facts.static)
    digest = freeze.digest_of(work.directory)
    result = replace(facts, digest=digest)
    freeze.write_marker(work.directory, result)
    return result


def _publish(work: _Build, result: BuildResult) -> BuildResult:
    """The last step: what comes after it must not fail, or the artifact would stay."""
    store = work.context.store
    if store is None:
        return result
    packed = publish(work.directory, store, work.context.cancelled.is_set)
    return replace(result, artifact=f"sha256:{packed.digest}", artifact_size=packed.size)


def remove_release(context: BuildContext, project: str, number: int) -> None:
    """Remove a release's directory, template database and roles, whichever of them exist."""
    directory = context.home / "releases" / f"{project}-{number}"
    if directory.is_dir():
        (directory / freeze.MARKER).unlink(missing_ok=True)  # half-made from here on
        remove_tree(directory)
    template = template_name(project, number)
    drop_template(context.server, template)
    if context.cache is not None:
        context.cache.drop_user(template, template)
