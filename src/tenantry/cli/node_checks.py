"""`node check` and `node drift`: whether nodes are as they should be, and what was not."""

import time
from datetime import datetime
from typing import Annotated

import typer

from tenantry.cli.client import path
from tenantry.cli.command import Session, command
from tenantry.cli.documents import Document, Drift, Node
from tenantry.cli.errors import StillWorking, UsageProblem
from tenantry.cli.names import NodeArgument
from tenantry.cli.output import ago
from tenantry.cli.waiting import Timeout, Wait

CHECK_SECONDS = 120  # a deep comparison of releases reads every file
POLL_SECONDS = 0.2
DRIFTS_MAX = 1000  # what the API sends at once
DRIFT_COLUMNS = ("what", "path", "last right", "found", "repaired")


def add_to(app: typer.Typer) -> None:
    """Add the commands to the group `node`."""
    command(app, "check", example="tenantry node check --all --repair")(check)
    command(app, "drift", example="tenantry node drift node-2 --open")(drift)


def check(
    session: Session,
    name: Annotated[str | None, typer.Argument(metavar="NODE", help="The node's name.", show_default=False)] = None,
    every: Annotated[bool, typer.Option("--all", help="Check every node.")] = False,
    repair: Annotated[bool, typer.Option("--repair", help="Repair what has drifted.")] = False,
    wait: Wait = True,
    timeout: Timeout = CHECK_SECONDS,
) -> None:
    """Compare a node with what it should be, now: its files, processes, nginx and releases.

    Nodes do so by themselves twice a minute and repair at once. Prints what had drifted, since when, and how long
    its repair took. Exit code 1 when there is drift that is not repaired.
    """
    if (name is None) != every:
        raise UsageProblem("node", "give one node's name, or --all for every node.")
    chosen = [name] if name is not None else [node["name"] for node in _reachable(session)]
    orders = {one: session.client.post(path("nodes", one, "check"), {"repair": repair}) for one in chosen if one}
    if not wait:
        document = [{"node": one, "check": order["check"]} for one, order in orders.items()]
        session.output.result(document, lambda: session.output.line(f"Asked {', '.join(orders)} to check."))
        return
    deadline = time.monotonic() + timeout
    results: list[Document] = []
    silent: list[StillWorking] = []
    for one, order in orders.items():
        try:
            results.append(_result(session, one, order, deadline, repair=repair))
        except StillWorking as error:  # the others' results are worth no less
            silent.append(error)
    session.output.result(results, lambda: _print_results(session, results))
    if silent:
        raise StillWorking(" ".join(map(str, silent)), silent[0].advice)
    if any(drift["repaired_at"] is None for result in results for drift in result["drift"]):
        raise typer.Exit(1)


def drift(
    session: Session,
    name: NodeArgument,
    only_open: Annotated[bool, typer.Option("--open", help="Only what is not repaired.")] = False,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=DRIFTS_MAX, help="At most this many.")] = 50,
) -> None:
    """List what was found on a node that was not as it should be, the latest first."""
    drifts = drifts_of(session, name, only_open=only_open, limit=limit)
    empty = f"Nothing on {name} is adrift." if only_open else f"Nothing on {name} has drifted in the last 30 days."

    def show() -> None:
        session.output.table(DRIFT_COLUMNS, [_row(one) for one in drifts], empty, keep=("what", "found", "repaired"))

    session.output.result(drifts, show)


def drifts_of(session: Session, name: str, *, only_open: bool = False, limit: int = DRIFTS_MAX) -> list[Drift]:
    """What drifted on a node, the latest first."""
    query = {"open": "true" if only_open else None, "limit": limit}
    found: list[Drift] = session.client.items(path("nodes", name, "drift"), query, limit=limit)
    return found


def print_drifts(session: Session, drifts: list[Drift], title: str) -> None:
    """Print drifts one below the other with their details; nothing when there are none."""
    if not drifts:
        return
    session.output.line()
    session.output.line(f"{title}:", "bold")
    for one in drifts:
        site = f" of {one['site']}" if one["site"] else ""
        session.output.line(f"  {one['kind']}{site}: {one['path']}", "" if one["repaired_at"] else "yellow")
        session.output.line(f"    {one['detail']}; {_history(one)}")


def check_in_words(node: Node) -> str:
    """The last integrity check in one line."""
    checked = node["checked"]
    if not checked:
        return "none yet"
    drift = checked.get("drift") or 0
    return (
        f"{ago(node['checked_at'])}: {checked.get('sites')} sites, {checked.get('paths')} paths in "
        f"{float(checked.get('seconds') or 0):.2f} s, {drift or 'no'} drift found"
    )


def _reachable(session: Session) -> list[Node]:
    """Every node but the silent ones, which are named: they cannot be asked."""
    nodes: list[Node] = session.client.items(path("nodes"))
    for node in nodes:
        if node["state"] in ("silent", "joining"):
            session.output.remark(f"note: {node['name']} is {node['state']} and is not checked.", "yellow")
    found = [node for node in nodes if node["state"] not in ("silent", "joining")]
    if not found:
        raise StillWorking("No node is in contact, so none can check.", "See «tenantry status».")
    return found


def _result(session: Session, name: str, order: Document, deadline: float, *, repair: bool) -> Document:
    """Wait until the node has answered the order, and with `repair` until nothing is adrift; what it found."""
    while True:
        node: Node = session.client.get(path("nodes", name))
        answered = node["checked_id"] >= order["check"]
        over = time.monotonic() >= deadline
        if not answered and (over or node["state"] == "silent"):
            raise StillWorking(
                f"{name} has not answered: it is {node['state']}, last heard of {ago(node['last_contact'])}.",
                "It checks when it can; see «tenantry status».",
            )
        if answered and (over or not repair or not node["drift_open"]):
            break
        time.sleep(POLL_SECONDS)
    since = order["requested_at"]
    # What is open is asked for by itself: it may be older than the latest that were repaired.
    repaired = [one for one in drifts_of(session, name) if _repaired_since(one, since)]
    found = [*drifts_of(session, name, only_open=True), *repaired]
    return {"node": name, "checked": node["checked"], "checked_at": node["checked_at"], "drift": found}


def _print_results(session: Session, results: list[Document]) -> None:
    for result in results:
        checked = result["checked"] or {}
        drifts: list[Drift] = result["drift"]
        remaining = sum(one["repaired_at"] is None for one in drifts)
        verdict = "as it should be" if not drifts else f"{len(drifts)} drifted, {remaining} not repaired"
        seconds = float(checked.get("seconds") or 0)
        session.output.line(
            f"{result['node']}: {verdict} ({checked.get('sites', '?')} sites and {checked.get('paths', '?')} paths "
            f"compared in {seconds:.2f} s)",
            "red" if remaining else "yellow" if drifts else "green",
        )
        for one in drifts:
            site = f" of {one['site']}" if one["site"] else ""
            session.output.line(f"  {one['kind']}{site}: {one['path']}")
            session.output.line(f"    {one['detail']}; {_history(one)}")


def _history(one: Drift) -> str:
    """Since when it may have been so, and how it ended."""
    good = f"last seen right {ago(one['good_at'])}" if one["good_at"] else "never seen right before"
    return f"{good}, found {ago(one['found_at'])}, {_repair(one)}"


def _repair(one: Drift) -> str:
    if one["repaired_at"] is None:
        return "not repaired"
    took = one["took_seconds"]
    return "repaired" if took is None else f"repaired in {took:.2f} s"


def _row(one: Drift) -> tuple[object, ...]:
    what = f"{one['kind']} of {one['site']}" if one["site"] else one["kind"]
    repaired = "no" if one["repaired_at"] is None else _repair(one).removeprefix("repaired in ")
    return (what, one["path"], ago(one["good_at"]), ago(one["found_at"]), repaired)


def _repaired_since(one: Drift, since: str) -> bool:
    ended = one["repaired_at"]
    return ended is not None and datetime.fromisoformat(ended) >= datetime.fromisoformat(since)
