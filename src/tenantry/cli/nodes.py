"""`tenantry node`: the machines that serve sites."""

import time
from collections.abc import Callable
from typing import Annotated

import typer

from tenantry.cli import node_checks
from tenantry.cli.client import path
from tenantry.cli.command import Session, command, noun
from tenantry.cli.documents import Document, Node
from tenantry.cli.errors import CliError, StillWorking, UsageProblem
from tenantry.cli.names import NodeArgument
from tenantry.cli.output import ago
from tenantry.cli.program import become, given
from tenantry.cli.status import COLUMNS, EVENTS, node_rows
from tenantry.cli.waiting import Timeout, Wait

app = noun("node", "The machines that serve sites.")

DRAIN_SECONDS = 300  # the longest request that is still waited for
CONFIRM_SECONDS = 60
POLL_SECONDS = 0.3
HELD = ("MassRemovalRefused", "RemovalHeld")  # conditions that a confirmation ends


@command(app, "list", example="tenantry node list")
def list_(session: Session) -> None:
    """List the nodes: when each was last heard of, and how far it is behind."""
    nodes: list[Node] = session.client.items(path("nodes"))
    columns = ("name", *COLUMNS[1:])

    def show() -> None:
        session.output.table(columns, node_rows(nodes), "No node has joined yet.", keep=columns[1:5])

    session.output.result(nodes, show)


@command(app, "show", example="tenantry node show $(hostname)")
def show_(session: Session, name: NodeArgument) -> None:
    """Show a node: how far it is, its conditions, its last integrity check, and drift that is not repaired."""
    node: Node = session.client.get(path("nodes", name))
    drifts = node_checks.drifts_of(session, name, only_open=True) if node["drift_open"] else []

    def show() -> None:
        session.output.card(_facts(node))
        node_checks.print_drifts(session, drifts, "Drift that is not repaired")

    session.output.result({**node, "drift": drifts}, show)


@command(app, "token", example="tenantry node token --ttl 30")
def token(
    session: Session,
    ttl: Annotated[
        int, typer.Option("--ttl", metavar="MINUTES", min=1, max=7 * 24 * 60, help="How long it may be used.")
    ] = 60,
    with_control: Annotated[
        bool, typer.Option("--with-control", help="The machine may run the API and the dashboard, too.")
    ] = False,
) -> None:
    """Make a token with which one machine may join, and print the command to run there.

    It works once. Whoever has it can become a node, which is given the sites' secrets: treat it like a password.
    """
    made: Document = session.client.post(path("nodes", "tokens"), {"ttl_minutes": ttl, "with_control": with_control})

    def show() -> None:
        session.output.remark(f"Run this on the machine that shall join, within {ttl} min:", "dim")
        session.output.line(str(made["command"]))

    session.output.result(made, show)


@command(app, "join", example="tenantry node join https://10.0.0.1:8081 tnj_…", speaks_json=False)
def join(
    session: Session,
    url: Annotated[str, typer.Argument(metavar="URL", help="As «node token» printed it.", show_default=False)],
    text: Annotated[
        str,
        typer.Argument(
            metavar="TOKEN",
            help="As «node token» printed it; - reads a line of the standard input.",
            show_default=False,
        ),
    ],
    name: Annotated[
        str | None, typer.Option("--name", metavar="NODE", help="Else this machine's name.", show_default=False)
    ] = None,
    http_port: Annotated[
        int | None, typer.Option("--http-port", metavar="N", help="Where sites are served.", show_default=False)
    ] = None,
    control_port: Annotated[
        int | None, typer.Option("--control-port", metavar="N", help="Of the API, with --control.", show_default=False)
    ] = None,
    bind: Annotated[
        str | None, typer.Option("--bind", metavar="ADDRESS", help="Where nginx listens.", show_default=False)
    ] = None,
    control: Annotated[bool, typer.Option("--control", help="Run the API and the dashboard here, too.")] = False,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return when everything is ready.")] = False,
) -> None:
    """Make this machine a node of the platform at URL. bin/join does the same and installs what is missing first.

    Everything is kept in the home. Ctrl-C stops the node; with --detach, «tenantry down» does.
    """
    options = given({"--name": name, "--http-port": http_port, "--control-port": control_port, "--bind": bind})
    flags = [word for word, wanted in (("--control", control), ("--detach", detach)) if wanted]
    become("join", session, [*options, *flags, "--", url, text])


@command(app, "drain", example="tenantry node drain node-2 --wait")
def drain(
    session: Session,
    name: NodeArgument,
    undo: Annotated[bool, typer.Option("--undo", help="Let it take visitors again.")] = False,
    wait: Wait = False,
    timeout: Timeout = DRAIN_SECONDS,
) -> None:
    """Take a node out of service before it is restarted or removed.

    Its readiness address answers 503, so that load balancers send visitors elsewhere; whoever still comes is served.
    It is drained when no visitor is left. With --wait the command returns then; --undo takes the order back.
    """
    node: Node = session.client.post(path("nodes", name, "drain"), {"undo": undo})
    if wait and not undo:
        node = _wait_for_node(
            session, name, timeout, lambda one: one["drained"], "drained", "Visitors are still connected."
        )
    elif wait:
        node = _wait_for_node(
            session, name, timeout, lambda one: not one["draining"] and not one["drained"], "back", "It goes on."
        )
    done = f"{name} takes visitors again." if undo else f"{name} is drained: no visitor is connected."
    going = f"{name} will take visitors again." if undo else f"{name} is draining; see «tenantry node show {name}»."

    def show() -> None:
        session.output.line(done if wait else going)
        if wait and not undo:
            session.output.remark(
                f"Next: stop it, then bring it back with «tenantry node drain {name} --undo», "
                f"or take it away with «tenantry node remove {name}».",
                "dim",
            )

    session.output.result(node, show)


@command(app, "remove", example="tenantry node remove node-2 --confirm node-2")
def remove(
    session: Session,
    name: NodeArgument,
    confirm: Annotated[
        str | None,
        typer.Option("--confirm", metavar="NODE", help="The name again, not to be asked.", show_default=False),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Also while it serves: a machine that is not trusted any more.")
    ] = False,
    keep_passwords: Annotated[
        bool,
        typer.Option("--keep-passwords", help="Leave the sites' passwords: that machine's disks were wiped."),
    ] = False,
) -> None:
    """Take a node out of the platform: it loses its rights at once. Asks for the name.

    Refused unless it is drained or silent, or with --force. Nothing on that machine is deleted, and it serves on until
    it is stopped, or until the sites' database and cache passwords, which it knew, are renewed: in the background,
    one site after another, without an interruption on the other nodes.
    """
    if confirm is None:
        session.output.remark(f"This takes {name} out of the platform; it can only come back by joining anew.")
        confirm = session.ask(f"Type {name} to go on", "--confirm")
    if confirm != name:
        raise UsageProblem("confirm", f"«{confirm}» is not «{name}»; nothing was removed.")
    wanted = {"force": force, "keep_passwords": keep_passwords}
    session.client.delete(path("nodes", name), {option: "true" for option, given_ in wanted.items() if given_} or None)

    def show() -> None:
        session.output.line(f"{name} is no node any more.")
        session.output.remark("Stop what runs on that machine: «tenantry down» there.", "dim")
        if not keep_passwords:
            session.output.remark(
                "The passwords it knew are being renewed, site after site: see «tenantry event follow».",
                "dim",
            )

    session.output.result({"removed": name}, show)


@command(app, "confirm", example="tenantry node confirm node-2 1f2e3d4c")
def confirm_(
    session: Session,
    name: NodeArgument,
    text: Annotated[
        str, typer.Argument(metavar="TOKEN", help="From the condition that «node show» prints.", show_default=False)
    ],
    wait: Wait = False,
    timeout: Timeout = CONFIRM_SECONDS,
) -> None:
    """Let a node remove the sites whose removal it refused.

    A node does not believe a desired state that would take away many sites at once, or any right after a restore. The
    condition names them and ends with a token; the token stands for exactly these sites.
    """
    node: Node = session.client.post(path("nodes", name, "confirm"), {"token": text})
    if wait:
        node = _wait_for_node(session, name, timeout, _holds_nothing, "through with it", "See its conditions.")
    going = f"{name} was told that it may; see «tenantry node show {name}»."
    text_done = f"{name} has removed what it held back." if wait else going
    session.output.result(node, lambda: session.output.line(text_done))


def _wait_for_node(
    session: Session, name: str, seconds: float, reached: Callable[[Node], bool], word: str, why: str
) -> Node:
    """Poll a node until `reached`. Raises `StillWorking` when the time is over, at once when the node is silent."""
    deadline = time.monotonic() + seconds
    while True:
        node: Node = session.client.get(path("nodes", name))
        if reached(node):
            return node
        if node["state"] == "silent":
            raise CliError(
                f"{name} cannot be heard (last {ago(node['last_contact'])}): it does not know of the order yet.",
                "It follows when it is back; see logs/agent.log there.",
            )
        if time.monotonic() >= deadline:
            raise StillWorking(
                f"{name} is not {word} after {seconds:g} s. {why}", f"Look again with «tenantry node show {name}»."
            )
        time.sleep(POLL_SECONDS)


def _holds_nothing(node: Node) -> bool:
    return not node["lag"] and not any(condition.get("type") in HELD for condition in node["conditions"])


def _facts(node: Node) -> list[tuple[str, object]]:
    """Everything about a node, in words. What does not apply is left out."""
    conditions = [
        f"{condition.get('type')}: {condition['message']}" if condition.get("message") else str(condition.get("type"))
        for condition in node["conditions"]
    ]
    agreed = {True: "same as the other nodes", False: "NOT what the other nodes serve", None: ""}[node["agrees"]]
    pairs: list[tuple[str, object]] = [
        ("name", node["name"]),
        ("state", node["state"]),
        ("problems", node["problems"]),
        ("notes", node["notes"]),
        ("last contact", ago(node["last_contact"])),
        ("revision", node["revision"]),
        ("lag", f"{node['lag']} revisions behind" if node["lag"] else "none: every change is applied"),
        ("sites", f"{node['sites']}, {node['failed']} of them failed" if node["failed"] else node["sites"]),
        ("hears of changes", {"push": "by notification", "polling": "by polling"}.get(EVENTS[node["notifications"]])),
        ("last check", node_checks.check_in_words(node)),
        ("open drift", node["drift_open"] or "none"),
        ("conditions", conditions or "none"),
        ("digest", f"{node['digest']} ({agreed})" if node["digest"] and agreed else node["digest"]),
        ("epoch", node["epoch"]),
        ("version", node["version"]),
        ("joined", ago(node["joined_at"])),
    ]
    return [(name, value) for name, value in pairs if value or name not in ("problems", "notes")]


node_checks.add_to(app)
