"""PURE: whether nodes are as they should be, from what they said: for `tenantry status`, the API and the dashboard."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tenantry.control.fleet.queries import NodeView

UNHEARD = ("joining", "silent")
# Conditions that a person should know of and that keep nothing from being applied.
HARMLESS = {
    "Drained": "",
    "NotificationsNotArriving": "polls for changes: notifications do not reach it",
    "LimitsNotEnforced": "cannot hold every site to its limits",
    "DiskLimitReached": "has sites that used up their disk space",
    "MemoryLimitReached": "has sites that reached their limit of memory",
    "ClockSkewed": "has another time than the database",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """`agrees`: whether the node serves what most nodes at the latest revision do; None when it cannot be compared.
    `problems` are empty when it is as it should be; `notes` are what a person should know all the same. Both are
    words to be put behind the node's name."""

    agrees: bool | None
    problems: tuple[str, ...]
    notes: tuple[str, ...]


def verdicts(nodes: "Sequence[NodeView]", epoch: str) -> dict[str, Verdict]:
    """Return a verdict on each node of the whole fleet, by name. `epoch` is the database's."""
    agreement = agreements(nodes, epoch)
    return {node.name: Verdict(agreement[node.name], _problems(node, epoch, agreement), _notes(node)) for node in nodes}


def agreements(nodes: "Sequence[NodeView]", epoch: str) -> dict[str, bool | None]:
    """Return for each node whether its digest is that of more than half of the nodes that have applied everything.

    Without such a majority none of them agrees: which one is right cannot be told.
    """
    comparable = [node for node in nodes if node.state not in UNHEARD and node.epoch == epoch and not node.lag]
    if len(comparable) < 2:
        return {node.name: None for node in nodes}
    digest, count = Counter(node.digest for node in comparable).most_common(1)[0]
    common = digest if 2 * count > len(comparable) else None
    compared = {node.name: node.digest == common for node in comparable}
    return {node.name: compared.get(node.name) for node in nodes}


def _problems(node: "NodeView", epoch: str, agreement: dict[str, bool | None]) -> tuple[str, ...]:
    """Why the node is not as it should be; the first reason alone when nobody hears it."""
    if node.state == "joining":
        return ("has not made contact since it joined: is its agent running?",)
    if node.state == "silent":
        behind = f"; it was {node.lag} {_plural(node.lag, 'revision')} behind" if node.lag else ""
        return (f"is silent: nothing was heard of it for more than 15 s{behind}. See logs/agent.log there.",)
    found: list[str] = []
    if node.epoch != epoch:
        found.append("has not read the state of this epoch yet.")
    elif node.lag:
        found.append(f"is {node.lag} {_plural(node.lag, 'revision')} behind.")
    if agreement[node.name] is False:
        others = ", ".join(name for name, agrees in agreement.items() if agrees is not None and name != node.name)
        found.append(f"serves something else than the others at the same revision ({others}).")
    if node.failed:
        found.append(f"cannot serve {node.failed} of {node.sites} sites: see «tenantry site list».")
    if node.modes_ignored:
        sites = f"{node.modes_ignored} {_plural(node.modes_ignored, 'site')}"
        found.append(f"serves {sites} as live that should be in another mode: its agent is too old. Upgrade it.")
    if node.drift_open:
        places = f"{node.drift_open} {_plural(node.drift_open, 'place')}"
        found.append(f"has drifted in {places}: see «tenantry node drift {node.name}».")
    for condition in node.conditions:
        kind = str(condition.get("type", ""))
        if kind not in HARMLESS and condition.get("status", True):
            found.append(f"reports {kind}: {condition.get('message') or 'no message'}")
    return tuple(found)


def _notes(node: "NodeView") -> tuple[str, ...]:
    found = [f"is {node.state}."] if node.state in ("draining", "drained") else []
    kinds = {str(condition.get("type", "")): condition for condition in node.conditions}
    for kind, words in HARMLESS.items():
        if words and kind in kinds:
            message = kinds[kind].get("message")
            found.append(f"{words} ({message})" if message else f"{words}.")
    if node.notifications is False and "NotificationsNotArriving" not in kinds:
        found.append("polls for changes: notifications do not reach it.")
    return tuple(found)


def _plural(count: int, word: str) -> str:
    return word if count == 1 else f"{word}s"
