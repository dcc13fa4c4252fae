"""A site from its creation to its deletion, through the command line, on the real nginx, uWSGI and PostgreSQL."""

import json
import subprocess
from pathlib import Path
from typing import Any


def test_a_created_site_serves_and_says_so(platform: Any) -> None:
    site = platform.create("life-one", "demo")
    assert site["status"] == "ready"
    assert [node["state"] for node in site["nodes"]] == ["serving"]
    assert platform.get("life-one.localhost").status_code == 200
    listed = platform.json("site", "list", "--project", "demo")
    assert "life-one" in [entry["slug"] for entry in listed]
    assert platform.json("site", "show", "life-one")["hostnames"] == ["life-one.localhost"]
    platform.delete("life-one")


def test_hostnames_come_and_go_without_a_reload(platform: Any) -> None:
    platform.create("names", "demo")
    workers = platform.nginx_workers()
    vassals = platform.pids("names.")
    platform.tenantry("hostname", "add", "names", "other-name.localhost", "--wait")
    assert platform.get("other-name.localhost").status_code == 200
    platform.tenantry("hostname", "remove", "names", "other-name.localhost", "--wait")
    assert platform.get("other-name.localhost").status_code == 404
    assert platform.get("names.localhost").status_code == 200
    assert platform.nginx_workers() == workers
    assert platform.pids("names.") == vassals
    platform.delete("names")
    assert platform.nginx_workers() == workers


def test_an_update_switches_to_a_new_generation_and_the_old_one_ends(platform: Any) -> None:
    before = platform.create("update-me", "demo", "--env", "GREETING=one")
    old = platform.pids(f"update-me.{before['generation']}")
    after = platform.json("site", "update", "update-me", "--env", "GREETING=two", "--wait")
    assert after["generation"] > before["generation"]
    printed = platform.tenantry(
        "site", "manage", "update-me", "shell", "-c", "import os; print('<' + os.environ['GREETING'] + '>')"
    )
    assert "<two>" in printed
    platform.eventually(lambda: not set(old) & set(platform.processes()))
    assert platform.get("update-me.localhost").status_code == 200
    platform.delete("update-me")


def test_an_update_or_restart_fails_no_request(platform: Any) -> None:
    platform.create("steady", "demo")
    restart = subprocess.Popen(
        [platform.home / "venv/bin/tenantry", "site", "restart", "steady", "--wait"],
        env=platform.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    answers = []
    while restart.poll() is None:
        answers.append(platform.get("steady.localhost").status_code)
    output = restart.communicate()[0]
    assert restart.returncode == 0, output
    answers += [platform.get("steady.localhost").status_code for _ in range(20)]
    assert set(answers) == {200}
    platform.delete("steady")


def test_a_deleted_site_leaves_its_dump_and_nothing_else(platform: Any) -> None:
    number = platform.create("gone", "demo")["number"]
    done = platform.run("site", "delete", "gone", "--wait", given="gone\n")
    if done.returncode != 0:  # asked only at a terminal: then the slug is an option
        platform.tenantry("site", "delete", "gone", "--confirm", "gone", "--wait")
    assert platform.get("gone.localhost").status_code == 404
    with platform.superuser() as postgres:
        databases = {row[0] for row in postgres.execute("SELECT datname FROM pg_database")}
        roles = {row[0] for row in postgres.execute("SELECT rolname FROM pg_roles")}
    assert f"site_{number}" not in databases | roles
    left = [
        path
        for part in ("run", "data", "state/sites")
        for path in (platform.home / part).rglob("*")
        if path.name.split(".")[0] == "gone"
    ]
    assert not left
    assert not platform.pids("gone.")
    dumps = [path for path in (platform.home / "backups").rglob("*") if "gone" in str(path) and path.is_file()]
    assert any(path.stat().st_size for path in dumps)


def test_delete_wants_the_slug(platform: Any) -> None:
    platform.create("keep-me", "demo")
    assert platform.run("site", "delete", "keep-me", "--confirm", "keep-you").returncode != 0
    assert platform.run("site", "delete", "keep-me", given="").returncode != 0
    with platform.api() as api:
        assert api.delete("/sites/keep-me").status_code == 422
        assert api.delete("/sites/keep-me", params={"confirm": "keep-you"}).status_code == 422
    assert platform.get("keep-me.localhost").status_code == 200
    platform.delete("keep-me")


def test_manage_runs_as_the_site_and_passes_its_exit_code(platform: Any) -> None:
    platform.create("commands", "demo")
    code = (
        "import os, json; print('@' + json.dumps([os.getuid(), os.environ['TENANTRY_SITE'], os.environ['PGDATABASE']]))"
    )
    printed = platform.tenantry("site", "manage", "commands", "shell", "-c", code)
    uid, slug, database = json.loads(printed.partition("@")[2].splitlines()[0])
    site = platform.json("site", "show", "commands")
    assert (slug, database) == ("commands", f"site_{site['number']}")
    base = json.loads((platform.home / "config.json").read_text())["uid_base"]
    if base is not None:
        assert uid == base + 20_000 + site["number"]
    assert platform.run("site", "manage", "commands", "no-such-command").returncode not in (0, 2)
    assert platform.run("site", "manage", "commands", "shell", "-c", "raise SystemExit(7)").returncode == 7
    platform.delete("commands")


def test_logs_show_what_the_site_printed(platform: Any) -> None:
    log = platform.tenantry("site", "logs", "alpha", "--lines", "50")
    assert log.strip()


def test_the_change_log_has_every_step_once_and_in_order(platform: Any) -> None:
    platform.create("logged", "demo")
    platform.delete("logged")
    with platform.api() as api:
        changes: list[dict[str, Any]] = []
        since = 0
        while page := api.get("/changes", params={"since": since, "limit": 100}).json():
            items = page["items"] if isinstance(page, dict) else page
            if not items:
                break
            changes += items
            since = max(change["revision"] for change in changes)
    revisions = sorted(change["revision"] for change in changes)
    assert revisions == list(range(1, len(revisions) + 1))
    ours = [change["type"] for change in sorted(changes, key=lambda c: c["revision"]) if change["site"] == "logged"]
    assert ours[:2] == ["site.created", "site.provisioned"]
    assert ours[-2:] == ["site.deleted", "site.removed"]


def test_the_routing_table_is_links_only(platform: Any) -> None:
    hosts = list((platform.home / "run" / "hosts").iterdir())
    assert {"alpha.localhost", "beta.localhost", "gamma.localhost"} <= {path.name for path in hosts}
    for path in hosts:
        assert path.is_symlink()
        assert Path(path.readlink()).parts[:2] == ("..", "sites")
