"""A release built in one home, published, and unpacked in another home where it must run and be the same."""

import asyncio
import os
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uv

from tenantry.control.data.cache import CacheServer
from tenantry.control.data.server import TenantServer
from tenantry.control.releases.artifacts import DirectoryStore
from tenantry.control.releases.building import BuildContext, BuildRequest, BuildResult, build, remove_release
from tenantry.node.config import Config
from tenantry.node.effects.releases import Releases
from tenantry.spec.names import Slug
from tenantry.spec.sites import ReleaseName, ReleaseSpec

DEMO = Path(__file__).parents[2] / "examples" / "demo"
NAME = ReleaseName(Slug("demo"), 1)


@pytest.fixture(scope="module")
def other_home() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="tnt-other-", dir="/tmp"))
    directory.chmod(0o711)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def built(
    tenant_server: TenantServer, cache_server: CacheServer, uid_base: int | None
) -> Iterator[tuple[BuildContext, BuildResult]]:
    home = Path(tempfile.mkdtemp(prefix="tnt-built-", dir="/tmp"))
    home.chmod(0o711)
    store = DirectoryStore(home / "artifacts")
    context = BuildContext(home, uid_base, tenant_server, cache_server, None, Path(uv.find_uv_bin()), store=store)
    yield context, build(BuildRequest("demo", 7, 1, str(DEMO)), context)
    remove_release(context, "demo", 1)  # its template database, too: the server is shared with other tests
    shutil.rmtree(home)


def node_of(home: Path, context: BuildContext) -> Releases:
    config = Config(
        home=home,
        node="b",
        bind="127.0.0.1",
        http_port=80,
        uid_base=context.uid_base,
        nginx_group=None,
        database_host="127.0.0.1",
        database_port=5432,
        redis_socket=None,
        dsn="",
        platform_keys=("k",),
        artifact_directory=context.home / "artifacts",
    )
    return Releases(config)


def spec_of(result: BuildResult) -> ReleaseSpec:
    return ReleaseSpec(
        name=NAME,
        digest=result.digest,
        wsgi=result.wsgi,
        settings=result.settings,
        manage=result.manage,
        static=result.static,
        serve_media=True,
        artifact=result.artifact,
        artifact_size=result.artifact_size,
        python=result.python,
        project_number=7,
    )


def look(root: Path) -> dict[str, tuple[int, int, int, int]]:
    """Type and mode, owner and (of files) the whole second of the last change, by relative path."""
    found = {}
    for directory, directories, files in os.walk(root):
        for name in [*directories, *files, "."]:
            path = os.path.join(directory, name)
            status = os.lstat(path)
            seconds = int(status.st_mtime) if stat.S_ISREG(status.st_mode) else 0
            found[os.path.relpath(path, root)] = (status.st_mode, status.st_uid, status.st_gid, seconds)
    return found


def test_a_release_runs_in_another_home_as_the_build_left_it(
    built: tuple[BuildContext, BuildResult], other_home: Path
) -> None:
    context, result = built
    releases, spec = node_of(other_home, context), spec_of(result)
    assert not releases.present(spec)
    begun = time.perf_counter()
    asyncio.run(releases.ensure(spec))
    seconds = time.perf_counter() - begun
    assert releases.present(spec)
    here, there = other_home / "releases/demo-1", context.home / "releases/demo-1"
    before, after = look(there), look(here)
    changed = {"venv/pyvenv.cfg", "venv/bin/python"} | {name for name in before if name.startswith("venv/bin/")}
    assert {name: entry for name, entry in after.items() if name not in changed} == {
        name: entry for name, entry in before.items() if name not in changed
    }
    assert before.keys() == after.keys()
    print(len(before), (result.artifact_size or 0) >> 10, "KiB", f"{seconds:.2f} s")
    owner = None if context.uid_base is None else context.uid_base + 10_007
    environment = {
        "PATH": "/usr/bin:/bin",
        "SECRET_KEY": "x",
        "DATABASE_URL": "postgresql://u:p@127.0.0.1/d",
        "DJANGO_SETTINGS_MODULE": result.settings,
        "ALLOWED_HOSTS": "localhost",
        "STATIC_ROOT": str(here / "static"),
        "MEDIA_ROOT": "/tmp",
    }
    for argv in (["venv/bin/python", "-m", "django", "check"], ["venv/bin/django-admin", "check"]):
        answer = subprocess.run(
            [str(here / argv[0]), *argv[1:]],
            cwd=here / "src",
            env=environment | {"PYTHONPATH": str(here / "src")},
            user=owner,
            group=owner,
            extra_groups=None if owner is None else [],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert answer.returncode == 0, answer.stderr
        assert "no issues" in answer.stdout
    assert asyncio.run(releases.verify(NAME)) is None
    names = subprocess.run(
        ["grep", "-rlI", "--", str(context.home), str(here)], capture_output=True, text=True, timeout=60
    ).stdout.split()
    assert names == [], "no text names the home of the build"


def test_the_home_that_built_it_knows_it_for_whole_and_keeps_it(built: tuple[BuildContext, BuildResult]) -> None:
    context, result = built
    releases, spec = node_of(context.home, context), spec_of(result)
    assert releases.present(spec)
    assert asyncio.run(releases.verify(NAME)) is None, "the digest of what is here is the build's"
    assert (context.home / "state/releases/demo-1.json").is_file()
    assert (context.home / "releases/.built-here").is_file()
    assert asyncio.run(releases.collect(frozenset())) == []
    template = next((context.home / "releases/demo-1/src").rglob("*.html"))
    template.write_text("changed")
    words = asyncio.run(releases.verify(NAME)) or ""
    assert words.startswith(str(template.relative_to(context.home / "releases/demo-1")))
    asyncio.run(releases.ensure(spec))
    assert asyncio.run(releases.verify(NAME)) is None
    assert template.read_text() != "changed"
