"""The commands about the whole platform: `up`, `down`, `whoami`. `status` and `doctor` have their own modules."""

from typing import Annotated

import typer

from tenantry.cli.client import path
from tenantry.cli.command import Session, command, noun
from tenantry.cli.documents import Document
from tenantry.cli.program import become, given

app = noun("platform", "The whole platform.")


@command(app, "up", example="tenantry up --detach --http-port 8080", speaks_json=False)
def up(
    session: Session,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return when everything is ready.")] = False,
    http_port: Annotated[
        int | None, typer.Option("--http-port", metavar="N", help="Where sites are served.", show_default=False)
    ] = None,
    control_port: Annotated[
        int | None,
        typer.Option("--control-port", metavar="N", help="Of the API and the dashboard.", show_default=False),
    ] = None,
    bind: Annotated[
        str | None, typer.Option("--bind", metavar="ADDRESS", help="Where nginx listens.", show_default=False)
    ] = None,
    cluster_address: Annotated[
        str | None,
        typer.Option(
            "--cluster-address",
            metavar="ADDRESS",
            help="Of this machine, as others reach it: lets them join.",
            show_default=False,
        ),
    ] = None,
    no_demo: Annotated[bool, typer.Option("--no-demo", help="Do not host the demo project.")] = False,
) -> None:
    """Start the platform on this machine. bin/up does the same and installs what is missing first.

    Ports and address are remembered in the home. Ctrl-C stops everything; with --detach, «tenantry down» does.
    """
    options = given(
        {
            "--http-port": http_port,
            "--control-port": control_port,
            "--bind": bind,
            "--cluster-address": cluster_address,
        }
    )
    become("up", session, [*options, *(["--detach"] if detach else []), *(["--no-demo"] if no_demo else [])])


@command(app, "down", example="tenantry down", speaks_json=False)
def down(session: Session) -> None:
    """Stop what «up» started in this home.

    That and nothing else; data stays."""
    become("down", session, [])


@command(app, "whoami", example="tenantry whoami")
def whoami(session: Session) -> None:
    """Show who you are to the platform.

    And where the token comes from."""
    who: Document = session.client.get(path("whoami"))
    connection = session.client.connection
    pairs = [*_facts(who), ("platform", connection.url), ("token from", connection.source)]
    session.output.result(who, lambda: session.output.card(pairs))


def _facts(document: Document) -> list[tuple[str, object]]:
    """The plain values of a document, one level of nesting flattened."""
    facts: list[tuple[str, object]] = []
    for name, value in document.items():
        if isinstance(value, dict):
            facts.append((name, ", ".join(f"{count} {word}" for word, count in value.items()) or "none"))
        elif not isinstance(value, list) or all(isinstance(entry, str | int) for entry in value):
            facts.append((name, value))
    return facts
