"""`tenantry hostname`: the names that lead to sites."""

from typing import Annotated, Any

import typer

from tenantry.cli import names
from tenantry.cli.client import path
from tenantry.cli.command import Session, command, noun
from tenantry.cli.documents import Site
from tenantry.cli.names import SlugArgument
from tenantry.cli.waiting import SITE_SECONDS, Timeout, Wait, note_unreachable, wait_for_site

app = noun("hostname", "The names that lead to sites.")

NameArgument = Annotated[
    str, typer.Argument(metavar="HOSTNAME", help="For example blog.example.org.", show_default=False)
]


@command(app, "add", example="tenantry hostname add blog blog.example.org")
def add(
    session: Session, slug: SlugArgument, hostname: NameArgument, wait: Wait = True, timeout: Timeout = SITE_SECONDS
) -> None:
    """Lead a hostname to a site. No process is restarted."""
    site, name = names.site(slug), names.hostname(hostname)
    document: Any = session.client.post(path("sites", site, "hostnames"), {"name": name})
    if wait:
        _wait(session, site, timeout)
    session.output.result(document, lambda: session.output.line(f"{name} leads to {site}."))


@command(app, "remove", example="tenantry hostname remove blog blog.example.org")
def remove(
    session: Session, slug: SlugArgument, hostname: NameArgument, wait: Wait = True, timeout: Timeout = SITE_SECONDS
) -> None:
    """Stop leading a hostname to a site."""
    site, name = names.site(slug), names.hostname(hostname)
    session.client.delete(path("sites", site, "hostnames", name))
    if wait:
        _wait(session, site, timeout)
    session.output.result(
        {"removed": name, "site": site}, lambda: session.output.line(f"{name} leads to {site} no more.")
    )


@command(app, "list", example="tenantry hostname list")
def list_(session: Session) -> None:
    """List every hostname and its site."""
    found: list[dict[str, Any]] = session.client.items(path("hostnames"))
    rows = [(entry["name"], entry["site"]) for entry in found]

    def show() -> None:
        session.output.table(
            ("hostname", "site"),
            rows,
            "No hostname yet. Add one with «tenantry hostname add SLUG HOSTNAME».",
            keep=("hostname", "site"),
        )

    session.output.result(found, show)


def _wait(session: Session, slug: str, seconds: int) -> None:
    """Wait until the nodes route as it is wanted. An error from before has nothing to do with hostnames."""
    site: Site = session.client.get(path("sites", slug))
    state = wait_for_site(session.client, slug, seconds=seconds, revision=site["revision"], known_error=site["error"])
    note_unreachable(session.output, state["unreachable"])
