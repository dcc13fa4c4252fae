"""A control process as it runs on a platform: granian, real requests, long answers."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from statistics import median
from typing import Any

import httpx
import pytest

from tenantry.control.access.actors import Actor
from tenantry.control.fleet import services as fleet
from tenantry.control.sites import services
from tenantry.control.sites.models import Site

from .conftest import Agent, Live

MakeSite = Callable[..., Site]
WAIT_SECONDS = 20.0
ROUNDS = 15


class Events:
    """A stream of server-sent events, one at a time."""

    def __init__(self, response: httpx.Response) -> None:
        self._lines = response.iter_lines()
        # The status comes before the subscription; the first line comes after it.
        assert next(self._lines).startswith("retry: ")

    def next(self) -> dict[str, str]:
        """Return the next event; comments and bare fields are passed over."""
        found: dict[str, str] = {}
        for line in self._lines:
            if line.startswith(":"):
                continue
            if not line:
                if "data" in found:
                    return found
                found = {}
                continue
            name, _, value = line.partition(": ")
            found[name] = value
        raise AssertionError("the stream ended")

    def next_but_reports(self) -> dict[str, str]:
        """Return the next event that is no report: those may come at any time, after a lost connection."""
        while (found := self.next())["event"] == "report":
            pass
        return found


@contextmanager
def events(live: Live, **headers: str) -> Iterator[Events]:
    sent = {**live.headers, **{name.replace("_", "-"): value for name, value in headers.items()}}
    with httpx.stream("GET", f"{live.url}/api/v1/events", headers=sent, timeout=WAIT_SECONDS) as response:
        assert response.status_code == 200
        assert response.headers["Content-Type"] == "text/event-stream"
        yield Events(response)


def test_the_process_is_healthy_and_ready(live: Live) -> None:
    assert httpx.get(f"{live.url}/healthz").json() == {"status": "ok"}
    assert httpx.get(f"{live.url}/readyz").json() == {"status": "ok"}
    assert httpx.get(f"{live.url}/api/v1/whoami").status_code == 401


def test_changes_and_reports_are_followed_as_they_happen(
    live: Live, make_site: MakeSite, admin: Actor, agent: Agent
) -> None:
    site = make_site("blog")
    with events(live, Last_Event_ID=str(site.revision)) as stream:
        services.restart_site(admin, "blog")
        event = stream.next()
        while event["event"] != "change":
            event = stream.next()
        assert event["id"] == str(site.revision + 1)
        document = json.loads(event["data"])
        assert (document["type"], document["site"], document["actor"]) == ("site.restarted", "blog", "admin")
        agent.report()
        assert stream.next() == {"event": "report", "data": '{"node": "node-1"}'}


def test_what_was_missed_is_sent_after_the_last_event_id(live: Live, make_site: MakeSite, admin: Actor) -> None:
    site = make_site("blog")
    for _ in range(3):
        services.restart_site(admin, "blog")
    with events(live, Last_Event_ID=str(site.revision)) as stream:
        assert [int(stream.next()["id"]) for _ in range(3)] == [site.revision + n for n in (1, 2, 3)]
    response = httpx.get(f"{live.url}/api/v1/events", headers={**live.headers, "Last-Event-ID": "x"})
    assert response.status_code == 422


def test_who_missed_what_is_no_longer_kept_is_told_and_goes_on_from_there(
    live: Live, make_site: MakeSite, admin: Actor
) -> None:
    site = make_site("blog")
    for _ in range(3):
        services.restart_site(admin, "blog")
    tail = fleet.compact(admin, timedelta(0), keep_rows=0).tail
    assert tail == site.revision + 3
    with events(live, Last_Event_ID=str(site.revision)) as stream:
        event = stream.next_but_reports()
        assert event == {"id": str(tail), "event": "reset", "data": json.dumps({"tail": tail})}
        compacted = stream.next_but_reports()
        assert (int(compacted["id"]), json.loads(compacted["data"])["type"]) == (tail + 1, "changelog.compacted")
        services.restart_site(admin, "blog")
        assert int(stream.next_but_reports()["id"]) == tail + 2
    with events(live, Last_Event_ID=str(tail)) as stream:
        had = [stream.next_but_reports()["id"] for _ in range(2)]
        assert had == [str(tail + 1), str(tail + 2)], "nothing is missing to it"


def test_a_follower_whom_a_compaction_overtakes_is_told(live: Live, make_site: MakeSite, admin: Actor) -> None:
    site = make_site("blog")
    services.delete_site(admin, "blog", confirm="blog")  # outlives the tail, and is no history any more
    with events(live, Last_Event_ID=str(site.revision + 1)) as stream:
        tail = fleet.compact(admin, timedelta(0), keep_rows=0).tail
        assert tail == site.revision + 1
        assert stream.next_but_reports()["event"] == "change", "it had everything up to the tail"
    with events(live, Last_Event_ID="0") as stream:
        assert [stream.next_but_reports()["event"] for _ in range(2)] == ["reset", "change"]


def test_a_long_poll_ends_when_every_node_has_applied_a_revision(live: Live, agent: Agent, admin: Actor) -> None:
    agent.call("heartbeat")
    fleet.request_check(admin, "node-1", repair=False)
    head = httpx.get(f"{live.url}/api/v1/status", headers=live.headers).json()["revision"]
    address = f"{live.url}/api/v1/changes/{head}/convergence"
    assert httpx.get(address, headers=live.headers).json()["converged"] is False
    timer = threading.Timer(0.3, agent.report)
    timer.start()
    started = time.monotonic()
    state = httpx.get(address, headers=live.headers, params={"wait": 15}, timeout=20).json()
    timer.join()
    assert state["converged"] is True
    assert time.monotonic() - started < 5


def test_many_followers_share_one_listening_connection(live: Live, agent: Agent, control_database: Any) -> None:
    with events(live) as one, events(live) as two, events(live) as three:
        agent.report()
        for stream in (one, two, three):
            assert stream.next()["event"] == "report"
        with control_database.server.connect(control_database.name) as superuser:
            count = superuser.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'tenantry-feed' AND datname = %s",
                [control_database.name],
            ).fetchone()
    assert count == (1,)


def test_who_follows_just_after_a_lost_connection_misses_nothing(
    live: Live, agent: Agent, control_database: Any
) -> None:
    feeds = "FROM pg_stat_activity WHERE application_name = 'tenantry-feed' AND datname = %s"
    with events(live):
        pass
    with control_database.server.connect(control_database.name) as superuser:
        superuser.execute(f"SELECT pg_terminate_backend(pid) {feeds}", [control_database.name])
        while superuser.execute(f"SELECT count(*) {feeds}", [control_database.name]).fetchone() != (0,):
            time.sleep(0.01)
        time.sleep(0.05)  # the process has noticed, and pauses before it connects again
    with events(live) as stream:
        agent.report()
        found = [stream.next()]
        while found[-1]["data"] != '{"node": "node-1"}':
            found.append(stream.next())
    assert {event["event"] for event in found} == {"report"}


def test_the_stream_survives_a_lost_connection_to_postgresql(
    live: Live, make_site: MakeSite, admin: Actor, control_database: Any
) -> None:
    site = make_site("blog")
    with events(live, Last_Event_ID=str(site.revision - 1)) as stream:
        assert stream.next()["id"] == str(site.revision)
        with control_database.server.connect(control_database.name) as superuser:
            superuser.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'tenantry-%%' "
                "AND application_name <> 'tenantry-test' AND datname = %s",
                [control_database.name],
            )
        services.restart_site(admin, "blog")
        event = stream.next()
        while event["event"] == "report":  # any node may have reported meanwhile, it says
            event = stream.next()
        assert event["id"] == str(site.revision + 1)


def test_a_long_poll_answers_within_moments_of_the_report(live: Live, make_site: MakeSite, agent: Agent) -> None:
    make_site("blog")
    agent.call("heartbeat")
    delays: list[float] = []
    with httpx.Client(base_url=live.url, headers=live.headers, timeout=WAIT_SECONDS) as client:
        for _ in range(ROUNDS):
            client.post("/api/v1/sites/blog/restart").raise_for_status()
            reported: list[float] = []

            def report(reported: list[float] = reported) -> None:
                agent.serve_all()
                reported.append(time.monotonic())

            timer = threading.Timer(0.2, report)
            timer.start()
            state = client.get("/api/v1/sites/blog/convergence?wait=15").json()
            answered = time.monotonic()
            timer.join()
            assert state["converged"] is True
            delays.append(answered - reported[0])
    print(f"report to answer: median {median(delays) * 1000:.1f} ms, max {max(delays) * 1000:.1f} ms")
    assert median(delays) < 0.1  # some milliseconds on a quiet machine


def test_a_long_poll_ends_at_its_time(live: Live, make_site: MakeSite) -> None:
    make_site("blog")
    started = time.monotonic()
    state = httpx.get(f"{live.url}/api/v1/sites/blog/convergence?wait=1", headers=live.headers, timeout=10).json()
    assert state["converged"] is False
    assert 0.9 < time.monotonic() - started < 5


def test_a_long_poll_ends_when_the_site_is_gone(live: Live, make_site: MakeSite, admin: Actor) -> None:
    site = make_site("blog")
    services.delete_site(admin, "blog", confirm="blog")
    timer = threading.Timer(0.2, _finish_removal, [site.number])
    timer.start()
    started = time.monotonic()
    response = httpx.get(f"{live.url}/api/v1/sites/blog/convergence?wait=20", headers=live.headers, timeout=30)
    timer.join()
    assert response.status_code == 404
    assert time.monotonic() - started < 5


def _finish_removal(number: int) -> None:
    from django.db import connections

    services.finish_site_removal(number)
    connections.close_all()


def test_more_long_answers_than_database_connections(live: Live, make_site: MakeSite) -> None:
    make_site("blog")
    answers: list[int] = []

    def poll() -> None:
        address = f"{live.url}/api/v1/sites/blog/convergence?wait=3"
        answers.append(httpx.get(address, headers=live.headers, timeout=30).status_code)

    threads = [threading.Thread(target=poll) for _ in range(40)]
    for thread in threads:
        thread.start()
    started = time.monotonic()
    assert httpx.get(f"{live.url}/api/v1/sites", headers=live.headers, timeout=10).status_code == 200
    assert time.monotonic() - started < 5
    for thread in threads:
        thread.join()
    assert answers == [200] * 40


def test_a_log_is_shown_from_its_end_and_followed(live: Live, make_site: MakeSite) -> None:
    make_site("blog")
    log = live.home / "logs" / "sites" / "blog.log"
    address = f"{live.url}/api/v1/sites/blog/logs"
    assert httpx.get(address, headers=live.headers).content == b"", "no file yet is an empty log"
    log.parent.mkdir(parents=True)
    log.write_text("".join(f"line {number}\n" for number in range(20_000)))
    assert httpx.get(address, headers=live.headers, params={"lines": 2}).text == "line 19998\nline 19999\n"
    assert httpx.get(address, headers=live.headers, params={"lines": 0}).text == ""
    assert len(httpx.get(address, headers=live.headers).text.splitlines()) == 100
    following = {"follow": "true", "lines": "1"}
    with httpx.stream("GET", address, headers=live.headers, params=following, timeout=WAIT_SECONDS) as response:
        lines = response.iter_lines()
        assert next(lines) == "line 19999"
        with log.open("a") as file:
            file.write("appended\n")
        assert next(lines) == "appended"
        log.rename(log.with_suffix(".old"))
        log.write_text("a new file\n")
        assert next(lines) == "a new file"


def test_a_link_in_place_of_a_log_leads_nowhere(live: Live, make_site: MakeSite) -> None:
    make_site("blog")
    directory = live.home / "logs" / "sites"
    directory.mkdir(parents=True)
    (live.home / "secret").write_text("hidden")
    (directory / "blog.log").symlink_to(live.home / "secret")
    response = httpx.get(f"{live.url}/api/v1/sites/blog/logs", headers=live.headers)
    assert response.status_code == 409
    assert "hidden" not in response.text


def test_following_a_build_ends_with_the_build(live: Live, project: str, admin: Actor) -> None:
    log = live.home / "logs" / "builds" / "demo-1.log"
    log.parent.mkdir(parents=True)
    log.write_text("step 1\nstep 2\n")
    address = f"{live.url}/api/v1/releases/demo-1/log"
    assert httpx.get(address, headers=live.headers).text == "step 1\nstep 2\n"
    assert httpx.get(address, headers=live.headers, params={"follow": "true"}, timeout=10).text == "step 1\nstep 2\n"


@pytest.mark.timeout(60)
def test_the_database_gone_is_said_and_overcome(live: Live, control_database: Any) -> None:
    server, name = control_database.server, control_database.name
    with server.connect() as superuser:
        superuser.execute(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false")
        superuser.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
        response = httpx.get(f"{live.url}/readyz", timeout=20)
        assert response.status_code == 503
        assert httpx.get(f"{live.url}/healthz").status_code == 200
        superuser.execute(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS true")
    deadline = time.monotonic() + 20
    while httpx.get(f"{live.url}/readyz", timeout=20).status_code != 200:
        assert time.monotonic() < deadline


def test_a_restart_of_postgresql_is_overcome_at_once_however_many_connections_died(
    live: Live, make_site: MakeSite, control_database: Any
) -> None:
    make_site("blog")
    address = f"{live.url}/api/v1/sites/blog/convergence?wait=1"
    polls = [threading.Thread(target=httpx.get, args=[address], kwargs={"headers": live.headers}) for _ in range(30)]
    for poll in polls:
        poll.start()
    for poll in polls:
        poll.join()
    with control_database.server.connect() as superuser:
        superuser.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND application_name LIKE %s",
            [control_database.name, "tenantry-control%"],
        )
    started = time.monotonic()
    response = httpx.get(f"{live.url}/api/v1/sites/blog", headers=live.headers, timeout=20)
    assert response.status_code == 200
    print(f"first answer after a restart of PostgreSQL: {time.monotonic() - started:.2f} s")
    assert time.monotonic() - started < 4  # about one
