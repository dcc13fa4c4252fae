"""`tenantry node`: the machines that serve sites."""

from typing import Annotated

import typer

from tenantry.cli.client import path
from tenantry.cli.command import Session, command, noun
from tenantry.cli.documents import Node
from tenantry.cli.output import ago

app = noun("node", "The machines that serve sites.")


@command(app, "list", example="tenantry node list")
def list_(session: Session) -> None:
    """List the nodes: when each was last heard of, and how far it is behind."""
    nodes: list[Node] = session.client.items(path("nodes"))
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

    def show() -> None:
        columns = ("name", "state", "contact", "revision", "lag", "sites", "failed")
        session.output.table(columns, rows, "No node has joined yet.", keep=columns[1:])

    session.output.result(nodes, show)


@command(app, "show", example="tenantry node show $(hostname)")
def show_(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NODE", help="The node's name.", show_default=False)],
) -> None:
    """Show a node and its conditions."""
    node: Node = session.client.get(path("nodes", name))
    conditions = [
        f"{condition.get('type')}: {condition.get('status')}"
        + (f" ({condition['message']})" if condition.get("message") else "")
        for condition in node["conditions"]
    ]
    pairs = (
        ("name", node["name"]),
        ("state", node["state"]),
        ("last contact", ago(node["last_contact"])),
        ("revision", node["revision"]),
        ("lag", f"{node['lag']} revisions behind" if node["lag"] else "none: every change is applied"),
        ("sites", node["sites"]),
        ("failed", node["failed"]),
        ("conditions", conditions),
        ("epoch", node["epoch"]),
        ("digest", node["digest"]),
    )
    session.output.result(node, lambda: session.output.card(pairs))
