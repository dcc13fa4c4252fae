"""PURE: what is said of nodes, and whether a revision is applied, from what they reported."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from tenantry.testing.control import prepare_django

prepare_django()

from tenantry.control.fleet.queries import NodeView  # noqa: E402
from tenantry.control.fleet.verdicts import agreements, verdicts  # noqa: E402
from tenantry.control.fleet.waiting import applied  # noqa: E402

EPOCH = "11111111-1111-1111-1111-111111111111"


def view(name: str, **different: Any) -> NodeView:
    """A node that is as it should be, but for what is `different`."""
    fields = {
        "name": name,
        "state": "ready",
        "last_contact": None,
        "epoch": EPOCH,
        "revision": 10,
        "lag": 0,
        "digest": "sha256x:aa",
        "conditions": [],
        "sites": 3,
        "failed": 0,
        "notifications": True,
        "drift_open": 0,
        "modes_ignored": 0,
        "knows_modes": True,
    }
    return cast(NodeView, SimpleNamespace(**fields | different))


def condition(kind: str, message: str = "why") -> dict[str, Any]:
    return {"type": kind, "status": True, "message": message}


def test_nodes_that_are_as_they_should_be_have_no_problems() -> None:
    found = verdicts([view("a"), view("b")], EPOCH)
    assert [(one.agrees, one.problems, one.notes) for one in found.values()] == [(True, (), ())] * 2


@pytest.mark.parametrize(
    ("digests", "expected"),
    [
        (["x"], [None]),
        (["x", "x"], [True, True]),
        (["x", "y"], [False, False]),
        (["x", "x", "y"], [True, True, False]),
        (["x", "y", "z"], [False, False, False]),
        (["x", "x", "y", "y"], [False, False, False, False]),
    ],
)
def test_a_majority_says_who_agrees_and_without_one_nobody_does(
    digests: list[str], expected: list[bool | None]
) -> None:
    nodes = [view(f"n{number}", digest=digest) for number, digest in enumerate(digests)]
    assert list(agreements(nodes, EPOCH).values()) == expected


@pytest.mark.parametrize("different", [{"lag": 1}, {"state": "silent"}, {"epoch": "other"}, {"state": "joining"}])
def test_a_node_that_has_not_applied_everything_is_not_compared(different: dict[str, Any]) -> None:
    nodes = [view("a"), view("b"), view("c", digest="other", **different)]
    assert agreements(nodes, EPOCH) == {"a": True, "b": True, "c": None}


@pytest.mark.parametrize(
    ("different", "word"),
    [
        ({"state": "joining"}, "has not made contact"),
        ({"state": "silent", "lag": 2}, "it was 2 revisions behind"),
        ({"lag": 1}, "is 1 revision behind."),
        ({"epoch": "other"}, "this epoch"),
        ({"digest": "other"}, "serves something else than the others at the same revision (b, c)"),
        ({"failed": 1}, "cannot serve 1 of 3 sites"),
        ({"drift_open": 2}, "has drifted in 2 places: see «tenantry node drift a»"),
        ({"conditions": [condition("MassRemovalRefused")]}, "reports MassRemovalRefused: why"),
    ],
)
def test_what_is_wrong_is_said_in_words(different: dict[str, Any], word: str) -> None:
    found = verdicts([view("a", **different), view("b"), view("c")], EPOCH)
    assert len(found["a"].problems) == 1
    assert word in found["a"].problems[0]
    assert found["b"].problems == ()


def test_what_keeps_nothing_from_being_applied_is_a_note() -> None:
    polling = view("a", notifications=False, conditions=[condition("ClockSkewed", "by 40 s")])
    drained = view("b", state="drained", conditions=[condition("Drained")])
    found = verdicts([polling, drained], EPOCH)
    assert found["a"].problems == found["b"].problems == ()
    assert [note.split(" ")[0] for note in found["a"].notes] == ["has", "polls"]
    assert "by 40 s" in found["a"].notes[0]
    assert found["b"].notes == ("is drained.",)
    told_once = verdicts([view("a", notifications=False, conditions=[condition("NotificationsNotArriving")])], EPOCH)
    assert len(told_once["a"].notes) == 1


def test_a_revision_is_applied_when_every_reachable_node_has_it() -> None:
    state = applied(10, EPOCH, [view("a"), view("b", revision=12), view("c", state="silent", revision=9)])
    assert state.converged
    assert [one.node for one in state.unreachable] == ["c"]
    behind = applied(10, EPOCH, [view("a"), view("b", revision=9, conditions=[condition("RemovalHeld", "1 site")])])
    assert not behind.converged
    assert [(one.applied, one.reasons) for one in behind.nodes] == [(True, ()), (False, ("RemovalHeld: 1 site",))]
    assert not applied(10, EPOCH, [view("a", epoch="other", revision=99)]).converged
    assert not applied(10, EPOCH, [view("a", state="silent")]).converged, "nobody said that it is applied"
    assert not applied(10, EPOCH, []).converged


def test_a_mode_is_not_believed_of_an_agent_that_knows_none() -> None:
    nodes = [view("old", knows_modes=False, modes_ignored=1), view("new")]
    state = applied(10, EPOCH, nodes, mode=True)
    assert (state.converged, [one.applied for one in state.nodes]) == (False, [False, True])
    assert state.nodes[0].reasons == ("its agent is too old to know modes: upgrade it",)
    assert applied(10, EPOCH, nodes).converged, "other changes are"
    assert "serves 1 site as live that should be in another mode" in verdicts(nodes, EPOCH)["old"].problems[0]
