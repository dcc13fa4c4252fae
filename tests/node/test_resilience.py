"""What breaks around the agent, and what visitors notice of it: nothing."""

import os
import signal
import time

from node_lab import Node, wait_until


def put_site(node: Node, slug: str, number: int, **changes: object) -> int:
    return node.put(node.document(slug, number, "demo-1", **changes))


def two_sites(node: Node) -> None:
    node.reported("one", put_site(node, "one", 1))
    node.reported("two", put_site(node, "two", 2))


def conditions(node: Node) -> set[str]:
    rows = node.sql("SELECT report->'conditions' FROM agent_v1.received ORDER BY number DESC LIMIT 1")
    return {condition["type"] for condition in rows[0][0]} if rows else set()


def cut_connections(node: Node, allow: bool) -> None:
    """The database refuses or takes this node's connections; those open are ended."""
    name = node.dsn.rpartition("=")[2]
    node_dsn, node.dsn = node.dsn, node.postgres.dsn("postgres")
    node.sql(f"ALTER DATABASE {name} ALLOW_CONNECTIONS {allow}")
    node.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", name)
    node.dsn = node_dsn


def test_without_the_database_sites_serve_and_the_agent_starts_from_what_it_remembers(serving: Node) -> None:
    two_sites(serving)
    head = serving.home / "state" / "head.json"
    wait_until(lambda: head.exists() and '"revision": 2' in head.read_text())
    cut_connections(serving, False)
    serving.stop("agent", signal.SIGKILL)
    (serving.home / "run" / "hosts" / "one.localhost").unlink()
    serving.start_agent()
    wait_until(lambda: serving.get("one.localhost")[0] == 200, what="the remembered state")
    assert serving.page("two.localhost")["site"] == "two"
    cut_connections(serving, True)
    revision = put_site(serving, "three", 3)
    started = time.monotonic()
    serving.reported("three", revision)
    print(f"database back -> caught up: {time.monotonic() - started:.1f} s")


def test_a_damaged_memory_is_no_reason_to_remove_anything(serving: Node) -> None:
    two_sites(serving)
    state = serving.home / "state"
    head = state / "head.json"
    wait_until(lambda: head.exists() and '"revision": 2' in head.read_text())
    cut_connections(serving, False)
    serving.stop("agent")
    (state / "sites" / "one.json").write_text("{torn")
    serving.start_agent()
    time.sleep(1)
    assert serving.page("one.localhost")["site"] == "one"
    (state / "head.json").write_bytes(b"\0\0")
    serving.stop("agent")
    serving.start_agent()
    cut_connections(serving, True)
    serving.reported("one", put_site(serving, "one", 1))
    assert serving.page("two.localhost")["site"] == "two"


def test_a_connection_that_hangs_is_given_up(serving: Node) -> None:
    serving.reported("one", put_site(serving, "one", 1))
    rows = serving.sql(
        "SELECT pid FROM pg_stat_activity"
        " WHERE application_name LIKE 'tenantry-agent/%%' AND datname = current_database()"
    )
    pids = [row[0] for row in rows]
    assert len(pids) == 2
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        started = time.monotonic()
        wait_until(lambda: "did not answer" in serving.output("agent"), 15)
        noticed = time.monotonic() - started
        print(f"hung connections noticed in {noticed:.1f} s")
        assert noticed < 5
        serving.reported("two", put_site(serving, "two", 2), seconds=25)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def test_a_hung_connection_for_questions_is_noticed_when_it_is_needed(serving: Node) -> None:
    """The listening connection lives, and tells of a change that cannot be read on the other."""
    serving.reported("one", put_site(serving, "one", 1))
    rows = serving.sql(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%%agent_v1.report%%'"
        " AND pid <> pg_backend_pid()"
    )
    assert len(rows) == 1
    os.kill(rows[0][0], signal.SIGSTOP)
    try:
        started = time.monotonic()
        serving.reported("two", put_site(serving, "two", 2))
        took = time.monotonic() - started
        print(f"a hung connection for questions was replaced, and the change applied, in {took:.1f} s")
        assert "did not answer within 4 s" in serving.output("agent")
        assert took < 9
    finally:
        os.kill(rows[0][0], signal.SIGCONT)


def test_killed_while_applying_it_goes_on_where_it_was(serving: Node) -> None:
    serving.release("demo-2", "import time; time.sleep(1.5)\n" + SLOW_START)
    serving.reported("one", put_site(serving, "one", 1))
    revision = serving.put(serving.document("one", 1, "demo-2", generation=2))
    ini = serving.home / "run" / "vassals" / "one.2.ini"
    wait_until(ini.exists)
    serving.stop("agent", signal.SIGKILL)
    assert serving.page("one.localhost")["version"] == "demo-1"
    serving.start_agent()
    assert serving.reported("one", revision)["generation"] == 2
    wait_until(lambda: not (serving.home / "run" / "vassals" / "one.1.ini").exists())
    assert serving.get("one.localhost")[2] == b"slow to start"


def test_a_memory_older_than_what_was_applied_undoes_nothing(serving: Node) -> None:
    head = serving.home / "state" / "head.json"
    serving.reported("one", put_site(serving, "one", 1))
    wait_until(lambda: head.exists() and '"revision": 1' in head.read_text())
    before = {path: path.read_bytes() for path in (head, serving.home / "state" / "sites" / "one.json")}
    serving.reported("one", put_site(serving, "one", 1, generation=2))
    wait_until(lambda: '"revision": 2' in head.read_text())
    serving.stop("agent", signal.SIGKILL)
    for path, content in before.items():
        path.write_bytes(content)
    pid = serving.page("one.localhost")["pid"]
    cut_connections(serving, False)
    serving.start_agent()
    wait_until(lambda: "no connection" in serving.output("agent"))
    time.sleep(1)
    assert serving.page("one.localhost")["pid"] == pid
    cut_connections(serving, True)
    serving.reported("one", put_site(serving, "one", 1, generation=2))
    assert serving.page("one.localhost")["pid"] == pid


SLOW_START = """
def application(environ, start_response):
    start_response("200 OK", [])
    return [b"slow to start"]
"""


def test_the_emperor_dies_and_comes_back(serving: Node) -> None:
    two_sites(serving)
    serving.stop("emperor", signal.SIGKILL)
    (serving.home / "run" / "emperor.sock").unlink(missing_ok=True)
    serving.start_emperor()
    wait_until(lambda: serving.get("one.localhost")[0] == serving.get("two.localhost")[0] == 200)
    revision = put_site(serving, "one", 1, generation=2)
    assert serving.reported("one", revision)["generation"] == 2


def test_a_site_waits_for_an_emperor_that_is_away(serving: Node) -> None:
    serving.stop("emperor", signal.SIGKILL)
    revision = put_site(serving, "one", 1)
    report = serving.reported("one", revision, "starting")
    assert "emperor does not answer" in report["message"]
    serving.start_emperor()
    serving.reported("one", revision)


def test_an_empty_state_is_refused_and_said(serving: Node) -> None:
    two_sites(serving)
    serving.stop("agent")
    serving.sql("TRUNCATE agent_v1.site")
    serving.start_agent()
    wait_until(lambda: "MassRemovalRefused" in conditions(serving))
    assert serving.page("one.localhost")["site"] == "one"
    assert serving.page("two.localhost")["site"] == "two"


def test_a_restored_database_with_a_new_epoch_is_followed(serving: Node) -> None:
    two_sites(serving)
    serving.sql("UPDATE agent_v1.state SET epoch = gen_random_uuid(), revision = 1")
    serving.sql("UPDATE agent_v1.site SET revision = 1")
    revision = put_site(serving, "one", 1, hostnames=["restored.localhost"])
    wait_until(lambda: serving.get("restored.localhost")[0] == 200)
    assert revision == 2
    assert serving.page("two.localhost")["site"] == "two"


def test_a_database_set_back_within_its_epoch_is_not_followed(serving: Node) -> None:
    two_sites(serving)
    serving.stop("agent")
    serving.sql("UPDATE agent_v1.state SET revision = 1")
    serving.sql("DELETE FROM agent_v1.site WHERE slug = 'two'")
    serving.start_agent()
    wait_until(lambda: "StaleState" in conditions(serving))
    assert serving.page("two.localhost")["site"] == "two"


def test_what_a_person_broke_on_disk_is_repaired(serving: Node) -> None:
    two_sites(serving)
    serving.stop("agent")
    run = serving.home / "run"
    (run / "hosts" / "one.localhost").unlink()
    (run / "hosts" / "stolen.localhost").symlink_to("../sites/two")
    (run / "sites" / "two" / "static").unlink()
    (run / "sites" / "two" / "app.sock").unlink()
    (run / "sites" / "orphan").mkdir()
    serving.start_agent()
    wait_until(lambda: serving.get("one.localhost")[0] == serving.get("two.localhost")[0] == 200)
    wait_until(lambda: serving.get("stolen.localhost")[0] == 404)
    wait_until(lambda: not (run / "sites" / "orphan").exists())
    wait_until(lambda: (run / "sites" / "two" / "static").is_symlink())


def test_many_sites_at_once(serving: Node) -> None:
    count = 20
    started = time.monotonic()
    for number in range(1, count + 1):
        revision = put_site(serving, f"s{number}", number)
    for number in range(1, count + 1):
        serving.reported(f"s{number}", number, seconds=60)
    print(f"{count} sites: {time.monotonic() - started:.1f} s")
    node = serving.sql("SELECT report FROM agent_v1.received ORDER BY number DESC LIMIT 1")[0][0]
    assert node["revision"] == revision
    assert node["conditions"] == []


def test_killed_while_a_site_goes_its_names_go_first(serving: Node) -> None:
    """The next agent knows the site as absent, and its hostname only from the directory of links."""
    two_sites(serving)
    serving.stop("agent", signal.SIGKILL)
    revision = put_site(serving, "one", 1, present=False)
    document = serving.home / "run" / "sites" / "one" / "site.1.json"
    link = serving.home / "run" / "hosts" / "one.localhost"
    serving.start_agent()
    dangled = False
    while document.exists():
        dangled = dangled or (not (link / "app.sock").exists() and link.is_symlink())
    assert not dangled
    assert not link.is_symlink()
    serving.reported("one", revision, "absent")
