"""`tenantry status`: the proof that every node has applied every change, or what is missing."""

import typer

from tenantry.cli.client import path
from tenantry.cli.command import Session, command, noun
from tenantry.cli.documents import Document, Node
from tenantry.cli.output import ago

app = noun("status", "How far the nodes have come.")

COLUMNS = ("node", "state", "contact", "revision", "lag", "digest", "agrees", "events", "drift", "sites", "failed")
DIGEST_SHOWN = 8  # hex digits: enough to compare by eye
EVENTS: dict[bool | None, str] = {True: "push", False: "polling", None: "-"}
AGREES: dict[bool | None, str] = {True: "yes", False: "no", None: "-"}


@command(app, "status", example="tenantry status --json")
def status(session: Session) -> None:
    """Show whether every node has applied every change.

    Of each node: the revision it has applied, how many it lags behind, a digest of what it serves and whether that is
    what the others serve, how it hears of changes, and drift not yet repaired. Exit code 1 when a node is silent,
    behind, serves something else or has drift, or a site is failed; what is wrong is said in words.
    """
    state: Document = session.client.get(path("status"))
    nodes: list[Node] = session.client.items(path("nodes"))
    problems = _problems(state, nodes)
    document = {**state, "converged": not problems, "problems": problems, "nodes": nodes}

    def show() -> None:
        _show(session, state, nodes)
        _conclude(session, state, nodes, problems)

    session.output.result(document, show)
    if problems:
        raise typer.Exit(1)


def node_rows(nodes: list[Node]) -> list[tuple[object, ...]]:
    """The rows under `COLUMNS`."""
    return [
        (
            node["name"],
            node["state"],
            ago(node["last_contact"]),
            node["revision"],
            node["lag"],
            short_digest(node["digest"]),
            AGREES[node["agrees"]],
            EVENTS[node["notifications"]],
            node["drift_open"],
            node["sites"],
            node["failed"],
        )
        for node in nodes
    ]


def short_digest(digest: str | None) -> str:
    """The end of a digest, as people compare it: it begins with the name of its kind."""
    return (digest or "").rpartition(":")[2][:DIGEST_SHOWN]


def _problems(state: Document, nodes: list[Node]) -> list[str]:
    found = [f"{node['name']} {problem}" for node in nodes for problem in node["problems"]]
    if not nodes:
        found.append("No node has joined yet: bin/up starts one on this machine.")
    failed = state["sites"].get("failed")
    if failed:
        found.append(f"{failed} {_plural(failed, 'site')} failed: see «tenantry site list --status failed».")
    return found


def _show(session: Session, state: Document, nodes: list[Node]) -> None:
    counted = {
        name: ", ".join(f"{count} {word}" for word, count in state[name].items()) or "none"
        for name in ("sites", "nodes")
    }
    pairs = [(name, counted.get(name, value)) for name, value in state.items()]
    session.output.card(pairs)
    session.output.line()
    session.output.table(COLUMNS, node_rows(nodes), "No node has joined yet.", keep=COLUMNS[1:9])


def _conclude(session: Session, state: Document, nodes: list[Node], problems: list[str]) -> None:
    session.output.line()
    if problems:
        session.output.line("Not converged:", "bold")
        for problem in problems:
            session.output.line(f"  - {problem}")
    elif len(nodes) == 1:
        session.output.line(f"Every change is applied: {nodes[0]['name']} is at revision {state['revision']}.", "green")
    else:
        session.output.line(
            f"Every change is applied: {len(nodes)} nodes are at revision {state['revision']} and serve the same.",
            "green",
        )
    for node in nodes:
        for note in node["notes"]:
            session.output.line(f"note: {node['name']} {note}", "yellow")


def _plural(count: int, word: str) -> str:
    return word if count == 1 else f"{word}s"
