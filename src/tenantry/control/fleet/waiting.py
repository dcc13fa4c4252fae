"""Waiting until nodes have applied a revision: woken by what they report, never by a timer alone."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from tenantry.control.changelog import queries as changelog
from tenantry.control.changelog.feed import feed
from tenantry.control.changelog.services import ChangeType
from tenantry.control.database import in_database
from tenantry.control.fleet.queries import NodeView, Unreachable, nodes
from tenantry.control.fleet.verdicts import UNHEARD

RECHECK_SECONDS = 5.0  # in case that notifications do not come in


@dataclass(frozen=True, slots=True)
class NodeProgress:
    """How far a node in contact has come; `reasons` say what keeps it."""

    node: str
    revision: int
    applied: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Application:
    """How far the nodes have come with a revision. `converged`: there are reachable nodes, and all have applied it."""

    revision: int
    converged: bool
    nodes: tuple[NodeProgress, ...]
    unreachable: tuple[Unreachable, ...]


async def wait_until_applied(revision: int, wait_seconds: float) -> Application:
    """Return how far the nodes have come: once every reachable one has applied it, or after `wait_seconds`."""
    if wait_seconds <= 0:
        return await in_database(application, revision)
    deadline = time.monotonic() + wait_seconds
    async with feed().subscribe() as subscription:
        while True:
            state = await in_database(application, revision)
            left = deadline - time.monotonic()
            if state.converged or left <= 0:
                return state
            await subscription.next(min(left, RECHECK_SECONDS))


def application(revision: int) -> Application:
    """Return how far the nodes have come with `revision` of the present epoch."""
    epoch, _ = changelog.head()
    return applied(revision, str(epoch), nodes(), mode=changelog.type_of(revision) == ChangeType.SITE_MODE)


def applied(revision: int, epoch: str, found: Sequence[NodeView], *, mode: bool = False) -> Application:
    """PURE: the same from what is known of the nodes. `mode`: the revision is a change of a site's mode."""
    heard = [node for node in found if node.state not in UNHEARD]
    progress = tuple(_progress(node, revision, epoch, mode) for node in heard)
    return Application(
        revision=revision,
        converged=bool(progress) and all(one.applied for one in progress),
        nodes=progress,
        unreachable=tuple(Unreachable(node.name, node.last_contact) for node in found if node.state in UNHEARD),
    )


def _progress(node: NodeView, revision: int, epoch: str, mode: bool) -> NodeProgress:
    if mode and not node.knows_modes:  # it reports what it did not understand as applied
        return NodeProgress(node.name, node.revision, False, ("its agent is too old to know modes: upgrade it",))
    done = node.epoch == epoch and node.revision >= revision
    reasons = [] if node.epoch == epoch else ["it has not read the state of this epoch yet"]
    if not done:
        reasons += [f"{one.get('type')}: {one.get('message')}" for one in node.conditions if one.get("message")]
        if node.failed:
            reasons.append(f"{node.failed} of its sites failed")
    return NodeProgress(node.name, node.revision, done, tuple(reasons))
