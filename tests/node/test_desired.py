"""Which answers of the database are accepted."""

import hashlib
from typing import Any

import pytest
from node_lab import answered_site as site

from tenantry.node.answer import Orders, parse_answer
from tenantry.node.desired import DesiredState, Head
from tenantry.node.errors import Refused
from tenantry.node.numbering import Leftover
from tenantry.spec.errors import InvalidDocument
from tenantry.spec.names import Slug


def answer(
    sites: list[dict[str, Any]], revision: int = 10, full: bool = True, epoch: str = "one", confirmed: str | None = None
) -> Any:
    node = {"name": "n", "draining": False, "confirmed": confirmed, "check": 0, "check_repair": False}
    return parse_answer({"epoch": epoch, "revision": revision, "full": full, "sites": sites, "node": node})


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


def test_an_epoch_that_was_left_is_never_followed_again() -> None:
    state = filled(2)
    state.merge(answer([site("site0", 11), site("site1", 11)], 11, epoch="two"))
    again = DesiredState()
    again.restore(state.head(), [state.get(slug) for slug in state.slugs()])  # type: ignore[arg-type,misc]
    for one in (state, again):
        for full in (True, False):
            with pytest.raises(Refused, match="left"):
                one.merge(answer([site("site0", 99, processes=2)], 99, full, epoch="one"))
        assert (one.epoch, one.revision, one.present()) == ("two", 11, {"site0", "site1"})
    state.merge(answer([site("site0", 5), site("site1", 5)], 5, epoch="three"))
    assert state.head() == Head("three", 5, left=("one", "two"))


def test_an_empty_state_is_refused() -> None:
    state = filled(1)
    assert state.merge(answer([], 11)) == frozenset()
    assert state.held.condition == "MassRemovalRefused"
    assert state.held.message.endswith(state.held.token)
    assert state.present() == {"site0"}


@pytest.mark.parametrize(("known", "left", "allowed"), [(20, 16, True), (20, 15, False), (8, 5, True), (8, 4, False)])
def test_an_answer_that_removes_too_much_is_refused(known: int, left: int, allowed: bool) -> None:
    state = filled(known)
    shrunken = answer([site(name) for name in names(left)], 11)
    if allowed:
        assert len(state.merge(shrunken)) == known - left
        assert state.present() == set(names(left))
    else:
        assert state.merge(shrunken) == frozenset()
        assert len(state.held.slugs) == known - left
        assert state.present() == set(names(known))


def test_orphans_on_the_node_count_as_removals() -> None:
    state = DesiredState()
    assert state.merge(answer([]), frozenset({Slug("orphan")})) == frozenset()
    assert state.held.slugs == {"orphan"}
    state = DesiredState()
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


def token(*slugs: str) -> str:
    return hashlib.sha256("\n".join(sorted(slugs)).encode()).hexdigest()[:8]


def test_what_else_a_refused_answer_says_is_applied() -> None:
    state = filled(8)
    changed = state.merge(answer([site("site0", 11, processes=2), site("fresh", 11)], 11))
    assert changed == {"site0", "fresh"}
    assert state.held.slugs == set(names(8)) - {"site0"}
    assert state.present() == {*names(8), "fresh"}


def test_a_person_confirms_exactly_the_removal_that_was_shown() -> None:
    state = filled(8)
    state.merge(answer([site("site0")], 11))
    held = state.held
    assert held.token == token(*names(8)[1:])
    state.merge(answer([site("site0")], 12, confirmed="00000000"))
    assert state.held == held
    confirmation = answer([], 13, full=False, confirmed=held.token)
    assert state.is_confirmed(confirmation)
    assert state.merge(confirmation) == frozenset()  # only a full answer can tell what is still gone
    gone = state.merge(answer([site("site0"), site("site1")], 13, confirmed=held.token))
    assert gone == frozenset(), "another removal than the one that was confirmed"
    state.merge(answer([site("site0")], 14))
    assert state.held == held, "one more is few, but not while others are held"
    assert len(state.merge(answer([site("site0")], 15, confirmed=held.token))) == 7
    assert state.held.slugs == frozenset()
    assert state.present() == {"site0"}


def test_held_sites_that_are_back_are_held_no_more() -> None:
    state = filled(8)
    state.merge(answer([], 11))
    state.merge(answer([site(name) for name in names(6)], 12))
    assert state.held.slugs == {"site6", "site7"}, "two are few, but nobody confirmed them"
    state.merge(answer([{"slug": "site6", "revision": 13, "present": False}], 13, full=False))
    assert state.held.slugs == {"site7"}
    assert "site6" not in state.present()
    state.merge(answer([site(name) for name in [*names(6), "site7"]], 14))
    assert not state.held.slugs


def test_sites_that_lose_all_hostnames_without_a_change_count_as_gone() -> None:
    state = filled(8)
    assert state.merge(answer([site(name, hostnames=[]) for name in names(8)], 11)) == frozenset()
    assert state.held.condition == "MassRemovalRefused"
    entry = state.get(Slug("site0"))
    assert entry is not None
    assert entry.spec is not None
    assert entry.spec.hostnames == ("site0.localhost",)
    changed = [site("site0", 12, hostnames=[]), *(site(name) for name in names(8)[1:])]
    assert state.merge(answer(changed, 12)) == {"site0"}


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_sites_do_not_lose_all_hostnames_either(count: int) -> None:
    state = filled(count)
    assert state.merge(answer([site(name, hostnames=[]) for name in names(count)], 11)) == frozenset()
    assert (state.held.condition, len(state.held.slugs)) == ("MassRemovalRefused", count)
    state.merge(answer([site(name) for name in names(count)], 11))
    assert not state.held.slugs
    changed = [site(name, 12, hostnames=[]) for name in names(count)]
    assert len(state.merge(answer(changed, 12))) == count, "each was changed by somebody"


def test_in_a_new_epoch_not_even_one_unnamed_site_is_removed() -> None:
    state = filled(20)
    changed = state.merge(answer([site(name, processes=2) for name in names(19)], 3, epoch="two"))
    assert len(changed) == 19
    assert (state.held.condition, state.held.slugs) == ("RemovalHeld", {"site19"})
    assert state.held.token == token("site19")
    for revision in (3, 4):  # the epoch is no longer new, and one site of twenty is few
        state.merge(answer([site(name, processes=2) for name in names(19)], revision, epoch="two"))
        assert state.held.slugs == {"site19"}
    head = state.head()
    assert head is not None
    again = DesiredState()
    again.restore(head, [state.get(slug) for slug in state.slugs()])  # type: ignore[misc]
    again.merge(answer([site(name, processes=2) for name in names(19)], 5, epoch="two"))
    assert again.held.slugs == {"site19"}, "forgotten by a restart"
    again.merge(answer([site(name, processes=2) for name in names(19)], 5, epoch="two", confirmed=token("site19")))
    assert "site19" not in again.present()


def hostnames(state: DesiredState, slug: str) -> tuple[str, ...]:
    entry = state.get(Slug(slug))
    assert entry is not None
    assert entry.spec is not None
    return entry.spec.hostnames


def test_in_a_new_epoch_no_site_loses_all_hostnames_without_a_change_of_its_own() -> None:
    state = filled(8)
    restored = [site("site0", hostnames=[]), *(site(name, 2) for name in names(8)[1:])]
    state.merge(answer(restored, 3, epoch="two"))
    assert (state.held.condition, state.held.slugs) == ("RemovalHeld", {"site0"})
    assert hostnames(state, "site0") == ("site0.localhost",)
    state.merge(answer(restored, 4, epoch="two"))
    assert hostnames(state, "site0") == ("site0.localhost",), "the epoch is no longer new"
    state.merge(answer([site("site0", 5, hostnames=[])], 5, full=False, epoch="two"))
    assert hostnames(state, "site0") == (), "somebody changed it"
    assert not state.held.slugs


@pytest.mark.parametrize("count", [1, 8])
def test_a_new_epoch_without_any_hostname_is_not_believed_whatever_its_revisions_say(count: int) -> None:
    state = filled(count)
    emptied = [site(name, 20, hostnames=[]) for name in names(count)]
    for revision in (20, 21):
        state.merge(answer(emptied, revision, epoch="two"))
        assert (state.held.condition, state.held.slugs) == ("RemovalHeld", set(names(count)))
        assert all(hostnames(state, name) for name in names(count))
    state.merge(answer(emptied, 22, epoch="two", confirmed=token(*names(count))))
    assert not any(hostnames(state, name) for name in names(count))


def generation(state: DesiredState, slug: str = "blog") -> tuple[int, int]:
    """The node's number and the platform's."""
    entry = state.get(Slug(slug))
    assert entry is not None
    assert entry.spec is not None
    return entry.spec.generation, entry.generation


def here(highest: int, *same: int) -> Any:
    return lambda spec: Leftover(highest, spec.generation in same)


def test_a_lower_generation_of_a_new_epoch_gets_a_number_that_was_never_used() -> None:
    state = DesiredState()
    state.merge(answer([site("blog", 50, generation=5)], 50))
    state.merge(answer([site("blog", 2, generation=3)], 2, epoch="two"), frozenset({Slug("blog")}), here(5))
    assert generation(state) == (6, 3)
    state.merge(answer([site("blog", 4, generation=5)], 4, full=False, epoch="two"))
    assert generation(state) == (8, 5), "5 means something else on this node"


def test_the_same_generation_with_other_contents_is_another_one() -> None:
    state = DesiredState()
    state.merge(answer([site("blog", 50, generation=5)], 50))
    state.merge(answer([site("blog", 9, generation=5, processes=2)], 9, epoch="two"), frozenset(), here(5))
    assert generation(state) == (6, 5)


def test_a_site_that_is_the_same_in_the_new_epoch_keeps_its_processes() -> None:
    state = DesiredState()
    state.merge(answer([site("blog", 50, generation=5)], 50))
    moved = site("blog", 9, generation=5, hostnames=["moved.localhost"], mode="maintenance", health_path="/ok")
    state.merge(answer([moved], 9, epoch="two"), frozenset(), here(5))
    assert generation(state) == (5, 5)
    resealed = moved | {"sealed": "by another key"}
    state.merge(answer([resealed], 9, epoch="three"), frozenset(), here(5, 5))
    assert generation(state) == (5, 5), "its secrets are the same, only sealed anew"
    state.merge(answer([resealed | {"sealed": "other secrets"}], 9, epoch="four"), frozenset(), here(5))
    assert generation(state) == (6, 5)


def test_numbers_also_pass_what_was_never_remembered() -> None:
    state = DesiredState()
    state.merge(answer([site("blog", 50, generation=5)], 50))
    state.merge(answer([site("blog", 2, generation=3)], 2, epoch="two"), frozenset(), here(7))
    assert generation(state) == (8, 3)


@pytest.mark.parametrize(
    ("found", "expected"),
    [(here(0), 3), (here(2), 3), (here(3, 3), 3), (here(3), 4), (here(6, 6), 6), (here(6), 7)],
)
def test_without_a_memory_what_is_found_is_kept_if_it_is_what_is_wanted(found: Any, expected: int) -> None:
    state = DesiredState()
    state.merge(answer([site("blog", 50, generation=3)], 50), frozenset({Slug("blog")}), found)
    assert generation(state) == (expected, 3)


def test_what_was_never_remembered_is_taken_away_first_if_it_is_another_sites() -> None:
    state, slug = DesiredState(), Slug("blog")
    wanted = site("blog", 50, number=7, database="site_7", generation=1)
    state.merge(answer([wanted], 50), frozenset({slug}), lambda spec: Leftover(1, False, 6))
    entry = state.get(slug)
    assert entry is not None
    assert (entry.spec, entry.number) == (None, 6)
    successor = state.forget(slug)
    assert successor is not None
    assert successor.spec is not None
    assert successor.spec.number == 7
    own = DesiredState()
    own.merge(answer([wanted], 50), frozenset({slug}), lambda spec: Leftover(1, True, 7))
    assert generation(own) == (1, 1)


def test_another_site_of_the_same_name_waits_until_the_former_is_gone() -> None:
    state = filled(1)
    slug = Slug("site0")
    assert state.merge(answer([site("site0", 11, number=7, database="site_7")], 11, full=False)) == {slug}
    entry = state.get(slug)
    assert entry is not None
    assert entry.spec is None
    assert state.merge(answer([site("site0", 11, number=7, database="site_7")], 12)) == frozenset()
    successor = state.forget(slug)
    assert successor is not None
    assert successor.spec is not None
    assert successor.spec.number == 7
    assert state.get(slug) is successor
    state.merge(answer([site("site0", 13, number=8, database="site_8")], 13, full=False))
    state.merge(answer([{"slug": "site0", "revision": 14, "present": False}], 14, full=False))
    assert state.forget(slug) is None, "it was deleted while it waited"


def test_orders_are_read_and_their_absence_is_an_older_control() -> None:
    assert answer([], confirmed="abc").orders == Orders(False, "abc", 0, False)
    assert parse_answer({"epoch": "e", "revision": 1, "full": True, "sites": []}).orders is None


def test_nothing_accepted_is_nothing_to_remember() -> None:
    state = DesiredState()
    assert state.head() is None
    state.merge(answer([site("blog")]))
    assert state.head() == Head("one", 10)
