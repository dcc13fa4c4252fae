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

Rest = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[MORE]", help="Further options: see python -m tenantry.embedded up --help.", show_default=False
    ),
]


@command(app, "up", example="tenantry up --detach --http-port 8080", speaks_json=False, passes_through=True)
def up(
    session: Session,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return when everything is ready.")] = False,
    http_port: Annotated[
        int | None,
        typer.Option("--http-port", min=1, max=65535, metavar="N", help="Where sites are served.", show_default=False),
    ] = None,
    rest: Rest = None,
) -> None:
    """Start the platform on this machine. bin/up does the same and installs what is missing first.

    Ctrl-C stops it; with --detach, «tenantry down» does.
    """
    options = ["--home", str(session.home)]
    options += ["--detach"] if detach else []
    options += ["--http-port", str(http_port)] if http_port else []
    _become("up", [*options, *(rest or [])])


@command(app, "down", example="tenantry down", speaks_json=False, passes_through=True)
def down(session: Session, rest: Rest = None) -> None:
    """Stop everything that «up» started in this home, and nothing else. Data stays."""
    _become("down", ["--home", str(session.home), *(rest or [])])


@command(app, "status", example="tenantry status --json")
def status(session: Session) -> None:
    """Show whether every node has applied every change.

    Exit code 1 when a node is silent or behind, or a site is failed.
    """
    state: Document = session.client.get(path("status"))
    nodes: list[Node] = session.client.items(path("nodes"))
    document = {**state, "nodes": nodes}
    good = bool(nodes) and all(node["state"] == "ready" and not node["failed"] for node in nodes)

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
    """Show who the platform takes you for, and where the token comes from."""
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


def _become(verb: str, options: list[str]) -> NoReturn:
    sys.stdout.flush()
    program = [sys.executable, "-P", "-m", "tenantry.embedded", verb, *options]
    os.execv(program[0], program)  # noqa: S606 - no shell: a list. -P: the current directory is not searched for modules
