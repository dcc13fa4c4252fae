"""`tenantry site mode` and `tenantry site bypass`: what visitors get, and who gets the site all the same."""

from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from tenantry.cli import names
from tenantry.cli.client import PAGE_SIZE, path
from tenantry.cli.command import Session, command
from tenantry.cli.documents import Document, Site
from tenantry.cli.errors import UsageProblem, WorkFailed
from tenantry.cli.names import SlugArgument
from tenantry.cli.output import took
from tenantry.cli.waiting import (
    SITE_SECONDS,
    Timeout,
    Wait,
    note_not_starting,
    note_unreachable,
    stopwatch,
    wait_for_mode,
)

OPTIONAL = ("becomes", "message", "until", "retry after", "let in", "page")
PAGE_MAX_BYTES = 131_072
HOURS, HOURS_MAX = 8, 168


class Mode(StrEnum):
    """What visitors of a site get."""

    LIVE = "live"
    READ_ONLY = "read_only"
    MAINTENANCE = "maintenance"
    PAUSED = "paused"


def add_to(app: typer.Typer) -> None:
    """Add the commands to `tenantry site`."""
    command(app, "mode", example="tenantry site mode blog maintenance --message Back-at-noon --wait")(mode_)
    command(app, "bypass", example="tenantry site bypass blog --hours 8")(bypass)


def pairs_of(site: Site) -> list[tuple[str, Any]]:
    """Return what a site's card says of its mode."""
    options: Any = site.get("mode_options") or {}
    seconds = options.get("retry_after_seconds")
    return [
        ("mode", site["mode"]),
        ("becomes", site.get("pending_mode")),
        ("message", options.get("message")),
        ("until", options.get("until")),
        ("retry after", None if seconds is None else f"{seconds} s"),
        ("let in", options.get("networks")),
        ("page", "its own" if options.get("page") else None),
    ]


def mode_(
    session: Session,
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[SLUG] MODE", help="The site and live, read_only, maintenance or paused.", show_default=False
        ),
    ],
    every: Annotated[bool, typer.Option("--all", help="Every site; with --project, of that project.")] = False,
    project: Annotated[
        str | None, typer.Option("--project", "-p", metavar="PROJECT", help="With --all.", show_default=False)
    ] = None,
    message: Annotated[
        str | None, typer.Option("--message", help="What visitors are told.", metavar="TEXT", show_default=False)
    ] = None,
    retry_after: Annotated[
        int | None, typer.Option("--retry-after", min=0, metavar="SECONDS", help="Tell clients to wait so long.")
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(
            "--until", metavar="TIME", help="Live again then: 2030-01-31T18:00, in the time zone here or with +01:00."
        ),
    ] = None,
    page: Annotated[
        Path | None, typer.Option("--page", metavar="FILE", help="HTML of the site's own, at most 128 KiB.")
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option("--allow", metavar="CIDR", help="Visitors from this network get the site. Repeatable."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask whether every site is meant.")] = False,
    wait: Wait = False,
    timeout: Timeout = SITE_SECONDS,
) -> None:
    """Choose what visitors of a site get. No process is restarted. What is not given is as if never set.

    live: everything; read_only: pages, but no forms; maintenance and paused: a page that says so, with status 503.
    """
    slug, mode = _parse_words(words, every=every)
    if project is not None and not every:
        raise UsageProblem("project", "give --all with it, or leave it out.")
    document: Document = {"mode": mode.value}
    given: dict[str, Any] = {
        "message": message,
        "retry_after_seconds": retry_after,
        "until": None if until is None else _parse_until(until),
        "page": None if page is None else _read_page(page),
        "networks": allow or None,
    }
    document |= {name: value for name, value in given.items() if value is not None}
    elapsed = stopwatch()
    if slug is None:
        if project is None and not yes:
            session.confirm(f"This makes every site of the platform {mode.value}. Go on?")
        _set_many(session, document, project, timeout if wait else None)
        return
    site: Site = session.client.put(path("sites", slug, "mode"), document)
    if wait:
        _wait(session, site["slug"], site["revision"], timeout, site["error"])
    shown = session.client.get(path("sites", slug)) if wait and session.output.as_json else site
    text = (
        f"{slug} is {mode.value} after {took(elapsed())}."
        if wait
        else f"{slug} changes its mode; see «tenantry site show {slug}»."
    )
    session.output.result(shown, lambda: session.output.line(text))


def bypass(
    session: Session,
    slug: SlugArgument,
    hours: Annotated[
        int | None, typer.Option("--hours", min=1, max=HOURS_MAX, help=f"How long it lets in. [default: {HOURS}]")
    ] = None,
    revoke: Annotated[bool, typer.Option("--revoke", help="Make every link and cookie of before worthless.")] = False,
    wait: Wait = False,
    timeout: Timeout = SITE_SECONDS,
) -> None:
    """Print a link that lets a person into a site while it is closed to others. It works while the site is in a mode.

    Whoever has the link gets in. The cookie is for programs: send it as the header Cookie.
    """
    slug = names.site(slug)
    if revoke:
        _revoke(session, slug, hours, timeout if wait else None)
        return
    made: Document = session.client.post(path("sites", slug, "bypass"), {"hours": HOURS if hours is None else hours})

    def show() -> None:
        session.output.line(str(made["url"]))
        session.output.remark(f"Cookie: {made['cookie']}\nuntil {made['expires_at']}", "dim")

    session.output.result(made, show)


def _revoke(session: Session, slug: str, hours: int | None, seconds: float | None) -> None:
    if hours is not None:
        raise UsageProblem("hours", "what is revoked gets no hours; leave one of the two out.")
    site: Site = session.client.delete(path("sites", slug, "bypass"))
    if seconds is not None:
        _wait(session, slug, site["revision"], seconds, site["error"])
    text = f"No link of before lets anybody into {slug}" + ("." if seconds is not None else ", once its nodes know it.")
    session.output.result(site, lambda: session.output.line(text))


def _set_many(session: Session, document: Document, project: str | None, seconds: float | None) -> None:
    """Set the mode of every site, of a project or at all, some hundred at a time; tell what became of them."""
    asked = {"project": None if project is None else names.project(project), "limit": PAGE_SIZE}
    slugs = [site["slug"] for site in session.client.items(path("sites"), asked)]
    total: dict[str, list[Any]] = {"changed": [], "unchanged": [], "failed": []}
    revision = 0
    for begin in range(0, len(slugs), PAGE_SIZE):
        answer = session.client.post(path("modes"), {**document, "sites": slugs[begin : begin + PAGE_SIZE]})
        for name, found in total.items():
            found += answer[name]
        revision = max(revision, answer["revision"])
    if seconds is not None:
        for slug in total["changed"]:
            site: Site = session.client.get(path("sites", slug))
            _wait(session, slug, site["revision"], seconds, site["error"])

    def show() -> None:
        counts = f"{len(total['changed'])} sites are {document['mode']} now, {len(total['unchanged'])} were already."
        session.output.line(counts if slugs else "There is no such site.")
        for failure in total["failed"]:
            session.output.line(f"{failure['site']}: not changed: {failure['detail']}")

    session.output.result({**total, "revision": revision}, show)
    if total["failed"]:
        raise WorkFailed(f"{len(total['failed'])} of {len(slugs)} sites were not changed.")


def _wait(session: Session, slug: str, revision: int, seconds: float, known_error: str | None) -> None:
    state = wait_for_mode(session.client, slug, seconds=seconds, revision=revision, known_error=known_error)
    note_not_starting(session.output, state)
    note_unreachable(session.output, state["unreachable"])


def _parse_words(words: list[str], *, every: bool) -> tuple[str | None, Mode]:
    """Return the slug and the mode; with --all the mode alone."""
    if len(words) != (1 if every else 2):
        wanted = "the mode alone" if every else "the site and the mode"
        raise UsageProblem("mode", f"give {wanted}, for example: tenantry site mode blog maintenance")
    try:
        mode = Mode(words[-1])
    except ValueError:
        raise UsageProblem("mode", f"«{words[-1]}» is none of {', '.join(Mode)}.") from None
    return (None if every else names.site(words[0])), mode


def _parse_until(text: str) -> str:
    """Return the time with its offset; without one it is meant in the time zone of this machine."""
    try:
        return datetime.fromisoformat(text).astimezone().isoformat()
    except (ValueError, OverflowError):
        raise UsageProblem("until", f"«{text}» is no time such as 2030-01-31T18:00 or …+01:00.") from None


def _read_page(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            content = opened.read(PAGE_MAX_BYTES + 1)
        if len(content) > PAGE_MAX_BYTES:
            raise UsageProblem("page", f"{file} is larger than {PAGE_MAX_BYTES // 1024} KiB.")
        return content.decode()
    except OSError as error:
        raise UsageProblem("page", f"{file} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UsageProblem("page", f"{file} is no text in UTF-8.") from error
