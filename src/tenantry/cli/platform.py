"""The commands about the whole platform: `up`, `down`, `status`, `whoami`. `doctor` has its own module."""

import os
import sys
from typing import Annotated, NoReturn

import typer

from tenantry.cli.client import path
from tenantry.cli.command import Session, command, noun
from tenantry.cli.documents import Document, Node
from tenantry.cli.output import ago

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
    no_demo: Annotated[bool, typer.Option("--no-demo", help="Do not host the demo project.")] = False,
) -> None:
    """Start the platform on this machine. bin/up does the same and installs what is missing first.

    Ports and address are remembered in the home. Ctrl-C stops everything; with --detach, «tenantry down» does.
    """
    valued = {"--http-port": http_port, "--control-port": control_port, "--bind": bind}
    options = [word for name, value in valued.items() if value is not None for word in (name, str(value))]
    _become("up", session, [*options, *(["--detach"] if detach else []), *(["--no-demo"] if no_demo else [])])


@command(app, "down", example="tenantry down", speaks_json=False)
def down(session: Session) -> None:
    """Stop what «up» started in this home.

    That and nothing else; data stays."""
    _become("down", session, [])


@command(app, "status", example="tenantry status --json")
def status(session: Session) -> None:
    """Show whether every node has applied every change.

    Exit code 1 when a node is silent or behind, or a site is failed.
    """
    state: Document = session.client.get(path("status"))
    nodes: list[Node] = session.client.items(path("nodes"))
    document = {**state, "nodes": nodes}
    applied = bool(nodes) and all(node["state"] == "ready" and not node["lag"] for node in nodes)
    good = applied and not any(node["failed"] for node in nodes) and not state["sites"].get("failed")

    def show() -> None:
        session.output.card([(name.replace("_", " "), value) for name, value in _facts(state)])
        session.output.line()
        columns = ("node", "state", "contact", "revision", "lag", "sites", "failed")
        rows = [
            (
                node["name"],
                node["state"],
                ago(node["last_contact"]),
                node["revision"],
                node["lag"],
                node["sites"],
                node["failed"],
            )
            for node in nodes
        ]
        session.output.table(columns, rows, "No node has joined yet.", keep=columns[1:])

    session.output.result(document, show)
    if not good:
        raise typer.Exit(1)


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


def _become(verb: str, session: Session, options: list[str]) -> NoReturn:
    """Become the embedded platform's program, which checks the options and owns the terminal."""
    sys.stdout.flush()
    program = [sys.executable, "-P", "-m", "tenantry.embedded", verb, "--home", str(session.home), *options]
    os.execv(program[0], program)  # noqa: S606 - no shell: a list. -P: the current directory is not searched for modules
