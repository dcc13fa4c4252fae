"""Jobs and artifacts: releases without one are published, removed projects' are removed, failures leave nothing."""

import dataclasses
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tenantry.control.data.cache import CacheServer
from tenantry.control.data.server import TenantServer
from tenantry.testing.control import ControlDatabase


@pytest.fixture
def platform(
    control_database: ControlDatabase, home: Path, tenant_server: TenantServer, cache_server: CacheServer
) -> Any:
    from tenantry.control.jobs.platform import Platform

    return Platform(home, None, tenant_server, cache_server, None, Path("/nonexistent"))


def freeze_release(home: Path, name: str) -> str:
    """A release's directory as a build leaves it; returns its digest."""
    from tenantry.control.releases.building.freeze import digest_of

    directory = home / "releases" / name
    for part in ("src", "static", "venv"):
        (directory / part).mkdir(parents=True)
    (directory / "src/manage.py").write_text(f"# {name}\n")
    (directory / "release.json").write_text("{}")
    return digest_of(directory)


def add_release(home: Path, project: str, number: int = 1, digest: str | None = None) -> Any:
    from tenantry.control.access.actors import JOBS
    from tenantry.control.releases import services
    from tenantry.control.releases.models import Release

    if number == 1:
        services.add_project(JOBS, services.ProjectRequest(name=project, source="/srv/demo"))
    else:
        services.request_release(JOBS, project)
    name = f"{project}-{number}"
    found = freeze_release(home, name)
    facts = services.ReleaseFacts(digest or found, "", "3.11.2", "5.2", "a:b", "s", "manage.py", None)
    services.finish_release(name, facts)
    return Release.objects.get(name=name)


def artifacts_in(home: Path) -> set[str]:
    return {f"sha256:{path.name.removesuffix('.tar.gz')}" for path in (home / "artifacts").iterdir()}


def test_releases_of_before_are_published_whatever_is_wrong_with_others(
    platform: Any, caplog: pytest.LogCaptureFixture
) -> None:
    from tenantry.control.jobs import releases as jobs

    whole, damaged = add_release(platform.home, "shop"), add_release(platform.home, "shop", 2, digest="sha256:0")
    absent, last = add_release(platform.home, "shop", 3), add_release(platform.home, "shop", 4)
    shutil.rmtree(platform.home / "releases/shop-3")
    jobs.publish_missing(platform)
    for release in (whole, damaged, absent, last):
        release.refresh_from_db()
    assert (damaged.artifact, absent.artifact) == (None, None)
    assert "shop-2 is not published: its directory was changed" in caplog.text
    assert "shop-3 is not published: its directory" in caplog.text
    assert artifacts_in(platform.home) == {whole.artifact, last.artifact}
    path = platform.store.locate(whole.artifact.removeprefix("sha256:"))
    assert whole.artifact_size == path.stat().st_size
    path.unlink()
    jobs.publish_missing(platform)
    assert not path.exists(), "what has an artifact is not published again"


def test_a_stopping_worker_publishes_the_rest_at_its_next_start(platform: Any) -> None:
    from tenantry.control.jobs import releases as jobs
    from tenantry.control.jobs.retries import Interrupted

    release = add_release(platform.home, "shop")
    platform.stopping.set()
    with pytest.raises(Interrupted):
        jobs.publish_missing(platform)
    assert artifacts_in(platform.home) == set()
    platform.stopping.clear()
    jobs.publish_missing(platform)
    release.refresh_from_db()
    assert artifacts_in(platform.home) == {release.artifact}


def test_a_removed_projects_artifacts_go_unless_another_release_has_them(platform: Any) -> None:
    from tenantry.control.access.actors import JOBS
    from tenantry.control.jobs import releases as jobs
    from tenantry.control.releases import services

    one, two, other = (
        add_release(platform.home, "shop"),
        add_release(platform.home, "shop", 2),
        add_release(platform.home, "blog"),
    )
    jobs.publish_missing(platform)
    for release in (one, two, other):
        release.refresh_from_db()
    services.publish_release("blog-1", one.artifact, one.artifact_size)
    services.remove_project(JOBS, "shop")
    jobs.remove_project(platform, "shop", ["shop-1", "shop-2"], [one.artifact, two.artifact])
    assert artifacts_in(platform.home) == {one.artifact, other.artifact}
    jobs.remove_project(platform, "shop", ["shop-1", "shop-2"], [one.artifact, two.artifact])


def test_the_job_of_a_removal_is_told_the_artifacts(platform: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from tenantry.control.access.actors import JOBS
    from tenantry.control.releases import services

    deferred: list[Any] = []
    monkeypatch.setattr(services, "defer", lambda task, **arguments: deferred.append((task, arguments)))
    release = add_release(platform.home, "shop")
    services.publish_release("shop-1", "sha256:" + "a" * 64, 1)
    add_release(platform.home, "shop", 2)
    services.remove_project(JOBS, "shop")
    task, arguments = deferred[-1]
    assert task == "remove_project"
    assert (arguments["releases"], arguments["artifacts"]) == ([release.name, "shop-2"], ["sha256:" + "a" * 64])


@pytest.fixture
def full_store(tmp_path: Path) -> Iterator[Path]:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "none", str(small)], check=False, timeout=10)
    if os.geteuid() != 0 or mounted.returncode:
        pytest.skip("only root can mount a small disk, and not everywhere")
    try:
        yield small
    finally:
        subprocess.run(["umount", str(small)], check=True, timeout=10)


def test_a_full_store_is_said_and_the_others_are_tried(
    platform: Any, full_store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from tenantry.control.jobs import releases as jobs
    from tenantry.control.releases.artifacts import DirectoryStore

    release = add_release(platform.home, "shop")
    (platform.home / "releases/shop-1/src/manage.py").write_bytes(os.urandom(100_000))
    from tenantry.control.releases.building.freeze import digest_of

    type(release).objects.update(digest=digest_of(platform.home / "releases/shop-1"))
    jobs.publish_missing(dataclasses.replace(platform, artifacts=DirectoryStore(full_store)))
    assert "shop-1 is not published: [Errno 28] No space left on device" in caplog.text
    assert list(full_store.iterdir()) == []
