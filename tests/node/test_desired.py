"""Which answers of the database are accepted."""

from typing import Any

import pytest

from tenantry.node.desired import DesiredState, parse_answer
from tenantry.node.errors import Refused
from tenantry.spec.errors import InvalidDocument
from tenantry.spec.names import Slug


def site(slug: str, revision: int = 1, **changes: Any) -> dict[str, Any]:
    return {
        "slug": slug, "number": 1, "project_number": 1, "revision": revision, "present": True, "generation": 1,
        "mode": "live", "runtime": "always_on", "processes": 1, "threads": 1,
        "release": {"name": "demo-1", "digest": "d", "wsgi": "a:b", "settings": "s", "manage": "manage.py",
                    "static": None, "serve_media": False},
        "health_path": "/", "hostnames": [f"{slug}.localhost"], "database": "site_1", "sealed": "",
    } | changes  # fmt: skip


def answer(sites: list[dict[str, Any]], revision: int = 10, full: bool = True, epoch: str = "one") -> Any:
    return parse_answer({"epoch": epoch, "revision": revision, "full": full, "sites": sites})


def names(count: int) -> list[str]:
    return [f"site{number}" for number in range(count)]


def filled(count: int) -> DesiredState:
    state = DesiredState()
    state.merge(answer([site(name) for name in names(count)]))
    return state


def test_only_what_changed_is_named() -> None:
    state = filled(3)
    assert state.merge(answer([site("site1", 11, processes=2)], 11, full=False)) == {"site1"}
    assert state.merge(answer([site("site1", 11, processes=2)], 11, full=False)) == frozenset()


def test_a_lower_revision_of_the_same_epoch_is_refused() -> None:
    state = filled(1)
    with pytest.raises(Refused, match="revision 9"):
        state.merge(answer([], 9, full=False))
    assert state.revision == 10


def test_a_new_epoch_is_taken_from_a_full_answer_only() -> None:
    state = filled(2)
    with pytest.raises(Refused):
        state.merge(answer([site("site0", 2)], 2, full=False, epoch="two"))
    state.merge(answer([site("site0", 2), site("site1", 2)], 2, epoch="two"))
    assert (state.epoch, state.revision) == ("two", 2)


def test_an_empty_state_is_refused() -> None:
    state = filled(1)
    with pytest.raises(Refused) as refused:
        state.merge(answer([], 11))
    assert refused.value.condition == "MassRemovalRefused"
    assert state.present() == {"site0"}


@pytest.mark.parametrize(("known", "left", "allowed"), [(20, 16, True), (20, 15, False), (8, 5, True), (8, 4, False)])
def test_an_answer_that_removes_too_much_is_refused(known: int, left: int, allowed: bool) -> None:
    state = filled(known)
    shrunken = answer([site(name) for name in names(left)], 11)
    if allowed:
        assert len(state.merge(shrunken)) == known - left
        assert state.present() == set(names(left))
    else:
        with pytest.raises(Refused):
            state.merge(shrunken)
        assert state.present() == set(names(known))


def test_orphans_on_the_node_count_as_removals() -> None:
    state = DesiredState()
    with pytest.raises(Refused):
        state.merge(answer([]), frozenset({Slug("orphan")}))
    assert state.merge(answer([site("blog")]), frozenset({Slug("orphan"), Slug("blog")})) == {"blog", "orphan"}
    orphan = state.get(Slug("orphan"))
    assert orphan is not None
    assert orphan.spec is None


def test_named_removals_are_always_taken() -> None:
    state = filled(10)
    gone = [{"slug": name, "revision": 11, "present": False} for name in names(10)]
    assert len(state.merge(answer(gone, 11, full=False))) == 10
    assert state.present() == frozenset()
    for name in names(10):
        state.forget(Slug(name))
    assert state.merge(answer([], 12)) == frozenset()


def test_an_unusable_site_keeps_its_last_good_state_and_spoils_no_other() -> None:
    state = filled(2)
    changed = state.merge(answer([site("site0", 11, generation="2; }"), site("site1", 11)], 11))
    assert changed == {"site0", "site1"}
    entry = state.get(Slug("site0"))
    assert entry is not None
    assert entry.spec is not None
    assert entry.spec.generation == 1
    assert "generation" in (entry.problem or "")


@pytest.mark.parametrize("document", [None, {}, {"epoch": "e", "revision": "x", "full": 1, "sites": []}, {"sites": 3}])
def test_an_unusable_answer_is_an_error(document: Any) -> None:
    with pytest.raises(InvalidDocument):
        parse_answer(document)


CRAFTED = ['"; }', "a\nb", "@(exec://id)", "$(HOME)", "../x", "a;b.localhost", "%2e%2e", "A", "x" * 300, "ünï"]


@pytest.mark.parametrize("text", CRAFTED)
def test_crafted_names_never_become_a_spec(text: str) -> None:
    state = filled(1)
    unnamed = answer([site(text)], 11)
    assert unnamed.entries == ()
    assert unnamed.unusable
    assert state.merge(unnamed) == frozenset()  # a site that cannot be named does not look removed
    for key, value in (("hostnames", [text]), ("release", {**site("a")["release"], "name": text})):
        entry = answer([site("blog", **{key: value})]).entries[0]
        if text != "A" or key == "release":  # a hostname is lowercased, and needs two labels
            assert entry.spec is None
