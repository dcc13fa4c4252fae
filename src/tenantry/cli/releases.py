"""`tenantry release`: builds of a project."""

from typing import Annotated

import typer

from tenantry.cli import names
from tenantry.cli.applying import APPLY_SECONDS, wait_until_applied
from tenantry.cli.client import path
from tenantry.cli.command import Session, command, noun
from tenantry.cli.documents import Document, Project, Release
from tenantry.cli.names import ProjectArgument, ReleaseArgument
from tenantry.cli.output import ago
from tenantry.cli.projects import ASGI_HELP, ENGINE_HELP
from tenantry.cli.waiting import BUILD_SECONDS, Timeout, Wait, wait_for_release

app = noun("release", "Immutable builds of a project.")


@command(app, "build", example="tenantry release build demo")
def build(
    session: Session,
    project: ProjectArgument,
    activate: Annotated[bool, typer.Option("--activate", help="Make it the current one when it is built.")] = False,
    engine: Annotated[
        str | None, typer.Option("--engine", metavar="uwsgi|granian", help=ENGINE_HELP, show_default="as before")
    ] = None,
    asgi: Annotated[
        str | None, typer.Option("--asgi", metavar="MODULE:NAME", help=ASGI_HELP, show_default=False)
    ] = None,
    wait: Wait = True,
    timeout: Timeout = BUILD_SECONDS,
) -> None:
    """Build a new release from the project's source as it is now.

    Sites keep their release: «site update --release» moves one, «release activate» changes what new sites get.
    With another engine, the project's later releases have it, too; a site changes with the release it gets.
    """
    given: Document = {"activate": activate or None, "engine": engine, "asgi": asgi}
    asked = {key: value for key, value in given.items() if value is not None}
    release: Release = session.client.post(path("projects", names.project(project), "releases"), asked)
    if wait:
        release = wait_for_release(session.client, release["name"], session.output, seconds=timeout)
    text = f"{release['name']} is built." if wait else f"{release['name']} is queued."
    session.output.result(release, lambda: session.output.line(text))


@command(app, "list", example="tenantry release list demo")
def list_(session: Session, project: ProjectArgument) -> None:
    """List a project's releases, the newest first."""
    slug = names.project(project)
    releases: list[Release] = session.client.items(path("projects", slug, "releases"))
    releases.sort(key=lambda release: -release["number"])
    current = session.client.get(path("projects", slug))["current_release"]
    rows = [
        (
            release["name"],
            release["status"],
            "current" if release["name"] == current else "",
            release["python"],
            release["django"],
            (release["commit"] or "")[:12],
            ago(release["created_at"]),
        )
        for release in releases
    ]

    def show() -> None:
        session.output.table(
            ("release", "status", "", "python", "django", "commit", "created"),
            rows,
            f"{slug} has no release. Build one with «tenantry release build {slug}».",
            keep=("release", "status", "", "created"),
        )

    session.output.result(releases, show)


@command(app, "show", example="tenantry release show demo-1")
def show_(session: Session, release: ReleaseArgument) -> None:
    """Show a release."""
    document: Release = session.client.get(path("releases", names.release(release)))
    pairs = (
        ("name", document["name"]),
        ("status", document["status"]),
        ("step", document["step"]),
        ("error", document["error"]),
        ("commit", document["commit"]),
        ("digest", document["digest"]),
        ("python", document["python"]),
        ("django", document["django"]),
        ("settings", document["settings"]),
        ("engine", document["engine"]),
        ("wsgi", document["wsgi"]),
        ("asgi", document["asgi"]),
        ("static", document["static"]),
        ("created", ago(document["created_at"])),
        ("finished", ago(document["finished_at"]) if document["finished_at"] else None),
    )

    def show() -> None:
        session.output.card(pairs)
        if document["status"] == "failed":
            session.output.tail("the end of its log", document["log_tail"])

    session.output.result(document, show)


@command(app, "log", example="tenantry release log demo-1 --follow")
def log(
    session: Session,
    release: ReleaseArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the build is over.")] = False,
) -> None:
    """Print the log of a build. With --json, one JSON document a line."""
    for line in session.client.lines(path("releases", names.release(release), "log"), {"follow": _flag(follow)}):
        session.output.log_entry(line)


@command(app, "activate", example="tenantry release activate demo-2")
def activate_(session: Session, release: ReleaseArgument, wait: Wait = False, timeout: Timeout = APPLY_SECONDS) -> None:
    """Make a release its project's current one: new sites get it. Sites that exist keep theirs."""
    name = names.release(release)
    project: Project = session.client.post(path("releases", name, "activate"))
    if wait:
        wait_until_applied(session, seconds=timeout)
    session.output.result(project, lambda: session.output.line(f"{name} is the current release."))


def _flag(value: bool) -> str | None:
    return "true" if value else None
