"""The work queue, under a clock that only the test moves."""

from tenantry.node.workqueue import FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS, WorkQueue


def queue_without_jitter() -> WorkQueue[str]:
    return WorkQueue(jitter=lambda: 0.0)


def drain(queue: WorkQueue[str], now: float = 0.0) -> list[str]:
    taken = []
    while (key := queue.take(now)) is not None:
        taken.append(key)
    return taken


def test_a_key_added_many_times_comes_once() -> None:
    queue = queue_without_jitter()
    for key in ("a", "b", "a", "a"):
        queue.add(key)
    assert drain(queue) == ["a", "b"]


def test_a_key_is_never_worked_on_twice_at_the_same_time() -> None:
    queue = queue_without_jitter()
    queue.add("a")
    assert queue.take(0.0) == "a"
    queue.add("a")
    assert queue.take(0.0) is None
    queue.finish("a")
    assert queue.take(0.0) == "a"


def test_failures_come_later_and_later_and_only_for_their_key() -> None:
    queue = queue_without_jitter()
    now = 0.0
    delays = []
    queue.add("poisoned")
    for _ in range(12):
        assert queue.take(now) == "poisoned"
        delays.append(queue.fail("poisoned", now))
        queue.add("healthy")
        assert queue.take(now) == "healthy"
        queue.finish("healthy")
        assert queue.take(now) is None
        due = queue.next_due()
        assert due is not None
        now = due
    assert delays[:4] == [FIRST_RETRY_SECONDS * factor for factor in (1, 2, 4, 8)]
    assert delays[-1] == LAST_RETRY_SECONDS


def test_success_forgets_failures() -> None:
    queue = queue_without_jitter()
    queue.add("a")
    queue.take(0.0)
    queue.fail("a", 0.0)
    assert queue.take(1.0) == "a"
    queue.finish("a")
    queue.add("a")
    queue.take(2.0)
    assert queue.fail("a", 2.0) == FIRST_RETRY_SECONDS


def test_a_change_overrides_a_waiting_retry() -> None:
    queue = queue_without_jitter()
    queue.add("a")
    queue.take(0.0)
    queue.fail("a", 0.0)
    queue.add("a")
    assert queue.take(0.0) == "a"
    queue.finish("a")
    assert queue.next_due() is None


def test_a_change_during_failing_work_comes_at_once() -> None:
    queue = queue_without_jitter()
    queue.add("a")
    queue.take(0.0)
    queue.add("a")
    queue.fail("a", 0.0)
    assert queue.take(0.0) == "a"


def test_the_earlier_of_two_times_counts() -> None:
    queue = queue_without_jitter()
    queue.add_at("a", 5.0)
    queue.add_at("a", 2.0)
    queue.add_at("a", 9.0)
    assert queue.next_due() == 2.0
    assert drain(queue, 1.9) == []
    assert drain(queue, 2.0) == ["a"]
    queue.finish("a")
    assert drain(queue, 100.0) == []


def test_jitter_only_shortens() -> None:
    queue: WorkQueue[str] = WorkQueue(jitter=lambda: 1.0)
    queue.add("a")
    queue.take(0.0)
    assert queue.fail("a", 0.0) == FIRST_RETRY_SECONDS * 0.75
