"""`tenantry project`: codebases."""

import re
from pathlib import Path
from typing import Annotated

import typer

from tenantry.cli import names
from tenantry.cli.applying import APPLY_SECONDS, wait_until_applied
from tenantry.cli.client import path
from tenantry.cli.command import Session, command, noun, parse_environment
from tenantry.cli.documents import Document, Project, Release
from tenantry.cli.errors import UsageProblem, WorkFailed
from tenantry.cli.names import ProjectArgument
from tenantry.cli.output import ago
from tenantry.cli.waiting import BUILD_SECONDS, Timeout, Wait, wait_for_release

app = noun("project", "The codebases that sites run.")

ENGINE_HELP = "What sites run in; granian serves ASGI: websockets, async views, streams."
ASGI_HELP = "Where the engine needs it; else found by itself."
WarmPaths = Annotated[
    list[str] | None,
    typer.Option(
        "--warm-path",
        metavar="PATH",
        help="Asked of each thread of new processes before visitors get them; repeatable.",
        show_default=False,
    ),
]

_GIT = re.compile(r"(?:https?|ssh|git|file)://|[\w.-]+@[\w.-]+:|git\+")


@command(app, "add", example="tenantry project add ./shop --name shop --env DEBUG=0")
def add(
    session: Session,
    source: Annotated[
        str, typer.Argument(metavar="PATH|GIT_URL", help="A directory, or a git repository's URL.", show_default=False)
    ],
    name: Annotated[
        str | None, typer.Option("--name", help="The project's name; else taken from the source.", show_default=False)
    ] = None,
    settings: Annotated[
        str | None, typer.Option("--settings", metavar="MODULE", help="Else found in manage.py.", show_default=False)
    ] = None,
    wsgi: Annotated[
        str | None, typer.Option("--wsgi", metavar="MODULE:NAME", help="Else found by itself.", show_default=False)
    ] = None,
    engine: Annotated[
        str | None, typer.Option("--engine", metavar="uwsgi|granian", help=ENGINE_HELP, show_default="uwsgi")
    ] = None,
    asgi: Annotated[
        str | None, typer.Option("--asgi", metavar="MODULE:NAME", help=ASGI_HELP, show_default=False)
    ] = None,
    python: Annotated[
        str | None, typer.Option("--python", metavar="VERSION", help="For example 3.13.", show_default=False)
    ] = None,
    environment: Annotated[
        list[str] | None,
        typer.Option("--env", metavar="NAME=VALUE", help="For every site of it; repeatable.", show_default=False),
    ] = None,
    health_path: Annotated[
        str | None,
        typer.Option("--health-path", metavar="PATH", help="Must answer before a site is served.", show_default="/"),
    ] = None,
    warm_paths: WarmPaths = None,
    wait: Wait = True,
    timeout: Timeout = BUILD_SECONDS,
) -> None:
    """Add a project and build its first release.

    The settings and the application are found in manage.py where possible. The build is shown step by step;
    a build that fails says at which step, and leaves no release behind.
    """
    document: Document = {
        "name": names.project(name if name is not None else _name_of(source), field="name"),
        "source": _absolute(source),
    }
    optional = {"settings": settings, "wsgi": wsgi, "engine": engine, "asgi": asgi, "python": python}
    optional["health_path"] = health_path
    document |= {key: value for key, value in optional.items() if value is not None}
    if warm_paths:
        document["warm_paths"] = warm_paths
    if environment:
        document["environment"] = parse_environment(environment)
    project: Project = session.client.post(path("projects"), document)
    release = _newest_release(session, project["name"])
    if wait and release is not None:
        project = _wait_for_first(session, project["name"], release["name"], timeout)

    def show() -> None:
        if not wait:
            session.output.line(f"{project['name']} is added; {release['name'] if release else 'a release'} is queued.")
            return
        session.output.line(f"{project['name']} is ready: release {project['current_release']}.")
        session.output.remark(f"Next: tenantry site create NAME --project {project['name']} --wait", "dim")

    session.output.result(project, show)


def _wait_for_first(session: Session, project: str, release: str, seconds: float) -> Project:
    """Wait for a new project's first release; return the project as it is then."""
    try:
        wait_for_release(session.client, release, session.output, seconds=seconds)
    except WorkFailed as error:
        again = f"Was the path or an option wrong? «tenantry project remove {project}», then add it again."
        raise WorkFailed(str(error), f"{error.advice} {again}", error.log) from error
    found: Project = session.client.get(path("projects", project))
    return found


@command(app, "update", example="tenantry project update shop --warm-path / --warm-path /search")
def update(
    session: Session,
    name: ProjectArgument,
    health_path: Annotated[
        str | None,
        typer.Option("--health-path", metavar="PATH", help="Must answer before a site is served.", show_default=False),
    ] = None,
    warm_paths: WarmPaths = None,
    no_warm_paths: Annotated[bool, typer.Option("--no-warm-paths", help="Ask none but the health path.")] = False,
) -> None:
    """Change what new processes of a project's sites must answer before visitors get them.

    Warm paths given replace those of before. Processes that serve are not asked again.
    """
    if warm_paths and no_warm_paths:
        raise UsageProblem("no-warm-paths", "Give either --warm-path or --no-warm-paths.")
    document: Document = {} if health_path is None else {"health_path": health_path}
    if warm_paths or no_warm_paths:
        document["warm_paths"] = warm_paths or []
    if not document:
        raise UsageProblem("project", "Say what to change: --health-path, --warm-path or --no-warm-paths.")
    project: Project = session.client.patch(path("projects", names.project(name)), document)
    session.output.result(project, lambda: session.output.line(f"{project['name']} is changed."))


@command(app, "list", example="tenantry project list")
def list_(session: Session) -> None:
    """List the projects."""
    projects: list[Project] = session.client.items(path("projects"))
    rows = [
        (project["name"], project["current_release"], project["sites"], ago(project["created_at"]), project["source"])
        for project in projects
    ]

    def show() -> None:
        session.output.table(
            ("name", "release", "sites", "created", "source"),
            rows,
            "No project yet. Add one with «tenantry project add PATH --name NAME».",
            keep=("name", "release", "sites", "created"),
        )

    session.output.result(projects, show)


@command(app, "show", example="tenantry project show demo")
def show_(session: Session, name: ProjectArgument) -> None:
    """Show a project."""
    project: Project = session.client.get(path("projects", names.project(name)))
    pairs = (
        ("name", project["name"]),
        ("source", project["source"]),
        ("settings", project["settings"]),
        ("engine", project["engine"]),
        ("wsgi", project["wsgi"]),
        ("asgi", project["asgi"]),
        ("python", project["python"]),
        ("health path", project["health_path"]),
        ("warm paths", project["warm_paths"]),
        ("current release", project["current_release"]),
        ("sites", project["sites"]),
        ("environment", sorted(project["environment_names"])),
        ("created", ago(project["created_at"])),
    )
    session.output.result(project, lambda: session.output.card(pairs))


@command(app, "remove", example="tenantry project remove shop --yes")
def remove(
    session: Session,
    name: ProjectArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    wait: Wait = False,
    timeout: Timeout = APPLY_SECONDS,
) -> None:
    """Remove a project and its releases. Refused while it has sites."""
    slug = names.project(name)
    if not yes:
        session.confirm(f"Remove the project {slug} and all its releases?")
    session.client.delete(path("projects", slug))
    if wait:
        wait_until_applied(session, seconds=timeout)
    session.output.result({"removed": slug}, lambda: session.output.line(f"{slug} is removed."))


def _absolute(source: str) -> str:
    """A local path as the platform, which has another working directory, must see it; a URL as it is."""
    if _GIT.match(source):
        return source
    if not source:
        raise UsageProblem("source", "A path or a git URL is needed.")
    return str(Path(source).expanduser().resolve())


def _name_of(source: str) -> str:
    """The last part of the path or URL, made a slug where that is plain; the platform refuses the rest."""
    last = (
        source.rstrip("/").rpartition("/")[2].removesuffix(".git")
        if _GIT.match(source)
        else Path(_absolute(source)).name
    )
    return re.sub(r"[^a-z0-9]+", "-", last.lower()).strip("-")


def _newest_release(session: Session, project: str) -> Release | None:
    releases: list[Release] = session.client.items(path("projects", project, "releases"))
    return max(releases, key=lambda release: release["number"], default=None)
