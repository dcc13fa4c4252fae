"""Every command against the real control application, served by granian, on a real PostgreSQL.

Jobs and the node do not run here: `World` reports in their place, through the services and functions they use.
"""

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import psycopg
import pytest

from tenantry.testing.control import (
    NODE_NAME,
    NODE_ROLE,
    ControlDatabase,
    create_control_database,
    drop_control_database,
)
from tenantry.testing.fixtures import control_template, postgres_server
from tenantry.testing.postgres import PORT, PostgresServer

__all__ = ["control_template", "postgres_server"]

START_SECONDS = 30
GIVE_UP_SECONDS = 15


@dataclass
class World:
    """A running control application, and the means to act as its jobs and its node."""

    url: str
    token: str
    home: Path
    database: ControlDatabase

    def report(self, *sites: dict[str, Any], **more: Any) -> None:
        """Say what the node says: it has applied every change, and these states of sites."""
        with psycopg.connect(self.database.dsn(NODE_ROLE), autocommit=True) as connection:
            head = connection.execute("SELECT agent_v1.head()").fetchone()
            assert head is not None
            document = {**head[0], "digest": "sha256:0", "conditions": [], **more, "sites": list(sites)}
            connection.execute("SELECT agent_v1.report(%s::jsonb)", [json.dumps(document)])

    def serve(self, slug: str, **different: Any) -> None:
        """Say that the node serves the site as it is wanted now."""
        from tenantry.control.sites.models import Site

        site = Site.objects.get(slug=slug)
        state = {"slug": slug, "revision": site.revision, "generation": site.generation, "state": "serving"}
        self.report(state | different)

    def provision(self, slug: str) -> None:
        """Do what the provisioning job does at its end."""
        from tenantry.control.sites import services
        from tenantry.control.sites.models import Site

        services.mark_site_provisioned(Site.objects.get(slug=slug).number)

    def build(self, release: str) -> None:
        """Do what a successful build does at its end."""
        from tenantry.control.releases import services

        facts = services.ReleaseFacts(
            digest="sha256:1",
            commit="",
            python="3.11.7",
            django="5.2.1",
            wsgi="demo.wsgi:application",
            settings="demo.settings",
            manage="manage.py",
            static="static",
        )
        services.finish_release(release, facts)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def allowed(blocker: Any) -> AbstractContextManager[Any]:
    """pytest-django forbids the database outside its own fixtures, when it is configured at all."""
    allowing: AbstractContextManager[Any] = blocker.unblock() if blocker is not None else nullcontext()
    return allowing


@pytest.fixture(scope="module")
def world(
    control_template: PostgresServer, django_db_blocker: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    """Control with an administrator, a token, and one project whose first release is built."""
    with allowed(django_db_blocker):
        database = create_control_database(control_template)
        home = tmp_path_factory.mktemp("home")
        try:
            token = administrator_token()
            with served(database, home) as url:
                made = World(url, token, home, database)
                add_project(made, "demo")
                yield made
        finally:
            drop_control_database(database)


def administrator_token() -> str:
    from tenantry.control.access import services
    from tenantry.control.access.actors import Actor

    services.ensure_administrator("admin", "not-for-production")
    return services.create_token(Actor(name="admin", is_admin=True, username="admin"), "tests")[1]


def add_project(world: World, name: str) -> None:
    """A project whose first release is built."""
    from tenantry.control.access.actors import SETUP
    from tenantry.control.releases import services

    services.add_project(SETUP, services.ProjectRequest(name=name, source=f"/srv/{name}"))
    world.build(f"{name}-1")
    world.report()


class served:
    """granian in a process of its own, on a free port; its log is shown when it does not start."""

    def __init__(self, database: ControlDatabase, home: Path) -> None:
        from django.conf import settings

        self.url = f"http://127.0.0.1:{free_port()}"
        self.log = home / "control.log"
        self.config = home / "control.json"
        document = {
            "home": str(home),
            "database": {
                "host": database.server.host,
                "port": PORT,
                "name": database.name,
                "user": "tenantry_control",
                "password": "",
            },
            "platform_key": settings.TENANTRY.platform_key,
            "secret_key": "only-for-tests",
            "allowed_hosts": ["127.0.0.1"],
            "control_url": self.url,
            "http_port": 8080,
        }
        self.config.write_text(json.dumps(document))

    def __enter__(self) -> str:
        port = self.url.rpartition(":")[2]
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [
                    str(Path(sys.executable).with_name("granian")),
                    *("--interface", "asgi", "--host", "127.0.0.1", "--port", port),
                    *("--workers-kill-timeout", "2", "tenantry.control.asgi:application"),
                ],
                env={**os.environ, "TENANTRY_CONTROL_CONFIG": str(self.config)},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                urlopen(f"{self.url}/readyz", timeout=5).close()
                return self.url
            except (URLError, OSError) as error:
                answered = isinstance(error, HTTPError)
                if answered:
                    error.close()
                if answered or self.process.poll() is not None or time.monotonic() > deadline:
                    self.__exit__()
                    pytest.fail(f"control does not start ({error}):\n{self.log.read_text()[-4000:]}")
                time.sleep(0.05)

    def __exit__(self, *error: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(GIVE_UP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(GIVE_UP_SECONDS)


@pytest.fixture
def platform(world: World, monkeypatch: pytest.MonkeyPatch, django_db_blocker: Any) -> Iterator[World]:
    """The world, connected to by the environment; every node has just spoken."""
    monkeypatch.setenv("TENANTRY_URL", world.url)
    monkeypatch.setenv("TENANTRY_TOKEN", world.token)
    with allowed(django_db_blocker):
        world.report()
        yield world


class Running:
    """A command line in a process of its own, so that the test can act while it waits."""

    def __init__(self, *words: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tenantry.cli.main", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=GIVE_UP_SECONDS)
        return self.process.returncode, out, err


def until(happened: Callable[[], bool]) -> None:
    """Wait for something that another process does."""
    deadline = time.monotonic() + GIVE_UP_SECONDS
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def site_exists(slug: str) -> bool:
    from tenantry.control.sites.models import Site

    return Site.objects.filter(slug=slug).exists()


def forget(slug: str) -> None:
    """Take a site away as its removal does at its end: later tests ask every site of the platform."""
    from tenantry.control.access.actors import SETUP
    from tenantry.control.sites import services

    services.finish_site_removal(services.delete_site(SETUP, slug, confirm=slug).number, None)


def create_served(cli: Any, platform: World, slug: str, *more: str) -> None:
    assert cli("site", "create", slug, "--project", "demo", "--hostname", f"{slug}.localhost", *more).code == 0
    platform.provision(slug)
    platform.serve(slug)


def test_whoami(cli: Any, platform: World) -> None:
    done = cli("whoami")
    assert done.code == 0
    assert "admin" in done.out
    assert platform.url in done.out
    assert "admin" in json.dumps(cli("whoami", "--json").document())


def test_a_wrong_token_is_refused_in_two_lines(cli: Any, platform: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENANTRY_TOKEN", "tnt_wrong")
    done = cli("site", "list")
    assert (done.code, done.out) == (1, "")
    assert "TENANTRY_URL" in done.err
    assert len(done.err.splitlines()) == 2


def test_create_and_wait_returns_when_the_node_serves(platform: World) -> None:
    create = Running("site", "create", "waited", "-p", "demo", "--hostname", "waited.localhost", "--wait")
    until(lambda: site_exists("waited"))
    platform.provision("waited")
    assert create.process.poll() is None, "provisioned is not served"
    platform.serve("waited")
    code, out, err = create.finish()
    assert (code, err) == (0, "")
    assert "waited serves at http://waited.localhost:8080/ after " in out


def test_create_and_wait_as_json_is_the_site(platform: World) -> None:
    create = Running("site", "create", "waited-json", "-p", "demo", "--wait", "--json")
    until(lambda: site_exists("waited-json"))
    platform.provision("waited-json")
    platform.serve("waited-json")
    code, out, err = create.finish()
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert (document["slug"], document["status"], document["nodes"][0]["state"]) == ("waited-json", "ready", "serving")


def test_a_site_that_does_not_start_fails_with_the_log(platform: World) -> None:
    create = Running("site", "create", "broken", "-p", "demo", "--wait")
    until(lambda: site_exists("broken"))
    platform.provision("broken")
    log = "Traceback (most recent call last):\nImportError: no module named \x1b[31mshop"
    platform.serve("broken", state="failed", message="it answers 500", log=log)
    code, out, err = create.finish()
    assert (code, out) == (1, "")
    assert "  | ImportError: no module named \\x1b[31mshop" in err.splitlines()
    assert f"error: broken does not start on {NODE_NAME}: it answers 500" in err.splitlines()


def test_a_site_that_cannot_be_provisioned_fails_with_the_reason(platform: World) -> None:
    from tenantry.control.sites import services
    from tenantry.control.sites.models import Site

    create = Running("site", "create", "unprovisioned", "-p", "demo", "--wait")
    until(lambda: site_exists("unprovisioned"))
    services.mark_site_failed(Site.objects.get(slug="unprovisioned").number, "the disk is full")
    code, _, err = create.finish()
    assert code == 1
    assert err.startswith("error: unprovisioned failed: the disk is full\n")


def test_waiting_ends(cli: Any, platform: World) -> None:
    done = cli("site", "create", "slow", "-p", "demo", "--wait", "--timeout", "1")
    assert done.code == 1
    assert "slow is not served everywhere after 1 s (status provisioning; node-1 absent, " in done.err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("site", "create", "taken", "-p", "demo"), 2, "slug: "),
        (("site", "create", "fresh", "-p", "nothing"), 2, "project: "),
        (("site", "create", "fresh", "-p", "demo", "--hostname", "taken.localhost"), 2, "hostnames: "),
        (("site", "create", "fresh", "-p", "demo", "--env", "PATH=/x"), 2, "environment"),
        (("site", "create", "fresh", "-p", "demo", "--release", "demo-99"), 2, "release: "),
        (("site", "create", "fresh", "-p", "demo", "--processes", "9999"), 2, "processes: "),
        (("site", "create", "fresh", "-p", "demo", "--processes", "3", "--processes-max", "2"), 2, "processes_max: "),
        (("site", "update", "taken", "--memory-mb", "-1"), 2, "--memory-mb"),
        (("site", "runtime", "taken", "pooled"), 2, "runtime: "),
        (("hostname", "add", "taken", "taken.localhost"), 2, "name: "),
        (("site", "show", "nothing"), 1, "nothing"),
        (("site", "restart", "nothing"), 1, "nothing"),
        (("project", "show", "nothing"), 1, "nothing"),
        (("project", "remove", "demo", "--yes"), 1, "delete them first"),
        (("release", "show", "demo-99"), 1, "demo-99"),
        (("release", "activate", "demo-99"), 1, "demo-99"),
        (("node", "show", "nothing"), 1, "nothing"),
        (("token", "revoke", "999999"), 1, "999999"),
        (("project", "add", "/srv/x", "--name", "demo"), 2, "name: "),
        (("project", "add", "/srv/x", "--name", "other", "--python", "two"), 2, "python: "),
        (("token", "create", ""), 2, "name: "),
    ],
)
def test_what_is_refused_has_its_exit_code_and_names_the_field(
    cli: Any, platform: World, words: tuple[str, ...], code: int, said: str
) -> None:
    if not site_exists("taken"):
        create_served(cli, platform, "taken")
    done = cli(*words, "--json")
    assert (done.code, done.out) == (code, "")
    assert said in done.err
    assert len(done.err.splitlines()) <= 2
    assert not site_exists("fresh")


def test_list_show_update_restart(cli: Any, platform: World) -> None:
    create_served(cli, platform, "blog", "--env", "GREETING=hello")
    row = next(line for line in cli("site", "list", "--project", "demo").out.splitlines() if line.startswith("blog "))
    assert row.split()[1:3] == ["serving", "demo-1"]
    assert cli("site", "list", "--query", "no such text", "--json").document() == []
    card = cli("site", "show", "blog").out
    assert "GREETING" in card
    assert "hello" not in card, "values are secrets"
    assert f"{NODE_NAME}: serving" in card

    changed = cli("site", "update", "blog", "--processes", "2", "--json").document()
    assert (changed["processes"], changed["generation"]) == (2, 2)
    restarted = cli("site", "restart", "blog", "--json").document()
    assert restarted["generation"] == 3
    limits = ("--memory-mb", "512", "--request-seconds", "30", "--processes-max", "4", "--disk-mb", "2048")
    limited = cli("site", "update", "blog", *limits, "--idle-seconds", "600", "--json").document()
    assert limited["limits"] == {
        "idle_seconds": 600, "request_seconds": 30, "processes_max": 4, "memory_mb": 512, "disk_mb": 2048,
    }  # fmt: skip
    card = cli("site", "show", "blog").out
    assert "requests 30 s, up to 4 processes, memory 512 MB, disk 2048 MB, sleeps after 600 s" in " ".join(card.split())
    assert cli("site", "runtime", "blog", "on_demand", "--json").document()["runtime"] == "on_demand"
    row = next(line for line in cli("site", "list").out.splitlines() if line.startswith("blog "))
    assert row.split()[1] == "starting"


def test_sites_of_many_pages_are_all_listed(cli: Any, platform: World) -> None:
    for number in range(7):
        assert cli("site", "create", f"page-{number}", "-p", "demo").code == 0
    from tenantry.cli import sites

    assert len(cli("site", "list", "-q", "page-", "--json").document()) == 7
    assert len(cli("site", "list", "-q", "page-", "--limit", "3", "--json").document()) == 3
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patched:
        patched.setattr(sites, "PAGE_SIZE", 2)
        assert len(cli("site", "list", "-q", "page-", "--json").document()) == 7


def test_an_update_to_a_release_whose_migrations_fail_says_so(cli: Any, platform: World) -> None:
    from tenantry.control.sites import services
    from tenantry.control.sites.models import Site

    create_served(cli, platform, "mover")
    assert cli("release", "build", "demo", "--no-wait").code == 0
    newest = cli("release", "list", "demo", "--json").document()[0]["name"]
    platform.build(newest)
    update = Running("site", "update", "mover", "--release", newest, "--wait")
    until(lambda: Site.objects.filter(slug="mover", pending_release__name=newest).exists())
    services.fail_site_upgrade(Site.objects.get(slug="mover").number, "column exists")
    platform.serve("mover")
    code, out, err = update.finish()
    assert (code, out) == (1, "")
    assert err.splitlines()[0] == f"error: mover was not moved to {newest}: column exists"


def test_an_old_error_does_not_fail_what_is_done_later(cli: Any, platform: World) -> None:
    from tenantry.control.sites import services
    from tenantry.control.sites.models import Site

    create_served(cli, platform, "scarred")
    services.fail_site_upgrade(Site.objects.get(slug="scarred").number, "column exists")
    restart = Running("site", "restart", "scarred", "--wait")
    until(lambda: Site.objects.filter(slug="scarred", generation=2).exists())
    platform.serve("scarred")
    assert restart.finish()[0] == 0
    add = Running("hostname", "add", "scarred", "www.scarred.localhost")
    until(lambda: Site.objects.filter(slug="scarred", hostnames__name="www.scarred.localhost").exists())
    platform.serve("scarred")
    assert add.finish() == (0, "www.scarred.localhost leads to scarred.\n", "")


def test_hostnames(cli: Any, platform: World) -> None:
    create_served(cli, platform, "named")
    assert cli("hostname", "add", "named", "WWW.Named.example.org.", "--no-wait").code == 0
    listed = {entry["name"]: entry["site"] for entry in cli("hostname", "list", "--json").document()}
    assert listed["www.named.example.org"] == "named"
    assert "www.named.example.org" in cli("hostname", "list").out
    platform.serve("named")
    remove = Running("hostname", "remove", "named", "www.named.example.org", "--json")
    until(lambda: "www.named.example.org" not in cli("hostname", "list").out)
    platform.serve("named")
    code, out, err = remove.finish()
    assert (code, err) == (0, "")
    assert json.loads(out) == {"removed": "www.named.example.org", "site": "named"}
    assert cli("hostname", "remove", "named", "www.named.example.org").code == 1


def test_delete_needs_the_slug(cli: Any, platform: World) -> None:
    create_served(cli, platform, "kept")
    wrong = cli("site", "delete", "kept", "--confirm", "other")
    assert (wrong.code, wrong.out) == (2, "")
    unasked = cli("site", "delete", "kept")  # pytest has no terminal
    assert unasked.code == 2
    assert "--confirm" in unasked.err
    assert cli("site", "show", "kept", "--json").document()["status"] == "ready"


def test_delete_waits_until_it_is_gone_and_says_where_the_dump_is(cli: Any, platform: World) -> None:
    from tenantry.control.sites import services
    from tenantry.control.sites.models import Site

    create_served(cli, platform, "leaving")
    delete = Running("site", "delete", "leaving", "--confirm", "leaving", "--wait", "--json")
    until(lambda: Site.objects.filter(slug="leaving", status="deleting").exists())
    number = Site.objects.get(slug="leaving").number
    platform.report({"slug": "leaving", "revision": 1, "generation": 1, "state": "absent"})
    services.finish_site_removal(number, "/srv/backups/leaving.dump")
    code, out, err = delete.finish()
    assert (code, err) == (0, "This deletes" if err.startswith("This") else "")
    assert json.loads(out) == {"slug": "leaving", "gone": True, "dump": "/srv/backups/leaving.dump"}


def test_delete_claims_no_dump_that_was_not_made(cli: Any, platform: World) -> None:
    from tenantry.control.sites import services
    from tenantry.control.sites.models import Site

    create_served(cli, platform, "bare")
    delete = Running("site", "delete", "bare", "--confirm", "bare", "--wait")
    until(lambda: Site.objects.filter(slug="bare", status="deleting").exists())
    platform.report({"slug": "bare", "revision": 1, "generation": 1, "state": "absent"})
    services.finish_site_removal(Site.objects.get(slug="bare").number)
    code, out, _ = delete.finish()
    assert code == 0
    assert out == "bare is deleted.\nNo dump of it was made.\n"


def test_projects_and_releases(cli: Any, platform: World, tmp_path: Path) -> None:
    source = tmp_path / "My Shop"
    source.mkdir()
    added = cli("project", "add", str(source), "--env", "A=1", "--python", "3.11", "--no-wait")
    assert added.code == 0
    assert "my-shop-1" in added.out
    shown = cli("project", "show", "my-shop", "--json").document()
    assert (shown["source"], shown["environment_names"], shown["python"]) == (str(source), ["A"], "3.11")
    assert "my-shop" in cli("project", "list").out
    assert cli("release", "show", "my-shop-1", "--json").document()["status"] == "queued"
    assert cli("release", "activate", "my-shop-1").code == 1
    platform.build("my-shop-1")
    assert cli("release", "activate", "my-shop-1").code == 0
    assert "current" in cli("release", "list", "my-shop").out
    assert "5.2.1" in cli("release", "show", "my-shop-1").out
    assert cli("project", "update", "my-shop", "--warm-path", "/", "--warm-path", "/basket").code == 0
    assert cli("project", "show", "my-shop", "--json").document()["warm_paths"] == ["/", "/basket"]
    assert cli("project", "update", "my-shop", "--no-warm-paths", "--json").document()["warm_paths"] == []
    assert cli("project", "update", "my-shop").code == 2
    refused = cli("project", "update", "my-shop", "--warm-path", "basket")
    assert (refused.code, "warm_paths" in refused.err or "warm-path" in refused.err) == (2, True), refused.err
    removed = cli("project", "remove", "my-shop", "--yes", "--json")
    assert (removed.code, removed.document()) == (0, {"removed": "my-shop"})


def test_a_build_is_shown_step_by_step(platform: World, tmp_path: Path) -> None:
    from tenantry.control.releases import services
    from tenantry.control.releases.models import Release

    add = Running("project", "add", str(tmp_path), "--name", "stepped")
    until(lambda: Release.objects.filter(name="stepped-1").exists())
    services.start_release_step("stepped-1", "virtualenv")
    assert add.process.stderr is not None
    time.sleep(1)  # two polls of the command
    services.start_release_step("stepped-1", "check")
    assert "virtualenv" in add.process.stderr.readline()
    platform.build("stepped-1")
    code, out, err = add.finish()
    assert (code, out) == (0, "stepped is ready: release stepped-1.\n")
    assert "✓ check" in err


def test_a_build_that_fails_says_the_step_and_shows_the_log(platform: World, tmp_path: Path) -> None:
    from tenantry.control.releases import services
    from tenantry.control.releases.models import Release

    add = Running("project", "add", str(tmp_path), "--name", "unbuildable")
    until(lambda: Release.objects.filter(name="unbuildable-1").exists())
    services.fail_release("unbuildable-1", "install", "no such package: djagno", "ERROR: djagno not found")
    code, out, err = add.finish()
    assert (code, out) == (1, "")
    assert "  | ERROR: djagno not found" in err
    assert "unbuildable-1 was not built: it failed at «install»: no such package: djagno" in err
    assert "release build unbuildable" in err


def test_nodes_status_and_doctor(cli: Any, platform: World) -> None:
    assert NODE_NAME in cli("node", "list").out
    assert cli("node", "show", NODE_NAME, "--json").document()["state"] == "ready"
    assert "every change is applied" in cli("node", "show", NODE_NAME).out
    status = cli("status", "--json").document()
    assert status["nodes"][0]["name"] == NODE_NAME
    assert NODE_NAME in cli("status").out
    found = {one["check"]: one for one in cli("doctor", "--json").document()["findings"]}
    assert [found[name]["state"] for name in ("api", "ready", "token")] == ["ok", "ok", "ok"]
    assert found["postgresql"]["state"] == "ok"
    assert f"node {NODE_NAME}" in found


def test_status_says_what_is_wrong_in_words(cli: Any, platform: World) -> None:
    done = cli("status")
    assert "NODE" in done.out
    assert "DIGEST" in done.out
    node = cli("node", "list", "--json").document()[0]
    assert (node["agrees"], node["drift_open"], node["notifications"]) == (None, 0, None)
    platform.report(
        drift=[{"site": None, "kind": "mode", "path": "run/hosts", "detail": "0777, not 0755", "found_seconds": 1.0}],
        conditions=[{"type": "MassRemovalRefused", "status": True, "message": "9 of 10. Confirm with 1f2e3d4c"}],
        notifications=False,
    )
    try:
        done = cli("status")
        assert done.code == 1
        assert f"  - {NODE_NAME} has drifted in 1 place: see «tenantry node drift {NODE_NAME}»." in done.out
        assert "reports MassRemovalRefused: 9 of 10." in done.out
        assert f"note: {NODE_NAME} polls for changes" in done.out
        assert cli("status", "--json").document()["converged"] is False
        shown = cli("node", "show", NODE_NAME).out
        assert "Drift that is not repaired:" in shown
        assert "run/hosts" in shown
        assert "by polling" in shown
        assert cli("node", "confirm", NODE_NAME, "00000000").code == 1
        assert "token: " in cli("node", "confirm", NODE_NAME, "x").err
        assert cli("node", "confirm", NODE_NAME, "1f2e3d4c").code == 0
        assert "mode  " in cli("node", "drift", NODE_NAME, "--open").out
    finally:
        repaired = {"site": None, "kind": "mode", "path": "run/hosts", "found_seconds": 1.0, "repaired_seconds": 0.5}
        platform.report(drift=[repaired | {"took_seconds": 0.25}], notifications=True)
    assert "0.25 s" in cli("node", "drift", NODE_NAME).out


def test_a_check_is_waited_for(platform: World) -> None:
    check = Running("node", "check", NODE_NAME)
    from tenantry.control.fleet.models import Node

    until(lambda: Node.objects.get().check_requested > Node.objects.get().checked_id)
    number = Node.objects.get().check_requested
    platform.report(checked={"id": number, "sites": 2, "paths": 9, "seconds": 0.1, "cpu_seconds": 0.1, "drift": 0})
    code, out, err = check.finish()
    assert (code, err) == (0, "")
    assert f"{NODE_NAME}: as it should be (2 sites and 9 paths compared in 0.10 s)" in out


def test_a_node_is_drained_and_comes_back(cli: Any, platform: World) -> None:
    drain = Running("node", "drain", NODE_NAME, "--wait")
    from tenantry.control.fleet.models import Node

    until(lambda: Node.objects.get().draining)
    assert "is still draining" in cli("node", "remove", NODE_NAME, "--confirm", NODE_NAME).err
    platform.report(conditions=[{"type": "Drained", "status": True, "message": ""}])
    code, out, _ = drain.finish()
    assert (code, out) == (0, f"{NODE_NAME} is drained: no visitor is connected.\n")
    assert "is drained." in cli("status").out
    assert cli("node", "drain", NODE_NAME, "--undo").code == 0
    platform.report()
    assert cli("node", "show", NODE_NAME, "--json").document()["state"] == "ready"


def test_a_change_of_no_site_waits_for_every_node(cli: Any, platform: World) -> None:
    platform.build(cli("release", "build", "demo", "--no-wait", "--json").document()["name"])
    done = cli("release", "activate", "demo-1", "--wait", "--timeout", "1")
    assert done.code == 1
    assert f"is not applied everywhere after 1 s: {NODE_NAME} is at revision " in done.err
    activate = Running("release", "activate", "demo-1", "--wait")
    time.sleep(0.3)
    assert activate.process.poll() is None
    platform.report()
    assert activate.finish()[0] == 0


def test_a_mode_is_waited_for_and_an_unreachable_node_is_a_note(cli: Any, platform: World) -> None:
    create_served(cli, platform, "moody")
    from tenantry.control.fleet.models import Node
    from tenantry.control.sites.models import Site

    Node.objects.create(name="far", role="far", last_contact=datetime(2020, 1, 1, tzinfo=UTC))
    try:
        mode = Running("site", "mode", "moody", "maintenance", "--wait")
        until(lambda: Site.objects.get(slug="moody").mode == "maintenance")
        platform.serve("moody")
        code, out, err = mode.finish()
        assert code == 0, err
        assert out.startswith("moody is maintenance after ")
        assert "note: far is out of reach (last heard of 2020-01-01)" in err
        assert "far is silent" in cli("status").out
    finally:
        Node.objects.filter(name="far").delete()
    assert cli("site", "mode", "moody", "off").code == 2
    assert "(the latest)" in cli("site", "show", "moody").out


def test_a_mode_holds_though_the_newest_generation_does_not_start(cli: Any, platform: World) -> None:
    from tenantry.control.sites.models import Site

    add_project(platform, "halts")
    assert cli("site", "create", "halting", "--project", "halts").code == 0
    platform.provision("halting")
    assert cli("site", "restart", "halting").code == 0
    failed = {"state": "failed", "message": "it answers 500."}
    note = f"note: the newest generation of halting does not start on {NODE_NAME}: it answers 500."
    platform.serve("halting", **failed)
    before = Site.objects.get(slug="halting").revision
    mode = Running("site", "mode", "halting", "maintenance", "--wait")
    until(lambda: Site.objects.get(slug="halting").mode == "maintenance")
    platform.report({"slug": "halting", "revision": before, "generation": 2, **failed})
    assert mode.process.poll() is None, "the node has not applied the mode"
    platform.serve("halting", **failed)
    code, out, err = mode.finish()
    assert (code, out.startswith("halting is maintenance after ")) == (0, True), err
    assert note in err

    revoke = Running("site", "bypass", "halting", "--revoke", "--wait", "--json")
    until(lambda: Site.objects.get(slug="halting").revision > before + 1)
    platform.serve("halting", **failed)
    code, out, err = revoke.finish()
    assert (code, json.loads(out)["slug"]) == (0, "halting"), err
    assert note in err

    every = Running("site", "mode", "--all", "--project", "halts", "paused", "--wait")
    until(lambda: Site.objects.get(slug="halting").mode == "paused")
    platform.serve("halting", **failed)
    code, out, err = every.finish()
    assert (code, out) == (0, "1 sites are paused now, 0 were already.\n"), err
    assert note in err
    forget("halting")


def test_a_mode_that_the_database_does_not_follow_is_an_error_all_the_same(cli: Any, platform: World) -> None:
    from tenantry.control.sites.database_mode import fail_database_mode
    from tenantry.control.sites.models import Site

    add_project(platform, "writes")
    assert cli("site", "create", "writing", "--project", "writes").code == 0
    platform.provision("writing")
    failed = {"state": "failed", "message": "it answers 500"}
    mode = Running("site", "mode", "writing", "read_only", "--wait")
    until(lambda: Site.objects.get(slug="writing").mode == "read_only")
    platform.serve("writing", **failed)
    time.sleep(1)
    assert mode.process.poll() is None, "the nodes have it, the database has not"
    fail_database_mode(Site.objects.get(slug="writing").number, "it does not answer.")
    code, out, err = mode.finish()
    assert (code, out) == (1, "")
    assert "error: writing was not changed: The database could not be made read-only: it does not answer." in err
    forget("writing")


def test_what_goes_with_a_mode_is_typed_and_shown(cli: Any, platform: World, tmp_path: Path) -> None:
    create_served(cli, platform, "shut")
    page = tmp_path / "page.html"
    page.write_text("<h1>Soon</h1>")
    words = ("--message", "Back soon", "--retry-after", "30", "--until", "+1", "--page", str(page), "--allow", "::1")
    wrong = cli("site", "mode", "shut", "maintenance", *words)
    assert (wrong.code, "until: «+1» is no time" in wrong.err) == (2, True)
    until = (datetime.now(UTC) + timedelta(hours=1)).replace(microsecond=0).isoformat()
    given = [until if word == "+1" else word for word in words]
    assert cli("site", "mode", "shut", "maintenance", *given).code == 0
    shown = cli("site", "show", "shut").out
    for text in ("maintenance", "Back soon", "30 s", "::1/128", "its own", until[:16]):
        assert text in shown
    assert cli("site", "show", "shut", "--json").document()["mode_options"]["page"] is True
    page.write_bytes(b"x" * 131_073)
    for more, says in (
        (("--page", str(page)), "page: "),
        (("--page", str(tmp_path / "none")), "cannot be read"),
        (("--allow", "everybody"), "no network such as"),
        (("--project", "demo"), "project: give --all"),
    ):
        refused = cli("site", "mode", "shut", "paused", *more)
        assert (refused.code, says in refused.err) == (2, True), refused.err
    assert cli("site", "mode", "maintenance").code == 2
    assert cli("site", "mode", "shut", "live").code == 0
    assert "Back soon" not in cli("site", "show", "shut").out


def test_many_sites_are_switched_at_once(cli: Any, platform: World) -> None:
    create_served(cli, platform, "many-a")
    create_served(cli, platform, "many-b")
    assert cli("site", "mode", "--all", "paused").code == 2, "every site: that is asked"
    done = cli("site", "mode", "--all", "--project", "demo", "maintenance", "--message", "All of it")
    assert done.code == 0, done.err
    assert "sites are maintenance now, 0 were already." in done.out
    assert cli("site", "show", "many-b", "--json").document()["mode_options"]["message"] == "All of it"
    told = cli("site", "mode", "--all", "--yes", "maintenance", "--message", "All of it", "--json").document()
    assert (told["changed"], told["failed"]) == ([], [])
    assert {"many-a", "many-b"} <= set(told["unchanged"])
    assert cli("site", "mode", "--all", "--project", "demo", "live").code == 0


def test_a_link_lets_a_person_in(cli: Any, platform: World) -> None:
    create_served(cli, platform, "guarded")
    done = cli("site", "bypass", "guarded", "--hours", "2")
    assert done.code == 0, done.err
    assert re.fullmatch(r"http://guarded\.localhost(:\d+)?/\.tenantry/bypass\?token=[0-9]+\.[0-9a-f]{64}\n", done.out)
    assert "Cookie: tenantry_bypass=" in done.err
    assert cli("site", "bypass", "guarded", "--hours", "0").code == 2
    wrong = cli("site", "bypass", "guarded", "--hours", "2", "--revoke")
    assert (wrong.code, "leave one of the two out" in wrong.err) == (2, True)
    assert "No link of before" in cli("site", "bypass", "guarded", "--revoke").out


def test_joining_needs_an_address(cli: Any, platform: World) -> None:
    done = cli("node", "token")
    assert done.code == 1
    assert "bin/up --cluster-address" in done.err


def test_old_changes_go_only_after_a_yes(cli: Any, platform: World) -> None:
    assert cli("event", "compact").code == 2, "there is no terminal to ask on"
    assert cli("event", "new-epoch").code == 2
    assert cli("event", "compact", "--keep-days", "30", "--yes", "--json").document() == {"removed": 0, "tail": 0}
    assert cli("event", "compact", "--keep-days", "0", "--yes").code == 2
    epoch = cli("status", "--json").document()["epoch"]
    assert epoch not in cli("event", "new-epoch", "--yes").out
    assert cli("status", "--json").document()["epoch"] != epoch
    platform.report()


def test_a_silent_node_is_a_failure_of_status_and_doctor(cli: Any, platform: World) -> None:
    from tenantry.control.fleet.models import Node

    Node.objects.update(last_contact=datetime(2020, 1, 1, tzinfo=UTC))
    assert cli("status").code == 1
    done = cli("doctor")
    assert done.code == 1
    assert "agent.log" in done.out


def test_status_succeeds_when_every_change_is_applied_and_only_then(cli: Any, platform: World) -> None:
    from tenantry.control.changelog.queries import head
    from tenantry.control.fleet.models import Node, NodeSite
    from tenantry.control.sites.models import Site

    # What earlier tests left behind on the shared platform.
    Site.objects.filter(status="failed").update(status="ready")
    NodeSite.objects.filter(state="failed").update(state="serving")
    Node.objects.update(last_contact=datetime.now(UTC), revision=head()[1])
    done = cli("status")
    assert done.code == 0, done.out
    assert f"Every change is applied: {NODE_NAME} is at revision {head()[1]}." in done.out
    Node.objects.update(revision=head()[1] - 1)
    assert cli("status").code == 1
    Node.objects.update(revision=head()[1])
    create_served(cli, platform, "unlucky")
    Node.objects.update(last_contact=datetime.now(UTC), revision=head()[1])
    Site.objects.filter(slug="unlucky").update(status="failed")
    assert cli("status").code == 1


def test_events(cli: Any, platform: World) -> None:
    create_served(cli, platform, "eventful")
    listed = cli("event", "list", "--json", "--limit", "5").document()
    assert [change["type"] for change in listed][-2:] == ["site.created", "site.provisioned"]
    assert len(listed) == 5
    since = listed[-2]["revision"]
    assert [change["type"] for change in cli("event", "list", "--since", str(since), "--json").document()] == [
        "site.provisioned"
    ]
    assert "eventful" in cli("event", "list").out


def test_event_follow_prints_each_change_as_it_happens(cli: Any, platform: World) -> None:
    follow = Running("event", "follow", "--json")
    assert follow.process.stdout is not None
    try:
        found: list[dict[str, Any]] = []
        deadline = time.monotonic() + GIVE_UP_SECONDS
        number = 0
        while not found and time.monotonic() < deadline:  # until the stream stands, changes may pass unseen
            cli("site", "create", f"followed-{number}", "-p", "demo")
            number += 1
            if select.select([follow.process.stdout], [], [], 0.2)[0]:
                found.append(json.loads(follow.process.stdout.readline()))
        assert any(document.get("type") == "site.created" for document in found), found
        follow.process.send_signal(signal.SIGINT)
        assert follow.process.wait(GIVE_UP_SECONDS) == 130
    finally:
        follow.process.kill()
        follow.process.communicate()


def test_tokens(cli: Any, platform: World, monkeypatch: pytest.MonkeyPatch) -> None:
    made = cli("token", "create", "ci", "--json").document()
    assert made["token"].startswith("tnt_")
    assert made["token"] not in cli("token", "list", "--json").out
    monkeypatch.setenv("TENANTRY_TOKEN", made["token"])
    assert cli("whoami").code == 0
    assert cli("token", "revoke", str(made["id"])).code == 0
    assert cli("whoami").code == 1


def test_logs_of_a_site_and_of_a_build(cli: Any, platform: World) -> None:
    create_served(cli, platform, "talkative")
    logs = platform.home / "logs"
    (logs / "sites").mkdir(parents=True, exist_ok=True)
    (logs / "builds").mkdir(exist_ok=True)
    (logs / "sites" / "talkative.log").write_text("one\ntwo\nthree\n")
    (logs / "builds" / "demo-1.log").write_text("built\n")
    assert cli("site", "logs", "talkative", "-n", "2").out == "two\nthree\n"
    assert json.loads(cli("site", "logs", "talkative", "-n", "1", "--json").out) == {"line": "three"}
    assert cli("release", "log", "demo-1").out == "built\n"


def test_logs_follow_until_ctrl_c(cli: Any, platform: World) -> None:
    create_served(cli, platform, "chatty")
    log = platform.home / "logs" / "sites" / "chatty.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("one\n")
    follow = Running("site", "logs", "chatty", "-f")
    assert follow.process.stdout is not None
    try:
        assert follow.process.stdout.readline() == "one\n"
        with log.open("a") as appended:
            appended.write("two\n")
        assert follow.process.stdout.readline() == "two\n"
        follow.process.send_signal(signal.SIGINT)
        assert follow.process.wait(GIVE_UP_SECONDS) == 130
        assert follow.process.stderr is not None
        assert follow.process.stderr.read() == ""
    finally:
        follow.process.kill()
        follow.process.communicate()


def test_a_command_of_a_site_is_recorded_before_it_runs(cli: Any, platform: World, tmp_path: Path) -> None:
    create_served(cli, platform, "managed")
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "agent.json").write_text("{}")
    # A home on the command line means its client.json.
    (tmp_path / "client.json").write_text(json.dumps({"url": platform.url, "token": platform.token}))
    code, _, _ = Running("site", "manage", "--home", str(tmp_path), "managed", "check", "--deploy").finish()
    assert code != 0, "this configuration is no agent's"
    assert "argv=manage.py,check" in cli("event", "list", "--limit", "1").out
    last = cli("event", "list", "--limit", "1", "--json").document()[0]
    assert (last["type"], last["site"], last["metadata"]) == (
        "site.command",
        "managed",
        {"argv": ["manage.py", "check"], "more": 1},
    )
