"""`touch restart`: a site begins anew on this node, without a failed request, and the report says it."""

import json
import os
import time
from pathlib import Path

from node_lab import ASGI_APPLICATION, GRANIAN, Node, wait_until

from tenantry.node.answer import Entry, parse_entry
from tenantry.node.desired import DesiredState

SLUG = "blog"
RESTARTED = "blog: restarted on this node alone"


def pid_of(node: Node) -> int:
    return int(node.page(f"{SLUG}.localhost")["pid"])


def note(node: Node) -> str:
    report = node.last_report(SLUG)
    return str(report["message"]) if report else ""


def test_a_touch_begins_the_site_anew_within_a_second(serving: Node) -> None:
    revision = serving.put(serving.document(SLUG, 1, "demo-1"))
    serving.reported(SLUG, revision)
    before = pid_of(serving)
    place = serving.home / "run" / "sites" / SLUG / "restart"
    for number in (1, 2):  # the second comes while the first one's old process is still ending
        place.touch()
        touched = time.monotonic()
        wait_until(lambda n=number: serving.output("agent").count(RESTARTED) == n, what="the touch")
        noticed = time.monotonic() - touched
        wait_until(lambda old=before: pid_of(serving) != old, what="a new process")
        before = pid_of(serving)
        print(f"noticed within {noticed:.2f} s")
        wait_until(lambda: "run/sites/blog/restart was touched" in note(serving), what="the report")
    report = serving.reported(SLUG, revision)
    assert (report["generation"], report["revision"], report["state"]) == (1, revision, "serving")
    time.sleep(2)
    assert pid_of(serving) == before  # each touch counts once
    serving.stop("agent")
    serving.start_agent()
    time.sleep(2)
    assert pid_of(serving) == before  # also for an agent that did not see it
    revision = serving.put(serving.document(SLUG, 1, "demo-1", generation=2))
    assert serving.reported(SLUG, revision)["generation"] == 2
    assert pid_of(serving) != before
    assert serving.sql("SELECT report->'drift' FROM agent_v1.received WHERE report->'drift' <> '[]'") == []


def test_a_touch_begins_a_granian_site_anew_without_a_failed_request(serving: Node) -> None:
    serving.release("async-1", ASGI_APPLICATION)
    revision = serving.put(serving.document(SLUG, 1, "async-1", release_changes=GRANIAN, processes=2))
    serving.reported(SLUG, revision)
    old = os.readlink(serving.home / "run" / "sites" / SLUG / "app.http")
    before = {pid_of(serving) for _ in range(5)}
    (serving.home / "run" / "sites" / SLUG / "restart").touch()
    wait_until(lambda: pid_of(serving) not in before, what="a new process")
    wait_until(lambda: "run/sites/blog/restart was touched" in note(serving), what="the report")
    assert not before & {pid_of(serving) for _ in range(5)}
    assert os.readlink(serving.home / "run" / "sites" / SLUG / "app.http") != old
    report = serving.reported(SLUG, revision)
    assert (report["generation"], report["state"]) == (1, "serving")


def test_a_site_may_begin_itself_anew_and_a_failure_leaves_it_serving(serving: Node) -> None:
    fails = "import os\nif os.path.exists(os.environ['TMPDIR'] + '/broken'): raise RuntimeError('broken by now')\n"
    source = serving.home / "releases" / "demo-1" / "src" / "app.py"
    serving.release("fails-1", fails + source.read_text())
    revision = serving.put(serving.document(SLUG, 1, "fails-1"))
    serving.reported(SLUG, revision)
    before = pid_of(serving)
    (serving.home / "data" / SLUG / "tmp" / "broken").touch()
    (serving.home / "data" / SLUG / "home" / "restart").touch()
    report = serving.reported(SLUG, revision, "failed")
    assert "data/blog/home/restart was touched" in report["message"]
    assert "broken by now" in report["message"]
    assert report["generation"] == 1
    assert pid_of(serving) == before
    (serving.home / "data" / SLUG / "tmp" / "broken").unlink()
    (serving.home / "run" / "sites" / SLUG / "restart").touch()
    assert serving.reported(SLUG, revision)["generation"] == 1
    assert pid_of(serving) != before


def test_what_is_no_file_restarts_nothing(serving: Node) -> None:
    serving.reported(SLUG, serving.put(serving.document(SLUG, 1, "demo-1")))
    before = pid_of(serving)
    own = serving.home / "data" / SLUG / "home" / "restart"
    own.symlink_to("/etc/passwd")
    (Path(serving.home) / "data" / SLUG / "media" / "restart").touch()
    time.sleep(5)
    assert pid_of(serving) == before
    assert os.path.lexists(own)


def document(generation: int, revision: int, **changes: object) -> dict[str, object]:
    from node_lab import answered_site

    return answered_site(SLUG, revision, generation=generation, **changes)


def state_with(entry: Entry) -> DesiredState:
    from tenantry.node.desired import Head

    state = DesiredState()
    state.restore(Head("e", entry.revision), [entry])
    return state


def test_the_platforms_numbers_are_reported_whatever_was_touched() -> None:
    state = state_with(parse_entry(document(4, 7)))
    state.restart(parse_entry(document(4, 7)).slug, "touched")
    entry = state.restart(parse_entry(document(4, 7)).slug, "touched again")
    assert entry is not None
    assert entry.spec is not None
    assert (entry.spec.generation, entry.generation, entry.note) == (6, 4, "touched again")
    assert [entry.platform_number(n) for n in (6, 5, 4, 3)] == [4, 4, 4, 3]


def test_a_full_answer_does_not_undo_a_touch_and_a_newer_generation_follows_it() -> None:
    from tenantry.node.answer import parse_answer

    def answer(revision: int, site: dict[str, object]) -> object:
        return parse_answer(json.loads(json.dumps({"epoch": "e", "revision": revision, "full": True, "sites": [site]})))

    first = document(4, 7)
    state = state_with(parse_entry(first))
    slug = parse_entry(first).slug
    state.restart(slug, "touched")
    assert state.merge(answer(7, first)) == frozenset()  # type: ignore[arg-type]
    renamed = document(4, 8, hostnames=["other.localhost"])
    assert state.merge(answer(8, renamed)) == {slug}  # type: ignore[arg-type]
    entry = state.get(slug)
    assert entry is not None
    assert entry.spec is not None
    assert (entry.spec.generation, entry.note, entry.restarts) == (5, "", 1)
    state.merge(answer(9, document(5, 9)))  # type: ignore[arg-type]
    entry = state.get(slug)
    assert entry is not None
    assert entry.spec is not None
    assert (entry.spec.generation, entry.generation, entry.restarts) == (6, 5, 0)
    assert [entry.platform_number(n) for n in (6, 5)] == [5, 4]
