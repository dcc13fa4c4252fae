"""`--wait` of changes that concern no single site: until every node in contact has applied a revision."""

import time

from tenantry.cli.client import LONG_POLL_SECONDS, Client, path
from tenantry.cli.command import Session
from tenantry.cli.documents import Application
from tenantry.cli.errors import StillWorking
from tenantry.cli.waiting import note_unreachable

APPLY_SECONDS = 30


def wait_until_applied(session: Session, *, seconds: float) -> Application:
    """Wait until every reachable node has applied all that was committed until now, and name the others as a note.

    Raises `StillWorking`, which says of each node that has not what keeps it.
    """
    revision: int = session.client.get(path("status"))["revision"]
    deadline = time.monotonic() + seconds
    while True:
        state = _ask(session.client, revision, deadline)
        if state["converged"]:
            note_unreachable(session.output, state["unreachable"])
            return state
        if time.monotonic() >= deadline:
            raise StillWorking(
                f"Revision {revision} is not applied everywhere after {seconds:g} s: {_lacking(state)}.",
                "The change is made, and nodes go on applying it; see «tenantry status».",
            )


def _ask(client: Client, revision: int, deadline: float) -> Application:
    left = max(0, min(LONG_POLL_SECONDS, int(deadline - time.monotonic()) + 1))
    state: Application = client.get(path("changes", revision, "convergence"), {"wait": left}, patience=left)
    return state


def _lacking(state: Application) -> str:
    words = [
        f"{node['node']} is at revision {node['revision']}" + "".join(f", {reason}" for reason in node["reasons"])
        for node in state["nodes"]
        if not node["applied"]
    ]
    words += [f"{one['node']} is out of reach" for one in state["unreachable"]]
    return "; ".join(words) or "no node has joined"
