"""`--wait`: staying with work that goes on after the API's answer, until it is done, failed, or the time is over."""

import sys
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Annotated, Any

import typer

from tenantry.cli.client import LONG_POLL_SECONDS, Client, path
from tenantry.cli.documents import Convergence, Release, SiteOnNode, Unreachable
from tenantry.cli.errors import NotFound, StillWorking, WorkFailed
from tenantry.cli.output import Output, ago, paint, printable, took, wants_colour

SITE_SECONDS = 60
BUILD_SECONDS = 1800  # a cold build downloads every package
BUILD_POLL_SECONDS = 0.5
DECIDED_PAUSE_SECONDS = 0.2  # the server does not hold an answer back once a site has failed
FINISHED = ("ready", "failed")

Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Return when the work is done, not when it is accepted.")]
Timeout = Annotated[
    int, typer.Option("--timeout", min=1, metavar="SECONDS", help="How long --wait waits. The work goes on afterwards.")
]


def wait_for_site(
    client: Client, slug: str, *, seconds: float, revision: int = 0, known_error: str | None = None, act: str = ""
) -> Convergence:
    """Wait until every reachable node serves the site at its latest revision, `revision` or later; return how far they
    have come. Nodes that are not in contact are in its `unreachable`: see `note_unreachable`.

    `known_error` is what the site showed before this act: it says nothing about it. `act` words the failure
    («blog was not moved to demo-2»).
    Raises `WorkFailed` with the node's log when the site's job failed or it does not start, `StillWorking` when the
    time is over.
    """
    deadline = time.monotonic() + seconds
    while True:
        state = _convergence(client, slug, deadline)
        if state["revision"] >= revision:
            if state["converged"]:
                return state
            if state["error"] and state["error"] == known_error:
                if _is_served(state):
                    return state
                time.sleep(DECIDED_PAUSE_SECONDS)
            else:
                _raise_if_job_failed(state, act)
            _raise_if_node_failed(state)
        if time.monotonic() >= deadline:
            raise StillWorking(
                f"{slug} is not served everywhere after {seconds:g} s ({_summary(state)}). The platform goes on.",
                f"Look again with «tenantry site show {slug}», or «tenantry doctor».",
            )


def wait_for_mode(
    client: Client, slug: str, *, seconds: float, revision: int, known_error: str | None = None
) -> Convergence:
    """Wait until what visitors get at `revision` or later holds on every reachable node; return how far they have come.

    A node where the newest generation does not start counts as soon as it has applied the revision: see
    `note_not_starting`. `known_error` and what it raises are as in `wait_for_site`, the site's own failures alone.
    """
    deadline = time.monotonic() + seconds
    while True:
        state = _convergence(client, slug, deadline)
        if state["revision"] >= revision:
            if not state["error"] or state["error"] != known_error:
                _raise_if_job_failed(state, f"{slug} was not changed")
            if state["applied"]:
                return state
        if time.monotonic() >= deadline:
            raise StillWorking(
                f"The mode of {slug} does not hold everywhere after {seconds:g} s ({_summary(state)}). "
                "The platform goes on.",
                f"Look again with «tenantry site show {slug}», or «tenantry doctor».",
            )
        time.sleep(DECIDED_PAUSE_SECONDS)


def wait_until_gone(client: Client, slug: str, *, seconds: float, known_error: str | None = None) -> None:
    """Wait until nothing of a deleted site is left; `known_error` and what it raises are as in `wait_for_site`."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            state = _convergence(client, slug, deadline)
        except NotFound:
            return
        if state["error"] and state["error"] != known_error:
            raise WorkFailed(
                f"{slug} was not removed: {state['error']}",
                f"Mend the cause, then «tenantry site delete {slug}» again.",
            )
        if time.monotonic() >= deadline:
            raise StillWorking(
                f"{slug} is not gone yet after {seconds:g} s ({_summary(state)}). The platform goes on.",
                f"Look again with «tenantry site show {slug}».",
            )
        if state["error"]:
            time.sleep(DECIDED_PAUSE_SECONDS)


def note_unreachable(output: Output, unreachable: list[Unreachable]) -> None:
    """Name the nodes that were not waited for: they follow when they are back, and serve as before until then."""
    for one in unreachable:
        since = f"last heard of {ago(one['last_contact'])}" if one["last_contact"] else "never heard of"
        output.remark(f"note: {one['node']} is out of reach ({since}); it applies this when it is back.", "yellow")


def note_not_starting(output: Output, state: Convergence) -> None:
    """Name the nodes where the site's newest generation does not start: the one before serves, or none."""
    for node in reachable_nodes(state):
        if node["state"] == "failed":
            why = node["message"] or "no reason was reported"
            output.remark(
                f"note: the newest generation of {state['site']} does not start on {node['node']}: {why} "
                f"See «tenantry site logs {state['site']}».",
                "yellow",
            )


def reachable_nodes(state: Convergence) -> list[SiteOnNode]:
    """The nodes whose word is current."""
    silent = {one["node"] for one in state["unreachable"]}
    return [node for node in state["nodes"] if node["node"] not in silent]


def _is_served(state: Convergence) -> bool:
    nodes = reachable_nodes(state)
    return bool(nodes) and all(node["state"] == "serving" and not node["lag"] for node in nodes)


def _raise_if_job_failed(state: Convergence, act: str) -> None:
    if state["status"] == "failed":
        slug = state["site"]
        raise WorkFailed(
            f"{act or f'{slug} failed'}: {state['error'] or 'no reason was recorded'}",
            "The site goes on as it was."
            if act
            else f"Mend the cause, «tenantry site delete {slug}», create it again.",
            _log_of(state["nodes"]),
        )


def _raise_if_node_failed(state: Convergence) -> None:
    """Raise when a node tried the latest revision and could not serve it."""
    slug = state["site"]
    for node in reachable_nodes(state):
        if node["state"] == "failed" and not node["lag"]:
            raise WorkFailed(
                f"{slug} does not start on {node['node']}: {node['message'] or 'no reason was reported'}",
                f"See «tenantry site logs {slug}».",
                node["log"] or "",
            )


def wait_for_release(client: Client, name: str, output: Output, *, seconds: float) -> Release:
    """Wait until a release is built, showing each step as it goes on stderr; return the release.

    Raises `WorkFailed` with the step and the log's tail, `StillWorking` when the time is over.
    """
    deadline = time.monotonic() + seconds
    with _Steps(output) as steps:
        while True:
            release: Release = client.get(path("releases", name))
            steps.show(release["step"] if release["status"] == "building" else None, release["status"])
            if release["status"] in FINISHED:
                break
            if time.monotonic() >= deadline:
                raise StillWorking(
                    f"{name} is not built yet after {seconds:g} s. The platform goes on.",
                    f"Follow it with «tenantry release log {name} --follow».",
                )
            time.sleep(BUILD_POLL_SECONDS)
    if release["status"] == "failed":
        step = f" at «{release['step']}»" if release["step"] else ""
        raise WorkFailed(
            f"{name} was not built: it failed{step}: {release['error'] or 'no reason was recorded'}",
            f"Mend it, then «tenantry release build {release['project']}». The log: «tenantry release log {name}».",
            release["log_tail"] or "",
        )
    return release


class _Steps:
    """The steps of a build: a line when each ends, and a spinner for the present one where there is a terminal."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._live = sys.stderr.isatty() and not output.as_json
        self._status: Any = None
        self._step: str | None = None
        self._began = 0.0

    def __enter__(self) -> "_Steps":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._status is not None:
            self._status.stop()

    def show(self, step: str | None, status: str) -> None:
        """Say that the build is at `step` now; None when it is queued or over."""
        if step == self._step:
            return
        if self._step is not None:
            self._finish(good=status != "failed")
        self._step, self._began = step, time.monotonic()
        if step is not None and self._live:
            from rich.console import Console
            from rich.text import Text

            if self._status is None:
                console = Console(stderr=True, highlight=False, no_color=not wants_colour(sys.stderr) or None)
                self._status = console.status(Text(printable(step)))
                self._status.start()
            self._status.update(Text(printable(step)))

    def _finish(self, *, good: bool) -> None:
        if self._output.as_json:
            return
        mark = paint("✓", "green", sys.stderr) if good else paint("✗", "red", sys.stderr)
        duration = took(timedelta(seconds=time.monotonic() - self._began))
        if self._status is not None:
            self._status.stop()
        print(f"{mark} {printable(self._step)}  {paint(duration, 'dim', sys.stderr)}", file=sys.stderr, flush=True)
        if self._status is not None:
            self._status.start()


def stopwatch() -> Callable[[], timedelta]:
    """Start a clock; what is returned reads it."""
    began = time.monotonic()
    return lambda: timedelta(seconds=time.monotonic() - began)


def _convergence(client: Client, slug: str, deadline: float) -> Convergence:
    """Ask once, letting the server hold the answer until something changed or the time is over."""
    left = max(0, min(LONG_POLL_SECONDS, int(deadline - time.monotonic()) + 1))
    state: Convergence = client.get(path("sites", slug, "convergence"), {"wait": left}, patience=left)
    return state


def _summary(state: Convergence) -> str:
    """Which nodes have not come so far, and why."""
    words = [_lack(node, state["revision"]) for node in reachable_nodes(state)]
    lacking = [word for word in words if word] or ([] if words else ["no node is in contact"])
    words = [f"{one['node']} is out of reach" for one in state["unreachable"]]
    return "; ".join([f"status {state['status']}", *lacking, *words])


def _lack(node: SiteOnNode, revision: int) -> str:
    if not node["lag"] and node["state"] == "serving":
        return ""
    behind = f", at revision {node['revision']} of {revision}" if node["lag"] else ""
    message = f": {node['message']}" if node["message"] else ""
    return f"{node['node']} {node['state']}{behind}{message}"


def _log_of(nodes: list[SiteOnNode]) -> str:
    return next((node["log"] for node in nodes if node["log"]), None) or ""
