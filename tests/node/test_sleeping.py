"""Sites that sleep: a process only while somebody visits, and not one lost request."""

import concurrent.futures
import os
import random
import signal
import socket
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from node_lab import APPLICATION, Node, wait_until

from tenantry.spec.bypass import sign_bypass

WAKE = "../../wake.sock"


def on_demand(node: Node, slug: str, number: int, **changes: object) -> int:
    idle = changes.pop("idle_seconds", 1)
    return node.put(
        node.document(slug, number, "demo-1", **{"runtime": "on_demand", "limits": {"idle_seconds": idle}} | changes)
    )


def place(node: Node, slug: str) -> Path:
    return node.home / "run" / "sites" / slug


def leads_to(node: Node, slug: str) -> str:
    return os.readlink(place(node, slug) / "app.sock")


def sleeps(node: Node, slug: str) -> bool:
    """Whether the site sleeps and its process has ended."""
    return leads_to(node, slug) == WAKE and not list((node.home / "run" / "vassals").glob(f"*{slug}*"))


def sleeping(node: Node, slug: str, number: int, **changes: object) -> None:
    node.reported(slug, on_demand(node, slug, number, **changes))
    wait_until(lambda: sleeps(node, slug), what=f"{slug} sleeps")


class Visitor(threading.Thread):
    """Asks for a page over and over; `failed` is what did not come as it should."""

    def __init__(self, node: Node, host: str, pause: float = 0.0) -> None:
        super().__init__()
        self.node, self.host, self.pause = node, host, pause
        self.served, self.failed, self.slowest = 0, [], 0.0
        self.leaves = threading.Event()

    def run(self) -> None:
        while not self.leaves.is_set():
            began = time.monotonic()
            try:
                status, _, body = self.node.get(self.host)
                if status == 200:
                    self.served += 1
                else:
                    self.failed.append((status, body[:200]))
            except OSError as error:
                self.failed.append((0, repr(error).encode()))
            self.slowest = max(self.slowest, time.monotonic() - began)
            self.leaves.wait(self.pause and random.uniform(0, 2 * self.pause))


@contextmanager
def visited(*visitors: Visitor) -> Iterator[None]:
    for visitor in visitors:
        visitor.start()
    try:
        yield
    finally:
        for visitor in visitors:
            visitor.leaves.set()
        for visitor in visitors:
            visitor.join()


def test_a_site_is_tried_sleeps_and_wakes_for_a_visitor(serving: Node) -> None:
    wait_until(
        lambda: serving.sql("SELECT 1 FROM agent_v1.received"), what="the agent has read that there are no sites"
    )
    revision = on_demand(serving, "blog", 1, idle_seconds=3)
    serving.reported("blog", revision)
    assert leads_to(serving, "blog") == "1.sock", "it was started once, to see that it can be"
    first = serving.page("blog.localhost")["pid"]
    wait_until(lambda: sleeps(serving, "blog"), what="the site sleeps")
    wait_until(lambda: not Path(f"/proc/{first}").exists(), what="its process ends")
    began = time.monotonic()
    page = serving.page("blog.localhost", "/form", method="POST", body=b"x" * 300_000)
    print(f"woken in {time.monotonic() - began:.2f} s")
    assert page["request"]["REQUEST_METHOD"] == "POST"
    assert page["request"]["CONTENT_LENGTH"] == "300000"
    assert page["pid"] != first
    assert leads_to(serving, "blog") == "1.sock"
    status, _, _ = serving.get("blog.localhost")
    assert status == 200
    assert not serving.sql("SELECT 1 FROM agent_v1.received WHERE report->'drift' <> '[]'")


def test_whoever_comes_while_a_site_falls_asleep_or_wakes_is_answered(serving: Node) -> None:
    """Sites that sleep after no time at all, and visitors who come at any moment."""
    slugs = ["one", "two", "three"]
    for number, slug in enumerate(slugs, start=1):
        serving.reported(slug, on_demand(serving, slug, number))
    for slug in slugs:  # shorter than anybody may say
        link = place(serving, slug) / "idle"
        link.unlink()
        link.symlink_to("0")
    serving.stop("agent")
    visitors = [Visitor(serving, f"{slug}.localhost", pause=0.9) for slug in slugs for _ in range(2)]
    with visited(*visitors):
        wait_until(lambda: serving.output("standby").count(": sleeps") >= 4, 60, "sites to fall asleep")
    slept = serving.output("standby").count(": sleeps")
    print(f"{slept} times asleep, {sum(v.served for v in visitors)} visits, {max(v.slowest for v in visitors):.2f} s")
    assert [visitor.failed for visitor in visitors] == [[]] * len(visitors)


def test_a_sleeping_site_is_changed_without_a_lost_visit(serving: Node) -> None:
    sleeping(serving, "blog", 1)
    visitor = Visitor(serving, "blog.localhost", pause=0.1)
    with visited(visitor):
        serving.reported("blog", on_demand(serving, "blog", 1, generation=2, idle_seconds=2))
        serving.reported("blog", on_demand(serving, "blog", 1, generation=2, runtime="always_on"))
        assert not (place(serving, "blog") / "vassal.2.ini").exists()
        serving.reported("blog", on_demand(serving, "blog", 1, generation=2))
        serving.reported("blog", on_demand(serving, "blog", 1, generation=3))
    assert not visitor.failed
    wait_until(lambda: sleeps(serving, "blog"))
    serving.reported("blog", on_demand(serving, "blog", 1, generation=3, runtime="always_on"))
    assert leads_to(serving, "blog") == "3.sock", "a site that is always on is woken by the agent"
    serving.reported("blog", on_demand(serving, "blog", 1, present=False), "absent")
    assert not place(serving, "blog").exists()


def test_a_paused_site_has_no_process_whatever_its_runtime(serving: Node) -> None:
    always = {"runtime": "always_on", "idle_seconds": 2}
    serving.reported("blog", on_demand(serving, "blog", 1, **always))
    pid = serving.page("blog.localhost")["pid"]
    serving.reported("blog", on_demand(serving, "blog", 1, mode="paused", **always))
    assert serving.get("blog.localhost")[0] == 503
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), what="a paused site's process ends")
    token = sign_bypass("bypass of blog", "blog", int(time.time() + 60))
    serving.page("blog.localhost", headers={"Cookie": f"tenantry_bypass={token}"})  # who is let in wakes it
    wait_until(lambda: sleeps(serving, "blog"), what="and it sleeps again")
    visitor = Visitor(serving, "blog.localhost", pause=0.1)
    serving.reported("blog", on_demand(serving, "blog", 1, **always))
    with visited(visitor):
        time.sleep(3)
    assert not visitor.failed
    assert not sleeps(serving, "blog"), "live again, it is always on"
    assert not (place(serving, "blog") / "idle").is_symlink()


def test_a_generation_that_fails_leaves_the_sleeping_one_in_place(serving: Node) -> None:
    sleeping(serving, "blog", 1)
    serving.release("demo-2", application=f"raise RuntimeError('no such thing')\n{APPLICATION}")
    revision = on_demand(serving, "blog", 1, generation=2, release_changes={"name": "demo-2"})
    report = serving.reported("blog", revision, "failed")
    assert "no such thing" in report["log"]
    assert serving.page("blog.localhost")["version"] == "demo-1"


def test_a_site_that_cannot_be_woken_says_why_and_its_visitors_when_to_come_back(serving: Node) -> None:
    sleeping(serving, "blog", 1)
    sleeping(serving, "fine", 2)
    document = place(serving, "blog") / "site.1.json"
    text = document.read_text()
    document.write_text(text.replace('"app:application"', '"gone:application"'))
    status, headers, body = serving.get("blog.localhost")
    assert (status, b"One moment" in body) == (503, True)
    assert int(headers["retry-after"]) >= 2
    assert headers["cache-control"] == "no-store"
    report = wait_until(lambda: (r := serving.last_report("blog")) and r["state"] == "failed" and r)
    assert "generation 1" in report["message"]
    assert "gone" in report["log"]
    began = time.monotonic()
    assert serving.get("blog.localhost")[0] == 503
    assert time.monotonic() - began < 0.5, "not started again at once"
    assert serving.page("fine.localhost")["site"] == "fine"
    document.write_text(text)
    wait_until(lambda: serving.get("blog.localhost")[0] == 200, what="the site wakes again")
    wait_until(lambda: (r := serving.last_report("blog")) and r["state"] == "serving", what="it is reported")


def test_sites_wake_without_agent_and_database_and_after_standby_was_killed(serving: Node) -> None:
    sleeping(serving, "blog", 1, idle_seconds=2)
    serving.stop("agent", signal.SIGKILL)
    assert serving.page("blog.localhost")["site"] == "blog"
    wait_until(lambda: sleeps(serving, "blog"))
    serving.stop("standby", signal.SIGKILL)
    assert serving.get("blog.localhost")[0] in (502, 503), "nginx alone answers, in words"
    serving.start_standby()
    wait_until(lambda: serving.get("blog.localhost")[0] == 200, what="standby is back")


def test_what_a_sleeping_site_needs_is_repaired_and_a_sleeping_site_is_no_drift(serving: Node) -> None:
    sleeping(serving, "blog", 1)
    serving.stop("agent")
    (place(serving, "blog") / "vassal.1.ini").unlink()
    for name, target in (("idle", "999999"), ("app.sock", "../../nowhere.sock")):
        (place(serving, "blog") / name).unlink()
        (place(serving, "blog") / name).symlink_to(target)
    serving.start_agent()
    wait_until(lambda: serving.get("blog.localhost")[0] == 200, what="it serves again")
    wait_until(lambda: os.readlink(place(serving, "blog") / "idle") == "1")
    wait_until(lambda: sleeps(serving, "blog"))
    serving.stop("agent")
    rows = serving.sql("SELECT max(number) FROM agent_v1.received")
    serving.start_agent()
    query = "SELECT report FROM agent_v1.received WHERE number > %s AND report->'checked' IS NOT NULL"
    reports = wait_until(lambda: serving.sql(query, rows[0][0]), 40, "a check")
    assert all(report["checked"]["drift"] == 0 for (report,) in reports)


def test_more_visitors_than_its_queue_takes_wake_a_site_and_none_is_refused(serving: Node) -> None:
    serving.release("demo-2", application=f"import time\ntime.sleep(1.5)\n{APPLICATION}")  # all are there before it is
    sleeping(serving, "blog", 1, release_changes={"name": "demo-2"})
    with concurrent.futures.ThreadPoolExecutor(160) as pool:
        statuses = list(pool.map(lambda _: serving.get("blog.localhost", "/slow?0.02")[0], range(160)))
    assert statuses == [200] * 160


def test_a_start_goes_on_when_the_visitor_who_began_it_has_left(serving: Node) -> None:
    serving.release("demo-2", application=f"import time\ntime.sleep(1.5)\n{APPLICATION}")
    sleeping(serving, "blog", 1, release_changes={"name": "demo-2"})
    spawned = serving.output("emperor").count("blog.1.ini has been spawned")
    with socket.create_connection(("127.0.0.1", serving.port)) as visitor:
        visitor.sendall(b"GET / HTTP/1.1\r\nHost: blog.localhost\r\n\r\n")
        time.sleep(0.3)
    assert serving.page("blog.localhost")["site"] == "blog"
    assert serving.output("emperor").count("blog.1.ini has been spawned") == spawned + 1


def test_what_tells_that_a_site_is_busy_takes_no_room_on_the_disk(serving: Node) -> None:
    body = "import os\ntry:\n    os.write(os.open('/proc/self/fd/5', os.O_WRONLY | os.O_NONBLOCK), bytes(1 << 22))\n"
    serving.release("demo-2", application=f"{body}except OSError:\n    pass\n{APPLICATION}")
    serving.reported("blog", on_demand(serving, "blog", 1, release_changes={"name": "demo-2"}))
    assert serving.page("blog.localhost")["site"] == "blog"
    found = (place(serving, "blog") / "activity").lstat()
    assert stat.S_ISFIFO(found.st_mode)
    assert found.st_blocks == 0


def test_an_emperor_that_comes_back_starts_what_visitors_ask_for(serving: Node) -> None:
    """Its processes ended with it. A thousand sites that start at once would be away for minutes."""
    for number, slug in enumerate(("one", "two"), start=1):
        serving.reported(slug, on_demand(serving, slug, number, idle_seconds=300))
        serving.page(f"{slug}.localhost")
    serving.reported("always", on_demand(serving, "always", 3, runtime="always_on"))
    serving.stop("emperor", signal.SIGKILL)
    (serving.home / "run" / "emperor.sock").unlink(missing_ok=True)
    early = Visitor(serving, "one.localhost")
    with visited(early):
        time.sleep(0.2)
        serving.start_emperor()
        assert sleeps(serving, "two")
        later = Visitor(serving, "two.localhost")
        with visited(later):
            wait_until(lambda: early.served, what="who came before the emperor is led to the site")
            wait_until(lambda: later.served)
        assert not later.failed, "since the emperor is back, nobody is refused"
    wait_until(lambda: serving.get("always.localhost")[0] == 200, what="the site that always runs")
    assert serving.page("two.localhost")["site"] == "two"


def test_who_waits_is_answered_although_the_emperor_ends_meanwhile(serving: Node) -> None:
    serving.release("demo-2", application=f"import time\ntime.sleep(3)\n{APPLICATION}")
    sleeping(serving, "blog", 1, release_changes={"name": "demo-2"})
    with concurrent.futures.ThreadPoolExecutor() as pool:
        visit = pool.submit(serving.get, "blog.localhost")
        time.sleep(1.5)
        serving.stop("emperor", signal.SIGKILL)
        (serving.home / "run" / "emperor.sock").unlink(missing_ok=True)
        time.sleep(0.5)
        serving.start_emperor()
        assert visit.result()[0] == 200
    assert not (serving.home / "run" / "failed" / "blog").exists(), "nobody blames the site"


def test_what_a_site_left_behind_keeps_no_visitor_waiting(serving: Node) -> None:
    leave = "import os, time\nleft = os.fork()\nif not left:\n    os.setsid()\n    time.sleep(60)\n    os._exit(0)\n"
    leave += "open(f\"{os.environ['TMPDIR']}/left.{left}\", 'w')\n"
    serving.release("demo-2", application=f"{leave}{APPLICATION}")
    serving.reported("blog", on_demand(serving, "blog", 1, release_changes={"name": "demo-2"}))
    serving.page("blog.localhost")
    wait_until(lambda: leads_to(serving, "blog") == WAKE, what="it falls asleep")
    wait_until(lambda: not list((serving.home / "run" / "vassals").glob("blog.*")), what="its process is told to end")
    began = time.monotonic()
    serving.page("blog.localhost")
    assert time.monotonic() - began < 8
    found = list((serving.home / "data" / "blog" / "tmp").glob("left.*"))
    assert found
    for left in found:
        os.kill(int(left.suffix[1:]), signal.SIGKILL)


def test_a_site_is_woken_while_standby_is_replaced(serving: Node) -> None:
    sleeping(serving, "blog", 1)
    visitor = Visitor(serving, "blog.localhost", pause=0.4)
    with visited(visitor):
        for _ in range(3):
            serving.processes["standby"].send_signal(signal.SIGHUP)
            time.sleep(1.2)
    assert not visitor.failed
    assert visitor.served


def test_a_site_with_work_to_do_stays_awake(serving: Node) -> None:
    application = "import django_tenantry.activity\ndjango_tenantry.activity.keep_awake(4)\n" + APPLICATION
    serving.release("demo-2", application=application)
    serving.reported("blog", on_demand(serving, "blog", 1, release_changes={"name": "demo-2"}))
    wait_until(lambda: sleeps(serving, "blog"))
    serving.page("blog.localhost")
    began = time.monotonic()
    wait_until(lambda: sleeps(serving, "blog"))
    assert time.monotonic() - began > 3


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_two_thousand_times_asleep_and_awake(serving: Node) -> None:
    count = 30
    for number in range(1, count + 1):
        on_demand(serving, f"s{number}", number)
    for number in range(1, count + 1):
        serving.reported(f"s{number}", number, seconds=120)
        link = place(serving, f"s{number}") / "idle"
        link.unlink()
        link.symlink_to("0")
    serving.stop("agent")
    visitors = [Visitor(serving, f"s{number}.localhost", pause=6.0) for number in range(1, count + 1) for _ in range(2)]
    with visited(*visitors):
        wait_until(lambda: serving.output("standby").count(": sleeps") >= 2000, seconds=1500)
    print(f"{sum(v.served for v in visitors)} visits, slowest {max(v.slowest for v in visitors):.2f} s")
    assert not [failure for visitor in visitors for failure in visitor.failed]
