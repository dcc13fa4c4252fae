"""What is rendered, and what the real nginx and uWSGI say of it."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from django_tenantry.asgi_server import read_plan
from node_lab import make_spec

from tenantry.node.config import Config, parse_config
from tenantry.node.errors import ConfigError
from tenantry.node.layout import Layout
from tenantry.node.prepare import prepare
from tenantry.node.render.document import Secrets, encode, site_document
from tenantry.node.render.engine import QUEUE_PER_WORKER
from tenantry.node.render.engines import DRIVERS
from tenantry.node.render.nginx import NginxSettings, render_nginx
from tenantry.node.render.uwsgi import render_emperor, render_vassal
from tenantry.spec.errors import InvalidDocument
from tenantry.spec.limits import Limits
from tenantry.spec.names import Slug
from tenantry.spec.sites import Engine

CRAFTED = ['"; }', "two\nlines", "@(exec://id)", "$(HOME)", "%(home)", "${PATH}", "100%abc", "'; drop", "\\", "ünï"]
SNAPSHOTS = Path(__file__).parent / "snapshots"


def make_config(home: str = "/srv/tenantry", **changes: object) -> Config:
    return parse_config(
        {
            "home": home,
            "node": "n",
            "dsn": "dbname=x",
            "platform_key": "k",
            "bind": "127.0.0.1",
            "http_port": 8080,
            "uid_base": None,
            "nginx_group": None,
            "tenant_database": {"host": "/srv/pg", "port": 5432},
            "redis_socket": "/srv/redis.sock",
        }
        | changes
    )


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory short enough for a home, which pytest's own are not."""
    directory = Path(tempfile.mkdtemp(prefix="tn", dir="/tmp"))
    yield directory
    shutil.rmtree(directory)


def same_as_snapshot(name: str, text: str) -> None:
    """Compare with the file beside the tests; UPDATE_SNAPSHOTS=1 writes it anew."""
    path = SNAPSHOTS / name
    if os.environ.get("UPDATE_SNAPSHOTS"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert path.read_text() == text


def test_nginx_conf_reads_as_agreed() -> None:
    settings = NginxSettings("127.0.0.1", 8080, "www-data", 20_000)
    same_as_snapshot("nginx.conf", render_nginx(Layout(Path("/srv/tenantry")), settings))


def test_uwsgi_files_read_as_agreed() -> None:
    same_as_snapshot("emperor.ini", render_emperor(Layout(Path("/srv/tenantry"))))
    same_as_snapshot("vassal.ini", render_vassal(Slug("blog"), 3, processes=2, threads=4, backlog=1024))


def test_granians_file_reads_as_its_launcher_understands_it(tmp_path: Path) -> None:
    file = tmp_path / "blog.3.ini"
    plans = []
    for limits in (Limits(request_seconds=7, processes_max=4), Limits(memory_mb=300), Limits(memory_mb=1)):
        file.write_text(DRIVERS[Engine.GRANIAN].ini(replace(make_spec(3), limits=limits), 3, 1024))
        plans.append(read_plan(file))
    assert (plans[0].name, plans[0].workers, plans[0].backlog) == ("blog.3", 1, QUEUE_PER_WORKER)
    assert [plan.request_seconds for plan in plans] == [7, 60, 60]
    assert [plan.worker_mb for plan in plans] == [0, 150, 1]


@pytest.mark.parametrize("bind", ["127.0.0.1", "0.0.0.0", "::1"])
def test_nginx_accepts_the_file(home: Path, bind: str) -> None:
    config = make_config(str(home), bind=bind, http_port=1 if os.geteuid() == 0 else 18_999)
    prepare(config)
    check = ["/usr/sbin/nginx", "-t", "-e", f"{home}/logs/nginx.log", "-c", f"{home}/etc/nginx.conf"]
    done = subprocess.run(check, capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stderr
    assert "warn" not in done.stderr


def test_preparing_again_writes_nothing(home: Path) -> None:
    prepare(make_config(str(home)))
    files = [home / "etc" / name for name in ("nginx.conf", "emperor.ini", "vassal")]
    before = [(f.stat().st_ino, f.stat().st_mtime_ns) for f in files]
    prepare(make_config(str(home)))
    assert [(f.stat().st_ino, f.stat().st_mtime_ns) for f in files] == before


@pytest.mark.parametrize(("more", "accepted"), [("", True), ("no-such-option = 1\n", False)])
def test_uwsgi_accepts_a_vassal(home: Path, more: str, accepted: bool) -> None:
    """`strict` refuses unknown options; `--no-server` ends after the application was loaded."""
    text = render_vassal(Slug("blog"), 1, processes=1, threads=1, backlog=100) + more
    (home / "app.py").write_text("application = lambda environ, start: []\n")
    ini = home / "checked.ini"
    ini.write_text(text.replace("fd://3", f"{home}/x.sock").replace("django_tenantry.wsgi", "app"))
    run = "import pyuwsgi, sys; pyuwsgi.run(sys.argv[1:])"
    command = [sys.executable, "-c", run, "--no-server", "--ini", str(ini)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=home)
    assert (done.returncode == 0) is accepted, done.stderr[-2000:]


@pytest.mark.parametrize("text", CRAFTED)
def test_what_people_typed_is_only_in_the_document(text: str) -> None:
    spec = make_spec(1)
    spec = replace(spec, release=replace(spec.release, wsgi=text, settings=text))
    secrets = Secrets({"MINE": text}, text, text, text)
    document = site_document(spec, secrets, make_config(), None)
    environment = document["environment"]
    assert environment["DJANGO_SETTINGS_MODULE"] == environment["SECRET_KEY"] == environment["PGPASSWORD"] == text
    assert environment["MINE"] == (environment["PATH"] if text == "${PATH}" else text)
    assert json.loads(encode(document)) == document
    assert text not in render_vassal(spec.slug, 1, processes=1, threads=1, backlog=1)
    assert text not in json.dumps(document["argv"])


@pytest.mark.parametrize("manage", ["/etc/x", "../x", "a/../../x", "", "a\0b"])
def test_manage_stays_inside_the_source(manage: str) -> None:
    spec = make_spec(1)
    spec = replace(spec, release=replace(spec.release, manage=manage))
    with pytest.raises(InvalidDocument):
        site_document(spec, Secrets({}, "", "", None), make_config(), None)


def test_a_site_logs_in_as_the_user_that_control_names() -> None:
    config, spec = make_config(), make_spec()
    document = {"secret_key": "x", "database_password": "p", "cache_password": "p"}
    before = site_document(spec, Secrets.from_document(document), config, None)["environment"]
    assert (before["PGUSER"], before["PGDATABASE"]) == ("site_1", "site_1")
    named = document | {"database_user": "site_1_b", "cache_user": "site_1_b", "retiring_user": "site_1"}
    after = site_document(spec, Secrets.from_document(named), config, None)["environment"]
    assert (after["PGUSER"], after["PGDATABASE"], after["TENANTRY_CACHE_PREFIX"]) == ("site_1_b", "site_1", "blog")
    assert after["DATABASE_URL"].startswith("postgresql://site_1_b:p@/site_1?")
    assert after["REDIS_URL"].startswith("unix://site_1_b:p@")
    for other in ("site_2", "site_1_owner", "postgres", ""):
        for key in ("database_user", "cache_user"):
            with pytest.raises(InvalidDocument):
                site_document(spec, Secrets.from_document(document | {key: other}), config, None)


@pytest.mark.parametrize(
    "document",
    [{}, {"secret_key": "x"}, {"secret_key": 1, "database_password": "x"},
     {"secret_key": "x", "database_password": "x", "environment": {"A": 1}},
     {"secret_key": "x", "database_password": "x", "environment": {"A=B": "1"}},
     {"secret_key": "x", "database_password": "x", "environment": {"A": "nul\0"}}],
)  # fmt: skip
def test_a_sealed_document_of_another_shape_is_refused_without_its_content(document: dict[str, object]) -> None:
    with pytest.raises(InvalidDocument) as refused:
        Secrets.from_document(document)
    assert "nul" not in str(refused.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [("home", "relative"), ("home", "/a b"), ("home", "/x;y"), ("home", "/a/../b"), ("home", "/" + "x" * 60),
     ("home", "/proc/self/cwd"), ("bind", "localhost; }"), ("bind", "*"), ("http_port", "8080"), ("http_port", 70_000),
     ("http_port", True), ("uid_base", 5), ("uid_base", "1"), ("nginx_group", "a; b"), ("tenant_database", None),
     ("tenant_database", {"host": "x"}), ("dsn", ""), ("platform_key", None), ("platform_key", [])],
)  # fmt: skip
def test_a_wrong_configuration_names_the_key(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match="port" if key == "tenant_database" and value else key):
        make_config(**{key: value})
