"""Random damage to a node: all of it is found and repaired, and the neighbours' visitors see nothing."""

import statistics
import time

import pytest
from node_lab import Node
from stress_mutations import Mutation, Mutator
from stress_world import Visitors, World

FOUND_SECONDS = 60.0  # promised, from the damage
REPAIRED_SECONDS = 10.0  # promised, from the finding
SPREAD_SECONDS = 8.0  # of one batch's damages
GIVEN_UP_SECONDS = 90.0
AWAKE_SECONDS = 3_600  # what sleeps has other files than before the damage
DAMAGED_PART = 0.5  # of the sites, in one batch


def damage(world: World, visitors: Visitors, mutator: Mutator, count: int) -> list[Mutation]:
    """Do `count` damages within a few seconds, wait until all are undone; returns them with their times."""
    slugs = world.random.sample(sorted(world.documents), count + 1)
    other = slugs.pop()
    done: list[Mutation] = []
    for slug in slugs:
        time.sleep(world.random.random() * SPREAD_SECONDS * 2 / count)
        if world.random.random() < 0.15 and not any(mutation.slug is None for mutation in done):
            done.append(mutator.of_node())
        else:
            visitors.excused[slug] = float("inf")
            done.append(mutator.of_site(slug, other))
    deadline = time.monotonic() + GIVEN_UP_SECONDS
    while any(mutation.undone_at is None for mutation in done) and time.monotonic() < deadline:
        for mutation in done:
            if mutation.undone_at is None and mutation.whole():
                mutation.undone_at = time.time()
        time.sleep(0.25)
    time.sleep(1.0)  # the report comes after the repair
    for mutation in done:
        if mutation.undone_at is not None and mutation.slug is not None:
            visitors.excused.pop(mutation.slug, None)
    _note_reports(world, done)
    return done


def _note_reports(world: World, done: list[Mutation]) -> None:
    """Note when the node says that it found and repaired each damage."""
    drifts = world.drifts()
    for mutation in done:
        path = str(mutation.path.relative_to(world.node.home))
        for drift in drifts:
            same = drift["path"] == path or (mutation.slug is not None and drift["site"] == mutation.slug)
            if same and drift["found"] > mutation.at - 0.1:
                mutation.found = min(mutation.found or drift["found"], drift["found"])
                mutation.repaired = max(mutation.repaired or 0.0, drift["repaired"] or 0.0) or None


def judge(node: Node, sites: int, count: int) -> None:
    world = World(node, sites, seed=count, idle_seconds=AWAKE_SECONDS)
    world.start()
    mutator = Mutator(world, seed=count)
    batch = max(1, int(sites * DAMAGED_PART))
    done: list[Mutation] = []
    with Visitors(world) as visitors:
        while len(done) < count:
            done += damage(world, visitors, mutator, min(batch, count - len(done)))
    _say(done, visitors, sites)
    assert [mutation.name for mutation in done if mutation.undone_at is None] == []
    late = [m.name for m in done if m.found is not None and m.found - m.at > FOUND_SECONDS]
    assert late == []
    slow = [m.name for m in done if m.found and m.repaired and m.repaired - m.found > REPAIRED_SECONDS]
    assert slow == []
    assert [mutation.name for mutation in done if mutation.found is None and not is_by_others(mutation)] == []
    assert not visitors.failures
    assert world.wrong_answers() == []


def is_by_others(mutation: Mutation) -> bool:
    """Whether somebody other than the check may have undone it first, without a note.

    The emperor starts processes that ended; what is named like a site nobody wants is the rest of one, and taken away
    as such; the agent writes the head that it remembers whenever it has read something, with its right mode.
    """
    rest = mutation.slug is None and mutation.path.parent.name in ("sites", "hosts", "vassals")
    return mutation.name == "kill process" or rest or mutation.path.name == "head.json"


def _say(done: list[Mutation], visitors: Visitors, sites: int) -> None:
    found = [mutation.found - mutation.at for mutation in done if mutation.found]
    took = [m.repaired - m.found for m in done if m.found and m.repaired]
    undone = [mutation.undone_at - mutation.at for mutation in done if mutation.undone_at]
    print(
        f"{len(done)} mutations of {sites} sites: {len(undone)} undone, at most {max(undone, default=0):.1f} s after "
        f"the damage; {len(found)} found by the check after at most {max(found, default=0):.1f} s (median "
        f"{statistics.median(found):.1f} s), repaired at most {max(took, default=0):.1f} s later; {visitors.visits} "
        f"visits, {sum(visitors.failures.values())} failed"
    )
    for mutation in done:
        if mutation.undone_at is None or (mutation.found is None and not is_by_others(mutation)):
            state = "not undone" if mutation.undone_at is None else "undone, but not reported"
            print(f"  {state}: {mutation.name} of {mutation.slug} ({mutation.path})")
    for failure, number in visitors.failures.most_common(10):
        print(f"  visitors: {number} times {failure}")
    for slug, moment in visitors.failed_at[:10]:
        for mutation in done:
            if mutation.slug == slug:
                print(f"  {slug} failed {moment - mutation.at:.1f} s after: {mutation}")


@pytest.mark.timeout(420)
def test_20_mutations(node: Node) -> None:
    judge(node, 50, 20)


@pytest.mark.long
@pytest.mark.timeout(5_400)
def test_1000_mutations(node: Node) -> None:
    judge(node, 100, 1_000)
