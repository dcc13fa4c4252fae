"""The jobs of a site against real servers: each may be killed anywhere and run again."""

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from tenantry.control.data import databases
from tenantry.control.data.cache import CacheServer
from tenantry.control.data.server import TenantServer
from tenantry.testing.control import ControlDatabase


class Interruption(Exception):
    """Stands for a worker that was killed."""


@pytest.fixture
def platform(
    control_database: ControlDatabase,
    home: Path,
    tenant_server: TenantServer,
    cache_server: CacheServer,
    uid_base: int | None,
) -> Any:
    from tenantry.control.jobs.platform import Platform

    return Platform(home, uid_base, tenant_server, cache_server, None, Path("/nonexistent"))


@pytest.fixture
def release(platform: Any) -> Iterator[Any]:
    """A ready release with a template, made without a build."""
    from tenantry.control.access.actors import JOBS
    from tenantry.control.releases import services
    from tenantry.control.releases.models import Release

    services.add_project(JOBS, services.ProjectRequest(name="demo", source="/srv/demo"))
    facts = services.ReleaseFacts(
        "sha256:0", "", "3.11.2", "5.2", "demo.wsgi:application", "demo.settings", "manage.py", None
    )
    services.finish_release("demo-1", facts)
    password = databases.create_template(platform.server, "tpl_demo_1")
    with psycopg.connect(platform.server.access("tpl_demo_1", password).url, autocommit=True) as connection:
        connection.execute("CREATE TABLE note (text text)")
    databases.seal_template(platform.server, "tpl_demo_1")
    yield Release.objects.get(name="demo-1")
    databases.drop_template(platform.server, "tpl_demo_1")


@pytest.fixture
def site(platform: Any, release: Any) -> Iterator[Any]:
    from tenantry.control.access.actors import JOBS
    from tenantry.control.sites import services

    request = services.SiteRequest("blog", "demo", ["blog.localhost"], {"COLOUR": "blue"})
    site = services.create_site(JOBS, request)
    yield site
    databases.drop_site_database(platform.server, site.number)
    platform.cache.drop_user(f"site_{site.number}", "blog")


def secrets_of(site: Any) -> dict[str, Any]:
    from tenantry.control.sealing import sealer

    site.refresh_from_db()
    return sealer().unseal(site.sealed)


def test_a_provisioned_site_has_its_own_of_everything(platform: Any, site: Any) -> None:
    from tenantry.control.jobs import sites

    sites.provision_site(platform, site.number)

    secrets = secrets_of(site)
    assert site.status == "ready"
    name = f"site_{site.number}"
    with psycopg.connect(platform.server.access(name, secrets["database_password"]).url) as connection:
        connection.execute("INSERT INTO note VALUES ('of the blog')")
    cache = redis.Redis.from_url(platform.cache.access(name, "blog", secrets["cache_password"]).redis_url)
    cache.set("blog:1:x", "1")
    cache.close()
    assert (platform.home / "data/blog/media").is_dir()
    sites.provision_site(platform, site.number)
    assert secrets_of(site) == secrets


@pytest.mark.parametrize("step", ["directories.make_site_directories", "databases.provision_site_database"])
def test_provisioning_killed_after_a_step_is_run_again(
    platform: Any, site: Any, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tenantry.control.jobs import sites

    with monkeypatch.context() as patch:
        patch.setattr(f"tenantry.control.data.{step}", killed_after(step))
        with pytest.raises(Interruption):
            sites.provision_site(platform, site.number)
    site.refresh_from_db()
    assert site.status == "provisioning"
    sites.provision_site(platform, site.number)
    site.refresh_from_db()
    assert site.status == "ready"


def killed_after(path: str) -> Callable[..., None]:
    """The function at `path`, after which the worker is killed."""
    from tenantry.control.data import databases, directories
    from tenantry.control.data.cache import CacheServer
    from tenantry.control.sites import outcomes

    owner, _, name = path.rpartition(".")
    owners = {
        "databases": databases,
        "directories": directories,
        "cache.CacheServer": CacheServer,
        "outcomes": outcomes,
    }
    real = getattr(owners[owner], name)

    def run(*arguments: Any, **named: Any) -> None:
        real(*arguments, **named)
        raise Interruption(path)

    return run


def test_a_missing_template_is_final_and_says_what_to_do(platform: Any, site: Any) -> None:
    from tenantry.control.jobs import sites
    from tenantry.control.jobs.retries import Terminal

    databases.drop_template(platform.server, "tpl_demo_1")
    with pytest.raises(Terminal, match="build the release again"):
        sites.provision_site(platform, site.number)


def delete(site: Any) -> None:
    from tenantry.control.access.actors import JOBS
    from tenantry.control.sites import services

    services.delete_site(JOBS, site.slug, confirm=site.slug)


def fill(platform: Any, site: Any) -> None:
    secrets = secrets_of(site)
    access = platform.server.access(f"site_{site.number}", secrets["database_password"])
    with psycopg.connect(access.url, autocommit=True) as connection:
        connection.execute("INSERT INTO note VALUES ('last words')")
    (platform.home / "data/blog/media/file").write_text("x")
    (platform.home / "logs/sites").mkdir(parents=True, exist_ok=True)
    for name in ("blog.log", "blog.log.1", "blog.migrate.log"):
        (platform.home / "logs/sites" / name).write_text("what only this tenant may read")


def assert_gone(platform: Any, number: int) -> None:
    from tenantry.control.changelog.models import Change
    from tenantry.control.sites.models import Site

    assert not Site.objects.filter(number=number).exists()
    assert not databases.site_database_exists(platform.server, number)
    assert f"site_{number}" not in platform.cache.users()
    assert not (platform.home / "data/blog").exists()
    assert not list((platform.home / "logs/sites").glob("blog.*"))
    dumps = sorted((platform.home / "backups").glob("blog-*.dump"))
    assert len(dumps) >= 1
    kept = Change.objects.get(type="site.removed").metadata["dump"]
    assert kept == str(dumps[-1])
    binary = platform.server.address.binaries / "pg_restore"
    text = subprocess.run([binary, "--file=-", kept], capture_output=True, text=True, check=True, timeout=30).stdout
    assert "last words" in text


def test_removal_leaves_a_dump_and_nothing_else(platform: Any, site: Any) -> None:
    from tenantry.control.jobs import sites

    sites.provision_site(platform, site.number)
    fill(platform, site)
    delete(site)
    sites.remove_site(platform, site.number, dump=True, wait_seconds=0)
    assert_gone(platform, site.number)
    sites.remove_site(platform, site.number, dump=True, wait_seconds=0)


@pytest.mark.parametrize(
    ("step", "target"),
    [
        ("databases.drop_site_database", "tenantry.control.data.databases.drop_site_database"),
        ("cache.CacheServer.drop_user", "tenantry.control.data.cache.CacheServer.drop_user"),
        ("directories.remove_site_directories", "tenantry.control.data.directories.remove_site_directories"),
    ],
)
def test_a_removal_killed_after_a_step_is_run_again(
    platform: Any, site: Any, step: str, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tenantry.control.jobs import sites

    sites.provision_site(platform, site.number)
    fill(platform, site)
    delete(site)
    with monkeypatch.context() as patch:
        patch.setattr(target, killed_after(step))
        with pytest.raises(Interruption):
            sites.remove_site(platform, site.number, dump=True, wait_seconds=0)
    sites.remove_site(platform, site.number, dump=True, wait_seconds=0)
    assert_gone(platform, site.number)


def test_nothing_is_dropped_when_the_dump_fails(platform: Any, site: Any) -> None:
    from tenantry.control.data.dumps import DumpFailed
    from tenantry.control.jobs import sites

    sites.provision_site(platform, site.number)
    delete(site)
    broken = dataclasses.replace(platform.server.address, binaries=Path("/nonexistent"))
    server = TenantServer(broken)
    try:
        with pytest.raises(DumpFailed, match="pg_dump failed"):
            sites.remove_site(dataclasses.replace(platform, server=server), site.number, dump=True, wait_seconds=0)
    finally:
        server.close()
    assert databases.site_database_exists(platform.server, site.number)
    assert (platform.home / "data/blog/media").is_dir()


def second_release(platform: Any, site: Any, manage: str) -> None:
    """A ready release `demo-2` whose manage.py is `manage`, asked for by the site."""
    from tenantry.control.access.actors import JOBS
    from tenantry.control.releases import services as releases
    from tenantry.control.sites import services

    directory = platform.home / "releases/demo-2"
    (directory / "src").mkdir(parents=True)
    (directory / "venv/bin").mkdir(parents=True)
    (directory / "venv/bin/python").symlink_to("/usr/bin/python3" if os.geteuid() == 0 else sys.executable)
    (directory / "src/manage.py").write_text(manage)
    releases.request_release(JOBS, "demo")
    facts = releases.ReleaseFacts(
        "sha256:1", "", "3.11.2", "5.2", "demo.wsgi:application", "demo.settings", "manage.py", None
    )
    releases.finish_release("demo-2", facts)
    services.update_site(JOBS, "blog", services.SiteChange(release="demo-2"))


def test_an_upgrade_migrates_as_the_site_and_moves_on(platform: Any, site: Any, uid_base: int | None) -> None:
    from tenantry.control.jobs import sites

    sites.provision_site(platform, site.number)
    uid = os.geteuid() if uid_base is None else uid_base + 20_000 + site.number
    second_release(
        platform,
        site,
        "import os, sys\n"
        "assert sys.argv[1:3] == ['migrate', '--noinput'], sys.argv\n"
        f"assert os.getuid() == {uid}\n"
        "assert os.environ['COLOUR'] == 'blue'\n"
        "assert os.environ['TENANTRY_SITE'] == 'blog'\n"
        f"assert os.environ['PGDATABASE'] == 'site_{site.number}'\n"
        "open(os.environ['HOME'] + '/migrated', 'w')\n",
    )
    sites.upgrade_site(platform, site.number, "demo-2")
    site.refresh_from_db()
    assert (site.release.name, site.error) == ("demo-2", "")
    assert (platform.home / "data/blog/home/migrated").exists()
    generation = site.generation
    sites.upgrade_site(platform, site.number, "demo-2")
    site.refresh_from_db()
    assert site.generation == generation


def test_a_failed_upgrade_leaves_the_site_on_its_release(platform: Any, site: Any) -> None:
    from tenantry.control.jobs import sites

    sites.provision_site(platform, site.number)
    second_release(platform, site, "raise SystemExit('no such column')\n")
    sites.upgrade_site(platform, site.number, "demo-2")
    site.refresh_from_db()
    assert (site.release.name, site.status, site.pending_release) == ("demo-1", "ready", None)
    assert "The migrations of demo-2 failed: no such column" in site.error


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives sites a user of their own")
def test_no_process_of_a_site_outlives_it(platform: Any, site: Any, uid_base: int) -> None:
    from tenantry.control.jobs import sites

    sites.provision_site(platform, site.number)
    uid = uid_base + 20_000 + site.number
    with subprocess.Popen(["/bin/sh", "-c", "trap '' TERM; sleep 300"], user=uid, group=uid) as daemon:
        delete(site)
        sites.remove_site(platform, site.number, dump=True, wait_seconds=0)
        assert daemon.wait(5) == -9
