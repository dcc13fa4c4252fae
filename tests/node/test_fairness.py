"""Who gives way to the others, with a machine whose answers are chosen. With a real one: test_limits.py."""

import asyncio

import pytest

from tenantry.node.fairness import FairShare, take_much


@pytest.mark.parametrize(
    ("rates", "processors", "expected"),
    [
        ({"greedy.1": 1.0, "quiet.1": 0.06, "other.1": 0.0}, 2, {"greedy.1"}),
        ({"greedy.1": 0.5, "quiet.1": 0.06}, 2, set()),  # a quarter of the processors is nobody's loss
        ({"greedy.1": 4.0, "quiet.1": 0.1}, 64, set()),
        ({"alone.1": 2.0}, 2, set()),
        ({"alone.1": 2.0, "unvisited.1": 0.001}, 2, set()),
        ({}, 2, set()),
        ({"a.1": 0.7, "b.1": 0.6, "c.1": 0.65}, 2, set()),  # they compete, and none is starved
        ({"a.1": 0.7, "b.1": 0.6, "c.1": 0.02}, 2, {"a.1", "b.1"}),  # together
        ({"a.1": 1.0, "b.1": 0.45, "c.1": 0.45, "d.1": 0.2}, 2, set()),  # little would be left for it
        ({"a.1": 1.0, "middle.1": 0.4, "quiet.1": 0.02}, 2, {"a.1"}),
        ({"a.1": 1.0, "middle.1": 0.55, "quiet.1": 0.02}, 2, {"a.1", "middle.1"}),
        ({"a.1": 0.3, "b.1": 0.02}, 1, {"a.1"}),
    ],
)
def test_who_takes_much_is_told_from_those_who_take_less(
    rates: dict[str, float], processors: int, expected: set[str]
) -> None:
    assert take_much(rates, rates, processors) == expected


class Machine:
    """Two processors, whose time is added to by hand."""

    def __init__(self) -> None:
        self.times: dict[str, float] = {}
        self.giving: frozenset[str] = frozenset()
        self.looks = 0
        self.counts = True
        self.can = True
        self.hidden = False

    def used_by_all(self) -> float | None:
        return sum(self.times.values()) if self.counts else None

    def used(self) -> dict[str, float]:
        self.looks += 1
        return {} if self.hidden else dict(self.times)

    def give_way(self, names: frozenset[str]) -> frozenset[str]:
        self.giving = names if self.can else frozenset()
        return self.giving


class Trial:
    """One who looks, and a clock that is set."""

    def __init__(self) -> None:
        self.machine = Machine()
        self.now = 1000.0
        self.share = FairShare(self.machine, 2, clock=lambda: self.now)

    def second(self, **rates: float) -> frozenset[str]:
        """A second in which the sites take so much; returns who gives way then."""
        self.now += 1
        for slug, rate in rates.items():
            self.machine.times[f"{slug}.1"] = self.machine.times.get(f"{slug}.1", 0.0) + rate
        self.share.round()
        return self.machine.giving


def test_a_site_gives_way_while_it_takes_much() -> None:
    trial = Trial()
    trial.second(greedy=50.0, quiet=0.1)  # what was before it looked counts for nothing
    trial.second(greedy=1.0, quiet=0.1)
    assert trial.second(greedy=1.0, quiet=0.1) == {"greedy.1"}
    for _ in range(30):
        trial.second(greedy=0.1, quiet=0.1)
    assert trial.machine.giving == frozenset()


def test_a_site_that_is_put_behind_is_known_to_want_more() -> None:
    """Else the two would take turns, and each would hang half of the time."""
    trial = Trial()
    for _ in range(3):
        trial.second(first=1.9, quiet=0.05, later=0.0)
    assert trial.machine.giving == {"first.1"}
    assert trial.second(first=0.01, later=1.9, quiet=0.05) == frozenset()
    for _ in range(9):
        assert trial.second(first=0.95, later=0.95, quiet=0.05) == frozenset()
    assert trial.second(first=0.95, later=0.95, quiet=0.05) == {"first.1", "later.1"}


def served(demands: dict[str, float], giving: frozenset[str]) -> dict[str, float]:
    """What each gets of two processors in a second: equal parts, no more than it asks for, and who gives way last."""
    left, got = 2.0, dict.fromkeys(demands, 0.0)
    for behind in (False, True):
        hungry = {name for name in demands if (f"{name}.1" in giving) == behind}
        while hungry and left > 1e-9:
            part = left / len(hungry)
            for name in list(hungry):
                taken = min(part, demands[name] - got[name])
                got[name] += taken
                left -= taken
                if demands[name] - got[name] < 1e-9:
                    hungry.remove(name)
    return got


@pytest.mark.parametrize(
    "others",
    [
        {"b": 2.0},
        {"b": 2.0, "c": 2.0},
        {"b": 1.0, "c": 0.6, "d": 0.3},
        {"b": 0.49, "c": 0.49, "d": 0.49, "e": 0.49},
        {"b": 0.9, "c": 0.04},
    ],
)
def test_nobody_is_starved_whenever_the_others_come(others: dict[str, float]) -> None:
    """From the second look after they came on, everybody has most of a fair part, or of what it asks for."""
    trial = Trial()
    giving: frozenset[str] = frozenset()
    for _ in range(5):
        giving = trial.second(**served({"a": 2.0, "quiet": 0.06, **dict.fromkeys(others, 0.0)}, giving))
    assert giving == {"a.1"}
    everybody = {"a": 2.0, "quiet": 0.06, **others}
    fair = served(everybody, frozenset())
    for number in range(40):
        got = served(everybody, giving)
        giving = trial.second(**got)
        assert number < 2 or all(got[name] > 0.6 * fair[name] for name in everybody), (number, got, giving)


@pytest.mark.parametrize("count", [1, 2, 8])
def test_ever_new_greedy_sites_do_not_starve_one_that_gives_way(count: int) -> None:
    """Each takes all from one look until the next, when it is known and another one follows; again after a while."""
    machine, now = Machine(), 1000.0
    share = FairShare(machine, 2, clock=lambda: now)
    hostile = [f"hostile{number}" for number in range(count)]
    machine.times = {f"{name}.1": 0.0 for name in ("victim", "quiet", *hostile)}
    hung = longest = running = 0
    for step in range(1, 1200):  # tenths of a second
        look, phase = divmod(step, 5)
        demands = {"victim": 0.2, "quiet": 0.006}
        turn = (look - 10) % (count + 24)
        if step > 50 and turn < count:
            demands[hostile[turn]] = 0.2
        for name, part in served({n: d * 10 for n, d in demands.items()}, machine.giving).items():
            machine.times[f"{name}.1"] += part / 10
            if name == "victim":
                running = running + 1 if part < 0.1 else 0
                hung, longest = hung + (running > 0), max(longest, running)
        now += 0.1
        if phase == 4:
            share.round()
    assert longest <= 8, "tenths of a second"
    assert hung < 60, "of 1200"


def test_while_little_is_taken_no_site_is_looked_at() -> None:
    trial = Trial()
    for _ in range(5):
        assert trial.second(greedy=0.2, quiet=0.1) == frozenset()
    assert trial.machine.looks == 0


def test_a_generation_that_came_meanwhile_is_known_at_once() -> None:
    trial = Trial()
    for _ in range(3):
        trial.second(quiet=0.6)
    assert trial.second(greedy=1.5, quiet=0.1) == {"greedy.1"}


def test_while_one_is_not_counted_nobody_gives_way_and_nothing_is_forgotten() -> None:
    trial = Trial()
    for _ in range(3):
        trial.second(greedy=1.5, quiet=0.1)
    assert trial.machine.giving == {"greedy.1"}
    trial.machine.hidden = True
    assert trial.second(greedy=1.5, quiet=0.1) == frozenset()
    trial.machine.hidden = False
    assert trial.second(greedy=1.5, quiet=0.1) == {"greedy.1"}


def test_a_machine_that_counts_nothing_or_cannot_have_anybody_give_way_goes_on() -> None:
    trial = Trial()
    trial.machine.counts = False
    for _ in range(3):
        assert trial.second(greedy=2.0, quiet=0.1) == frozenset()
    trial.machine.counts, trial.machine.can = True, False
    for _ in range(3):
        assert trial.second(greedy=2.0, quiet=0.1) == frozenset()
    trial.machine.can = True
    assert trial.second(greedy=2.0, quiet=0.1) == {"greedy.1"}


def test_without_the_agent_nobody_gives_way() -> None:
    trial = Trial()
    for _ in range(3):
        trial.second(greedy=1.0, quiet=0.1)
    assert trial.machine.giving

    async def end() -> None:
        task = asyncio.create_task(trial.share.run())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(end())
    assert not trial.machine.giving
