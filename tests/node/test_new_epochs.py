"""Restores, copies, poolers and orders, with real parts: what the node serves and says."""

import json
import time
from typing import Any

import pytest
from node_lab import Node, wait_until


def put_site(node: Node, slug: str, number: int, **changes: Any) -> int:
    return node.put(node.document(slug, number, "demo-1", **changes))


def report(node: Node) -> dict[str, Any]:
    rows = node.sql("SELECT report FROM agent_v1.received ORDER BY number DESC LIMIT 1")
    return dict(rows[0][0]) if rows else {}


def conditions(node: Node) -> dict[str, str]:
    return {condition["type"]: condition["message"] for condition in report(node).get("conditions", ())}


def restore_backup(node: Node, revision: int, *documents: dict[str, Any]) -> None:
    """The database is one of another epoch, which knows these sites, at this revision; nobody was told."""
    node.sql("TRUNCATE agent_v1.site")
    for number, document in enumerate(documents):
        node.sql(
            "INSERT INTO agent_v1.site VALUES (%s, %s, %s)",
            document["slug"],
            revision - len(documents) + number + 1,
            json.dumps(document),
        )
    node.sql("UPDATE agent_v1.state SET epoch = gen_random_uuid(), revision = %s", revision)


def started_with(node: Node, host: str) -> str:
    return str(node.page(host)["environment"].get("COLOR"))


def test_generations_of_a_restored_database_never_take_over_files_of_the_former(serving: Node) -> None:
    """The backup has generation 3. The node has served 5, and 4 and 5 come again with other contents, at once."""
    for generation in (3, 4, 5):
        revision = put_site(serving, "one", 1, generation=generation, environment={"COLOR": f"lost {generation}"})
        serving.reported("one", revision)
    assert started_with(serving, "one.localhost") == "lost 5"
    restore_backup(serving, 2, serving.document("one", 1, "demo-1", generation=3, environment={"COLOR": "restored 3"}))
    wait_until(lambda: started_with(serving, "one.localhost") == "restored 3", what="the restored generation")
    wait_until(lambda: (serving.last_report("one") or {})["generation"] == 3)
    for generation in (4, 5):
        color = f"new {generation}"
        revision = put_site(serving, "one", 1, generation=generation, environment={"COLOR": color})
        assert serving.reported("one", revision)["generation"] == generation
        assert started_with(serving, "one.localhost") == color
    vassals = serving.home / "run" / "vassals"
    wait_until(lambda: all(int(path.name.split(".")[1]) > 5 for path in vassals.glob("one.*.ini")))
    serving.stop("agent")
    serving.start_agent()
    pid = serving.page("one.localhost")["pid"]
    revision = put_site(serving, "one", 1, generation=5, environment={"COLOR": "new 5"}, hostnames=["two.localhost"])
    serving.reported("one", revision)
    assert serving.page("two.localhost")["pid"] == pid, "the numbers were forgotten by a restart"


def test_the_same_generation_with_other_contents_is_served_with_these(serving: Node) -> None:
    serving.reported("one", put_site(serving, "one", 1, generation=5, environment={"COLOR": "lost"}))
    restore_backup(serving, 7, serving.document("one", 1, "demo-1", generation=5, environment={"COLOR": "restored"}))
    wait_until(lambda: started_with(serving, "one.localhost") == "restored")


def test_a_promoted_replica_disturbs_no_process(serving: Node) -> None:
    serving.reported("one", put_site(serving, "one", 1))
    pid = serving.page("one.localhost")["pid"]
    serving.sql("UPDATE agent_v1.state SET epoch = gen_random_uuid()")
    revision = put_site(serving, "two", 2)
    serving.reported("two", revision)
    assert serving.page("one.localhost")["pid"] == pid


def test_sites_newer_than_a_restored_backup_stay_until_a_person_confirms(serving: Node) -> None:
    serving.reported("one", put_site(serving, "one", 1))
    serving.reported("young", put_site(serving, "young", 2))
    restore_backup(serving, 1, serving.document("one", 1, "demo-1", hostnames=["restored.localhost"]))
    wait_until(lambda: "RemovalHeld" in conditions(serving))
    wait_until(lambda: serving.get("restored.localhost")[0] == 200, what="the rest of the backup")
    assert serving.page("young.localhost")["site"] == "young"
    token = conditions(serving)["RemovalHeld"].split()[-1]
    serving.sql("SELECT agent_v1.ask(%s)", json.dumps({"confirmed": token}))
    wait_until(lambda: serving.get("young.localhost")[0] == 404, what="the confirmed removal")
    wait_until(lambda: "RemovalHeld" not in conditions(serving))


def test_another_site_of_the_same_name_never_gets_the_former_ones_process(serving: Node) -> None:
    serving.reported("one", put_site(serving, "one", 1, environment={"COLOR": "former"}))
    serving.stop("agent")  # and so misses the deletion
    document = serving.document("one", 2, "demo-1", environment={"COLOR": "latter"}, hostnames=["latter.localhost"])
    revision = serving.put(document)
    serving.start_agent()
    colors = set()
    while (serving.last_report("one") or {}).get("revision", 0) < revision:
        if serving.get("latter.localhost")[0] == 200:
            colors.add(started_with(serving, "latter.localhost"))
    serving.reported("one", revision)
    assert started_with(serving, "latter.localhost") == "latter"
    assert "former" not in colors


def test_a_lost_memory_and_a_restored_database_at_once(serving: Node) -> None:
    serving.reported("one", put_site(serving, "one", 1, generation=5, environment={"COLOR": "lost"}))
    serving.reported("two", put_site(serving, "two", 2, generation=2, environment={"COLOR": "same"}))
    names = ["two.localhost", "more.localhost"]
    revision = put_site(serving, "two", 2, generation=2, environment={"COLOR": "same"}, hostnames=names)
    serving.reported("two", revision)
    pid = serving.page("two.localhost")["pid"]
    serving.stop("agent")
    (serving.home / "state" / "head.json").write_bytes(b"\0" * 40)
    for path in (serving.home / "state" / "sites").iterdir():
        path.unlink()
    same = serving.sql("SELECT document FROM agent_v1.site WHERE slug = 'two'")[0][0]
    other = serving.document("one", 1, "demo-1", generation=5, environment={"COLOR": "restored"})
    restore_backup(serving, 2, other, same)
    serving.start_agent()
    wait_until(lambda: started_with(serving, "one.localhost") == "restored")
    assert serving.page("two.localhost")["pid"] == pid
    wait_until(lambda: "MemoryDamaged" not in conditions(serving))
    assert "head.json is damaged" in serving.output("agent")


def test_the_memory_of_a_newer_release_is_not_used_and_not_lost(serving: Node) -> None:
    serving.reported("one", put_site(serving, "one", 1))
    head = serving.home / "state" / "head.json"
    wait_until(head.exists)
    serving.stop("agent")
    newer = b'{"version": 9, "epoch": "x", "revision": 99}'
    head.write_bytes(newer)
    serving.start_agent()
    serving.reported("one", put_site(serving, "one", 1, hostnames=["again.localhost"]))
    kept = head.with_name("head.json.newer")
    wait_until(kept.exists)
    assert kept.read_bytes() == newer
    assert "newer release (version 9" in serving.output("agent")


def test_a_clock_that_is_an_hour_off_is_said_and_disturbs_nothing(serving: Node) -> None:
    serving.sql("UPDATE agent_v1.state SET clock_ahead = '1 hour'")
    serving.reported("one", put_site(serving, "one", 1))
    wait_until(lambda: "3600 s behind" in conditions(serving).get("ClockSkewed", ""))
    assert serving.page("one.localhost")["site"] == "one"
    serving.sql("UPDATE agent_v1.state SET clock_ahead = '0'")
    wait_until(lambda: "ClockSkewed" not in conditions(serving))


def test_notifications_are_proven_and_said(serving: Node) -> None:
    wait_until(lambda: report(serving).get("notifications") is True)
    assert report(serving)["version"]


def test_a_check_on_demand_is_answered(serving: Node) -> None:
    serving.reported("one", put_site(serving, "one", 1))
    link = serving.home / "run" / "hosts" / "one.localhost"
    link.unlink()
    serving.sql("SELECT agent_v1.ask(%s)", json.dumps({"check_repair": True}))
    began = time.monotonic()
    wait_until(lambda: report(serving).get("checked", {}).get("id") == 1)
    wait_until(lambda: link.is_symlink() and serving.get("one.localhost")[0] == 200)
    print(f"deleted link: found and repaired {time.monotonic() - began:.2f} s after the order")
    rows = serving.sql("SELECT report->'drift' FROM agent_v1.received WHERE report ? 'drift' ORDER BY number")
    drifts = [drift for (drifts,) in rows for drift in drifts]
    assert any("one.localhost" in drift["path"] for drift in drifts), drifts
    wait_until(
        lambda: serving.sql(
            "SELECT 1 FROM agent_v1.received, jsonb_array_elements(report->'drift') d"
            " WHERE d->>'path' LIKE '%%one.localhost' AND d->>'repaired_seconds' IS NOT NULL"
        )
    )


@pytest.mark.parametrize("path", ["/", "/.tenantry/ready"])
def test_a_node_that_drains_says_when_it_is_drained_and_comes_back(serving: Node, path: str) -> None:
    serving.reported("one", put_site(serving, "one", 1))
    if path != "/":
        assert serving.get("nobody.localhost", path)[0] == 200
    serving.sql("SELECT agent_v1.ask(%s)", json.dumps({"draining": True}))
    if path != "/":
        wait_until(lambda: serving.get("nobody.localhost", path)[0] == 503)
    wait_until(lambda: "Drained" in conditions(serving), 15)
    assert serving.page("one.localhost")["site"] == "one"
    serving.sql("SELECT agent_v1.ask(%s)", json.dumps({"draining": False}))
    wait_until(lambda: "Drained" not in conditions(serving))
