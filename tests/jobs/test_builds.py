"""Builds of real projects with the real uv and PostgreSQL: what a good one leaves; that a bad one leaves nothing."""

import dataclasses
import hashlib
import json
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import uv

from tenantry.control.config import Artifacts
from tenantry.control.data import databases
from tenantry.control.data.cache import CacheServer
from tenantry.control.data.server import TenantServer
from tenantry.control.releases.artifacts import DirectoryStore
from tenantry.control.releases.artifacts.packing import pack_apart
from tenantry.control.releases.artifacts.s3 import S3Store
from tenantry.control.releases.building import (
    STEPS,
    BuildContext,
    BuildError,
    BuildRequest,
    BuildResult,
    Limits,
    StepUpdate,
    build,
    clean_leftovers,
    remove_release,
)
from tenantry.control.releases.building.commands import DISK_FULL, _processes, _runs_as, explain
from tenantry.interpreters import find_interpreters
from tenantry.spec.sites import Engine
from tenantry.testing.postgres import PostgresServer

from .projects import DATABASE, add_app, add_settings, start_project

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives builds a user of their own")
Context = Callable[..., BuildContext]


@pytest.fixture(scope="module")
def built_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One home for all builds here: they share the package cache, as the builds of one project do."""
    import shutil
    import tempfile

    directory = Path(tempfile.mkdtemp(prefix="tnt-built-", dir="/tmp"))
    directory.chmod(0o711)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def library_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("wheel")
    library = Path(__file__).parents[2] / "library"
    subprocess.run(
        [uv.find_uv_bin(), "build", "--quiet", "--wheel", "--out-dir", str(target), str(library)],
        check=True,
        timeout=120,
    )
    return next(target.glob("*.whl"))


@pytest.fixture
def context(
    built_home: Path, tenant_server: TenantServer, cache_server: CacheServer, uid_base: int | None, library_wheel: Path
) -> Context:
    store = DirectoryStore(built_home / "artifacts")
    uv_binary = Path(uv.find_uv_bin())
    base = BuildContext(built_home, uid_base, tenant_server, cache_server, library_wheel, uv_binary, store=store)

    def context(**changes: object) -> BuildContext:
        return dataclasses.replace(base, **changes)  # type: ignore[arg-type]

    return context


def request(source: Path | str, **changes: object) -> BuildRequest:
    return dataclasses.replace(BuildRequest("shop", 7, 1, str(source)), **changes)  # type: ignore[arg-type]


def assert_nothing_left(context: BuildContext, number: int = 1) -> None:
    assert not (context.home / "releases" / f"shop-{number}").exists()
    assert f"tpl_shop_{number}" not in databases.list_templates(context.server)
    assert context.cache is not None
    assert f"tpl_shop_{number}" not in context.cache.users()


def failure(context: BuildContext, source: Path | str, **changes: object) -> BuildError:
    with pytest.raises(BuildError) as raised:
        build(request(source, **changes), context)
    assert_nothing_left(context)
    assert (context.home / "logs/builds/shop-1.log").exists()
    return raised.value


def test_a_release_is_complete_closed_and_can_be_cloned(context: Context, tmp_path: Path) -> None:
    source = start_project(tmp_path / "shop")
    (source / ".git/refs/heads").mkdir(parents=True)
    (source / ".git/HEAD").write_text("ref: refs/heads/main\n")
    (source / ".git/refs/heads/main").write_text("a" * 40 + "\n")
    updates: list[StepUpdate] = []
    built = context(on_step=updates.append)

    result = build(request(source), built)

    assert [update.step for update in updates if not update.message] == list(STEPS)
    release = built.home / "releases/shop-1"
    assert json.loads((release / "release.json").read_text())["digest"] == result.digest
    assert (result.settings, result.wsgi, result.manage, result.static, result.commit) == (
        "shop.settings",
        "shop.wsgi:application",
        "manage.py",
        "static",
        "a" * 40,
    )
    assert result.django.startswith("5.2.")
    assert result.warnings == ()
    assert (release / "static/admin/css/base.css").is_file()
    assert list((release / "src/shop/__pycache__").glob("settings.*.pyc"))
    assert not (release / ".build").exists()
    assert not (release / "src/.git").exists()
    assert_modes(built, release)
    assert_template(built)
    assert_published(built, release, result)
    assert built.cache is not None
    assert "tpl_shop_1" not in built.cache.users()

    again = build(request(source, number=2), built)
    shared = (built.home / "releases/shop-2/venv").glob("lib/python3*/site-packages/django/__init__.py")
    assert next(shared).stat().st_nlink >= 3, "the package cache and both releases share one file"
    assert again.python == result.python
    assert clean_leftovers(built) == []
    for number in (1, 2):
        remove_release(built, "shop", number)
        assert_nothing_left(built, number)


def assert_modes(context: BuildContext, release: Path) -> None:
    def mode(path: str) -> int:
        return stat.S_IMODE((release / path).stat().st_mode)

    assert (mode("."), mode("src"), mode("venv"), mode("static"), mode("release.json")) == (
        0o751,
        0o750,
        0o750,
        0o755,
        0o644,
    )
    assert (mode("src/manage.py"), mode("src/shop/settings.py"), mode("static/admin/css/base.css")) == (
        0o750,
        0o640,
        0o644,
    )
    if context.uid_base is not None:
        uid = context.uid_base + 10_007
        assert {(release / name).stat().st_uid for name in ("src", "venv/bin/activate", "static")} == {uid}
        assert (release.stat().st_uid, release.stat().st_gid) == (0, uid)


def assert_published(context: BuildContext, release: Path, result: BuildResult) -> None:
    assert result.artifact is not None
    assert context.store is not None
    packed = pack_apart(release, release.parent / ".again", lambda: False)
    (release.parent / ".again").unlink()
    assert (result.artifact, result.artifact_size) == (f"sha256:{packed.digest}", packed.size), "the same bytes again"
    file = context.store.locate(packed.digest)
    assert isinstance(file, Path)
    assert hashlib.sha256(file.read_bytes()).hexdigest() == packed.digest
    assert [path.name for path in file.parent.iterdir()] == [f"{packed.digest}.tar.gz"]


def assert_template(context: BuildContext) -> None:
    with pytest.raises(psycopg.OperationalError), context.server.inside("tpl_shop_1"):
        pass
    databases.provision_site_database(context.server, 900, "secret", "tpl_shop_1")
    with psycopg.connect(context.server.access("site_900", "secret").url) as connection:
        assert connection.execute("SELECT count(*) FROM auth_user").fetchone() == (0,)
    databases.drop_site_database(context.server, 900)


def test_a_directory_that_is_no_project_is_not_even_copied(context: Context, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    error = failure(context(), tmp_path)
    assert "is not a Django project: there is no manage.py" in error.message
    assert "is not a directory" in failure(context(), tmp_path / "absent").message
    assert "neither the absolute path" in failure(context(), "relative/path").message


def test_an_impossible_requirement_is_named(context: Context, tmp_path: Path) -> None:
    error = failure(context(), start_project(tmp_path / "shop", requirements="django==99.9\n"))
    assert error.step == "install"
    assert "django==99.9" in error.message
    assert "django==99.9" in error.log_tail


def test_no_way_to_the_package_index_is_said_so(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple")
    error = failure(context(), start_project(tmp_path / "shop", requirements="a-package-not-cached\n"))
    assert error.step == "install"
    assert "The package index could not be reached" in error.message


def test_settings_that_do_not_compile(context: Context, tmp_path: Path) -> None:
    error = failure(context(), start_project(tmp_path / "shop", settings=DATABASE + "\nBROKEN = (\n"))
    assert (error.step, "SyntaxError" in error.message) == ("check", True)
    assert "settings.py" in error.log_tail


def test_a_failed_system_check(context: Context, tmp_path: Path) -> None:
    source = start_project(tmp_path / "shop", settings=DATABASE + 'ROOT_URLCONF = "shop.absent"\n')
    error = failure(context(), source)
    assert error.step == "check"
    assert "No module named 'shop.absent'" in error.message


def test_a_wsgi_application_that_does_not_load(context: Context, tmp_path: Path) -> None:
    error = failure(context(), start_project(tmp_path / "shop"), wsgi="shop.wsgi:absent")
    assert error.step == "check"
    assert "shop.wsgi:absent does not load" in error.message


def test_a_release_for_granian_has_its_server_and_its_asgi_application(context: Context, tmp_path: Path) -> None:
    built = context()
    source = start_project(tmp_path / "shop")
    result = build(request(source, engine=Engine.GRANIAN), built)
    assert (result.engine, result.asgi) == ("granian", "shop.asgi:application")
    marker = json.loads((built.home / "releases/shop-1/release.json").read_text())
    assert (marker["engine"], marker["asgi"]) == ("granian", "shop.asgi:application")
    venv = built.home / "releases/shop-1/venv"
    assert list(venv.glob("lib/python3.*/site-packages/granian/server"))
    assert not list(venv.glob("lib/python3.*/site-packages/pyuwsgi*"))
    server = [str(venv / "bin/python"), "-c", "from django_tenantry.asgi_server import Plan, make_server as make; "
              "make(Plan('shop.1', 1, 1, 10, 10, 10, 0), list)"]  # fmt: skip
    subprocess.run(server, check=True, timeout=30)


def test_granian_without_an_asgi_application_is_refused_before_anything_is_installed(
    context: Context, tmp_path: Path
) -> None:
    source = start_project(tmp_path / "shop")
    (source / "shop/asgi.py").unlink()
    error = failure(context(), source, engine=Engine.GRANIAN)
    assert error.step == "inspect"
    assert "this project has none" in error.message
    assert "--asgi" in error.message


def test_an_asgi_application_that_does_not_load(context: Context, tmp_path: Path) -> None:
    error = failure(context(), start_project(tmp_path / "shop"), engine=Engine.GRANIAN, asgi="shop.asgi:absent")
    assert error.step == "check"
    assert "The ASGI application shop.asgi:absent does not load" in error.message


def test_a_failing_migration(context: Context, tmp_path: Path) -> None:
    source = start_project(tmp_path / "shop")
    add_app(source, "migrations.RunSQL('SELECT 1/0')")
    error = failure(context(), source)
    assert error.step == "template"
    assert "division by zero" in error.message


def test_static_files_inside_the_source_are_found_and_opened(context: Context, tmp_path: Path) -> None:
    source = start_project(tmp_path / "shop")
    add_settings(source, 'STATIC_ROOT = BASE_DIR / "public" / "files"\n')
    built = context()
    result = build(request(source), built)
    release = built.home / "releases/shop-1"
    assert result.static == "src/public/files"
    modes = [stat.S_IMODE((release / path).stat().st_mode) for path in ("src", "src/public", "src/public/files")]
    assert modes == [0o751, 0o751, 0o755]
    assert stat.S_IMODE((release / "src/shop/settings.py").stat().st_mode) == 0o640
    remove_release(built, "shop", 1)


@pytest.mark.parametrize("place", ["public", "public/files"])
def test_a_link_in_place_of_the_static_files_is_refused(context: Context, tmp_path: Path, place: str) -> None:
    source = start_project(tmp_path / "shop")
    neighbour = tmp_path / "neighbour"
    (neighbour / "files").mkdir(parents=True)
    trap = (
        f'STATIC_ROOT = BASE_DIR / "public/files"\nPLACE = BASE_DIR / "{place}"\n'
        "import atexit, os, sys\n"
        f"def swap():\n    os.rename(PLACE, str(PLACE) + '.real')\n    os.symlink('{neighbour}', PLACE)\n"
        "if 'collectstatic' in sys.argv:\n    atexit.register(swap)\n"
    )
    add_settings(source, trap)
    assert failure(context(), source).step == "freeze"


@pytest.mark.parametrize(
    ("settings", "warning"),
    [
        ("STATIC_ROOT = None\n", "have no STATIC_ROOT"),
        ('STATIC_ROOT = "/srv/static"\n', "outside of the release"),
        ("STATIC_ROOT = BASE_DIR\n", "would publish the source"),
        ('INSTALLED_APPS.remove("django.contrib.staticfiles")\n', "staticfiles is not installed"),
    ],
)
def test_without_static_files_the_release_says_why(
    context: Context, tmp_path: Path, settings: str, warning: str
) -> None:
    source = start_project(tmp_path / "shop")
    add_settings(source, settings)
    built = context()
    result = build(request(source), built)
    assert result.static is None
    assert any(warning in text for text in result.warnings)
    remove_release(built, "shop", 1)


def test_a_project_that_does_not_read_its_database_from_the_environment_is_warned(
    context: Context, tmp_path: Path
) -> None:
    built = context()
    result = build(request(start_project(tmp_path / "shop", settings="", requirements=None)), built)
    assert any("DATABASE_URL" in text for text in result.warnings)
    assert any("requirements.txt" in text for text in result.warnings)
    remove_release(built, "shop", 1)


def test_a_cancelled_build_ends_at_once(context: Context, tmp_path: Path) -> None:
    source = start_project(tmp_path / "shop", settings=DATABASE + "import time\ntime.sleep(120)\n")
    cancelled = threading.Event()
    asked: list[float] = []

    def cancel_in_check(update: StepUpdate) -> None:
        if update.step == "check":
            asked.append(time.monotonic())
            threading.Timer(1.0, cancelled.set).start()

    error = failure(context(cancelled=cancelled, on_step=cancel_in_check), source)
    assert (error.step, error.message) == ("check", "The build was cancelled.")
    assert time.monotonic() - asked[0] < 10


def test_a_command_that_hangs_is_stopped(context: Context, tmp_path: Path) -> None:
    source = start_project(tmp_path / "shop", settings=DATABASE + "import time\ntime.sleep(120)\n")
    error = failure(context(limits=Limits(command=2)), source)
    assert (error.step, "did not end within 2 s" in error.message) == ("check", True)


def test_the_projects_code_sees_nothing_of_the_platform(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TENANTRY_TEST_SECRET", "must not leak")
    built = context()
    secret = built.home / "secret"
    secret.write_text("must not leak")
    secret.chmod(0o600)
    source = start_project(tmp_path / "shop")
    add_settings(
        source,
        "import pathlib\n"
        'assert "TENANTRY_TEST_SECRET" not in os.environ\n'
        'assert os.environ["PLACE"] == os.environ["PGHOST"] + "!"\n'
        '(pathlib.Path(os.environ["HOME"]) / "writable").touch()\n',
    )
    if built.uid_base is not None:
        forbidden = [secret, Path.home() / "anything", built.home / "releases/shop-1/release.json"]
        add_settings(
            source,
            f"assert os.getuid() == os.getgid() == {built.uid_base + 10_007}\n"
            "assert os.getgroups() == []\n"
            "assert 'NoNewPrivs:\\t1' in open('/proc/self/status').read()\n"
            "import resource\nassert resource.getrlimit(resource.RLIMIT_NPROC)[1] <= 1024\n"
            f"for path in {[str(path) for path in forbidden]}:\n"
            "    try:\n        open(path, 'a')\n    except PermissionError:\n        pass\n"
            "    else:\n        raise AssertionError(path)\n",
        )
    build(request(source, environment={"PLACE": "${PGHOST}!", "HOME": "/root"}), built)
    remove_release(built, "shop", 1)


@as_root
def test_no_process_of_a_build_outlives_it(context: Context, tmp_path: Path) -> None:
    daemon = (
        "import subprocess\n"
        "subprocess.Popen(['sleep', '300'], start_new_session=True, stdin=-3, stdout=-3, stderr=-3)\n"
    )
    source = start_project(tmp_path / "shop", settings=DATABASE + daemon)
    built = context()
    build(request(source), built)
    assert built.uid_base is not None
    uid = built.uid_base + 10_007
    assert [pid for pid in _processes() if _runs_as(pid, uid)] == []
    remove_release(built, "shop", 1)


def test_a_leftover_that_cannot_be_dropped_is_told_and_keeps_nothing_from_being_cleaned(
    context: Context, postgres_server: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    built = context()
    databases.create_template(built.server, "tpl_shop_5")
    with postgres_server.connect() as superuser:
        superuser.execute("CREATE DATABASE tpl_shop_4")  # the superuser's: the jobs' role may not drop it
        try:
            assert clean_leftovers(built) == ["tpl_shop_5"]
        finally:
            superuser.execute("DROP DATABASE tpl_shop_4")
    assert "tpl_shop_4, which no release has, cannot be dropped: must be owner" in caplog.text


def test_what_a_killed_build_left_is_removed_and_what_is_ready_stays(context: Context, tmp_path: Path) -> None:
    built = context()
    assert built.cache is not None
    half = built.home / "releases/shop-5"
    ready = built.home / "releases/shop-4"
    for directory in (half, ready):
        (directory / "src").mkdir(parents=True)
    (ready / "release.json").write_text("{}")
    databases.create_template(built.server, "tpl_shop_5")
    databases.create_template(built.server, "tpl_shop_4")
    databases.seal_template(built.server, "tpl_shop_4")
    built.cache.provision_user("tpl_shop_5", "tpl_shop_5", "x")
    assert clean_leftovers(built) == ["shop-5", "tpl_shop_5"]
    assert clean_leftovers(built) == []
    assert ready.is_dir()
    assert databases.list_templates(built.server) == ["tpl_shop_4"]
    remove_release(built, "shop", 4)


def test_git_sources(context: Context, home: Path) -> None:
    source = start_project(home / "shop")  # where git, run as the project's user, can read it
    (source / "outside").symlink_to("/etc/passwd")
    (source / "inside").symlink_to("shop")

    def git(*argv: str) -> str:
        command = ["git", "-C", str(source), "-c", "user.name=a", "-c", "user.email=a@b.c", *argv]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout.strip()

    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "-m", "first")
    git("tag", "v1")
    commit = git("rev-parse", "HEAD")
    (source / "manage.py").unlink()
    git("commit", "--quiet", "-a", "-m", "second")
    built = context()
    result = build(request(f"file://{source}", ref="v1"), built)
    assert result.commit == commit
    src = built.home / "releases/shop-1/src"
    assert not (src / ".git").exists()
    assert not (src / "outside").is_symlink()
    assert (src / "inside").is_symlink()
    assert any("outside points outside" in text for text in result.warnings)
    remove_release(built, "shop", 1)
    assert "there is no manage.py" in failure(built, f"file://{source}").message
    assert "couldn't find remote ref absent" in failure(built, f"file://{source}", ref="absent").message


@pytest.mark.parametrize("source", ["ext::sh -c id", "https://x y", "--upload-pack=id", "fd::17"])
def test_sources_that_would_run_commands_are_refused(context: Context, source: str) -> None:
    error = failure(context(), source)
    assert error.step == "fetch"
    assert "neither the absolute path of a directory nor an address" in error.message


@pytest.mark.parametrize("ref", ["--upload-pack=id", "-x", "a b", "$(id)", "a;b"])
def test_refs_that_are_options_are_refused(context: Context, ref: str) -> None:
    assert "is not the name of a branch" in failure(context(), "https://127.0.0.1:9/x.git", ref=ref).message


OTHER = [one for one in find_interpreters() if one.version[:2] not in (sys.version_info[:2], (3, 10))]


@pytest.mark.skipif(not OTHER, reason="this machine has no other Python")
def test_another_python(context: Context, tmp_path: Path) -> None:
    wanted = ".".join(map(str, OTHER[0].version[:2]))
    built = context()
    result = build(request(start_project(tmp_path / "shop"), python=wanted), built)
    assert result.python.startswith(wanted)
    remove_release(built, "shop", 1)


def test_a_python_that_is_not_here_is_named_with_those_that_are(context: Context, tmp_path: Path) -> None:
    error = failure(context(), start_project(tmp_path / "shop"), python="3.99")
    assert error.step == "interpreter"
    assert "There is no Python 3.99 on this machine. Found: 3." in error.message


@as_root
def test_a_full_disk_is_said_so(context: Context, tmp_path: Path) -> None:
    source = start_project(tmp_path / "shop")
    (source / "large").write_bytes(b"x" * 3_000_000)
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(small)], check=False, timeout=10)
    if mounted.returncode:
        pytest.skip("this root may not mount")
    try:
        error = failure(context(home=small), source)
        assert error.step == "fetch"
        assert "The disk is full. Free some space" in error.message
    finally:
        subprocess.run(["umount", str(small)], check=True, timeout=10)


@as_root
def test_a_full_artifact_store_fails_the_build_and_leaves_nothing(context: Context, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)], check=False, timeout=10)
    if mounted.returncode:
        pytest.skip("this root may not mount")
    try:
        error = failure(context(store=DirectoryStore(small)), start_project(tmp_path / "shop"))
        assert (error.step, error.message) == ("publish", DISK_FULL)
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", str(small)], check=True, timeout=10)


def test_a_store_that_is_away_fails_the_build_and_leaves_nothing(context: Context, tmp_path: Path) -> None:
    away = Artifacts("s3", "", "b", "http://127.0.0.1:9", "us-east-1", "", "key", "secret")
    error = failure(context(store=S3Store(away, tmp_path / "staging")), start_project(tmp_path / "shop"))
    assert error.step == "publish"
    assert "Could not keep an artifact in the bucket 'b' at http://127.0.0.1:9" in error.message
    assert list((tmp_path / "staging").iterdir()) == []


@pytest.mark.parametrize(
    "words", ["OSError: [Errno 28] No space left on device", "error: Disk quota exceeded (os error 122)"]
)
def test_a_full_disk_in_a_commands_output_is_said_so(words: str) -> None:
    assert explain("Installing failed", f"Downloading\n{words}\n  caused by\n").startswith("The disk is full.")
