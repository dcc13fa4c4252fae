"""Projects of people: the tutorial's, one that reads its environment, a real one, and ones that cannot be built."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tenantry.interpreters import find_interpreters

ROOT = Path(__file__).parents[2]
PRETALX = "pretalx-2025.2.2"
BUILD_SECONDS = 280

FROM_ENVIRONMENT = """
import os
from pathlib import Path

import environ

env = environ.Env()
BASE_DIR = Path(__file__).resolve().parent.parent
SECRET_KEY = env("SECRET_KEY")
DEBUG = env.bool("DEBUG", True)
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS")
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions"]
ROOT_URLCONF = "plain.urls"
WSGI_APPLICATION = "plain.wsgi.application"
DATABASES = {"default": env.db("DATABASE_URL")}
CACHES = {"default": env.cache("CACHE_URL")}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
"""
URLS = """
import platform

import django
from django.contrib.auth.models import User
from django.core.cache import cache
from django.http import JsonResponse
from django.urls import path


def index(request):
    cache.set("word", request.get_host(), 60)
    return JsonResponse(
        {
            "host": request.get_host(),
            "python": platform.python_version(),
            "django": django.__version__,
            "users": User.objects.count(),
            "cached": cache.get("word"),
        }
    )


urlpatterns = [path("", index)]
"""


BREAKS_AT_THE_START = """
import os
import sys

if os.environ.get("TENANTRY_SITE") == "fragile-site" and "uwsgi" in sys.modules:
    raise RuntimeError("broken at the start")
"""


def start_project(directory: Path, name: str) -> Path:
    """A project as `django-admin startproject` makes it."""
    source = directory / name
    source.mkdir(parents=True)
    subprocess.run([sys.executable, "-m", "django", "startproject", name, str(source)], check=True, timeout=60)
    return source


def plain_project(directory: Path, django: str) -> Path:
    """A project that takes everything from its environment and knows nothing of the platform."""
    source = start_project(directory, "plain")
    (source / "plain" / "settings.py").write_text(FROM_ENVIRONMENT)
    (source / "plain" / "urls.py").write_text(URLS)
    (source / "requirements.txt").write_text(f"{django}\ndjango-environ\npsycopg[binary]\nredis\n")
    return source


def tutorial_lines() -> tuple[str, str]:
    """The requirement and the lines for the settings, as the tutorial gives them."""
    text = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    requirement = re.search(r"echo '([^']+)' > /srv/shop/requirements.txt", text)
    lines = re.search(r"cat >> /srv/shop/shop/settings.py <<'EOF'\n(.*?)^EOF$", text, re.DOTALL | re.MULTILINE)
    assert requirement
    assert lines
    return requirement[1], lines[1]


@pytest.fixture
def public(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("projects")


def remove(platform: Any, project: str, *sites: str) -> None:
    for slug in sites:
        platform.delete(slug)
    platform.tenantry("project", "remove", project, "--yes")


def test_startproject_with_the_tutorials_lines(platform: Any, public: Path) -> None:
    source = start_project(public, "shop")
    requirement, lines = tutorial_lines()
    (source / "requirements.txt").write_text(requirement + "\n")
    with (source / "shop" / "settings.py").open("a") as settings:
        settings.write("\n" + lines)
    platform.tenantry("project", "add", str(source), "--name", "shop", seconds=BUILD_SECONDS)
    platform.create("berlin", "shop")
    platform.create("tokyo", "shop")
    page = platform.get("berlin.localhost", "/admin/login/")
    assert page.status_code == 200
    style = re.search(r'href="(/static/admin/css/base[^"]*\.css)"', page.text)
    assert style
    assert platform.get("berlin.localhost", style[1]).status_code == 200
    user = "from django.contrib.auth.models import User; "
    create = user + "User.objects.create_superuser('anna', password='berlin-only')"
    count = user + "print('count', User.objects.count())"
    platform.tenantry("site", "manage", "berlin", "shell", "-c", create)
    assert "count 1" in platform.tenantry("site", "manage", "berlin", "shell", "-c", count)
    assert "count 0" in platform.tenantry("site", "manage", "tokyo", "shell", "-c", count)

    settings_file = source / "shop" / "settings.py"
    settings_file.write_text(settings_file.read_text().replace("'en-us'", "'de'").replace('"en-us"', '"de"'))
    platform.tenantry("release", "build", "shop", seconds=BUILD_SECONDS)
    platform.tenantry("site", "update", "berlin", "--release", "shop-2", "--wait")
    assert 'lang="de"' in platform.get("berlin.localhost", "/admin/login/").text
    assert 'lang="en' in platform.get("tokyo.localhost", "/admin/login/").text
    assert "count 1" in platform.tenantry("site", "manage", "berlin", "shell", "-c", count)
    remove(platform, "shop", "berlin", "tokyo")
    platform.eventually(lambda: not traces_of(platform, "shop"))


def interpreter_beside_ours() -> str | None:
    """The version of another interpreter that the platform would find on this machine, if there is one."""
    ours = f"{sys.version_info.major}.{sys.version_info.minor}"
    found = {f"{version[0]}.{version[1]}" for version in (python.version for python in find_interpreters())}
    # pyuwsgi has wheels for these; another interpreter would need a compiler.
    return next((version for version in ("3.13", "3.12", "3.14", "3.11") if version in found and version != ours), None)


def test_two_django_versions_run_side_by_side_unchanged(platform: Any, public: Path) -> None:
    source = plain_project(public / "old", "django>=4.2,<4.3")
    platform.tenantry("project", "add", str(source), "--name", "plain-old", seconds=BUILD_SECONDS)
    platform.create("old-one", "plain-old")
    answer = platform.get("old-one.localhost").json()
    assert answer["django"].startswith("4.2.")
    assert answer["host"].partition(":")[0] == "old-one.localhost"
    assert answer["cached"] == answer["host"]
    assert answer["users"] == 0
    assert platform.get("alpha.localhost").status_code == 200
    remove(platform, "plain-old", "old-one")


def test_two_python_versions_run_side_by_side(platform: Any, public: Path) -> None:
    version = interpreter_beside_ours()
    if version is None:
        pytest.skip("there is no second interpreter from 3.11 to 3.14 on this machine")
    source = plain_project(public / "new", "django>=5.2,<5.3")
    options = ("--name", "plain-new", "--python", version)
    platform.tenantry("project", "add", str(source), *options, seconds=BUILD_SECONDS)
    platform.create("new-one", "plain-new")
    assert platform.get("new-one.localhost").json()["python"].startswith(version + ".")
    remove(platform, "plain-new", "new-one")


def test_an_interpreter_that_is_not_there_is_said(platform: Any, public: Path) -> None:
    source = plain_project(public / "absent", "django>=5.2,<5.3")
    done = platform.run("project", "add", str(source), "--name", "absent", "--python", "3.99", seconds=BUILD_SECONDS)
    assert done.returncode in (1, 2)
    assert "3.99" in done.stderr
    assert not list((platform.home / "releases").glob("absent-*"))


@pytest.fixture(scope="session")
def pretalx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked source of a real project, as PyPI has it. `TENANTRY_TEST_CACHE` keeps the download."""
    import os

    cache = Path(os.environ.get("TENANTRY_TEST_CACHE") or tmp_path_factory.mktemp("sdist"))
    archive = cache / f"{PRETALX}.tar.gz"
    if not archive.exists():
        name, _, version = PRETALX.rpartition("-")
        venv = tmp_path_factory.mktemp("pip")
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True, timeout=60)
        pip = [str(venv / "bin" / "pip"), "download", "--no-deps", "--no-binary", name, f"{name}=={version}", "-q"]
        subprocess.run([*pip, "--disable-pip-version-check", "-d", str(cache)], check=True, timeout=200)
    directory = tmp_path_factory.mktemp("pretalx")
    subprocess.run(["tar", "-xzf", str(archive), "-C", str(directory)], check=True, timeout=60)
    return directory / PRETALX


def pretalx_variables() -> list[str]:
    """The `--env` options of `project add`, as the page about pretalx gives them."""
    text = (ROOT / "docs" / "how-to" / "pretalx.md").read_text(encoding="utf-8")
    found = re.findall(r"--env '?(PRETALX_[A-Z_]+=[^\s']+)'?", text.partition("site create")[0])
    assert len(found) >= 9
    return [word for pair in found for word in ("--env", pair)]


def test_a_real_project_runs_unmodified(platform: Any, pretalx: Path) -> None:
    variables = pretalx_variables()
    platform.tenantry("project", "add", str(pretalx), "--name", "pretalx", *variables, seconds=BUILD_SECONDS)
    for slug in ("conf", "meetup"):
        platform.create(slug, "pretalx", "--env", f"PRETALX_SITE_URL=http://{slug}.localhost:{platform.http_port}")
        page = platform.get(f"{slug}.localhost")
        assert page.status_code == 200
        assert "pretalx" in page.text
        login = platform.get(f"{slug}.localhost", "/orga/login/")
        assert login.status_code == 200
        style = re.search(r"href=\"?(/static/[^\s\">]+\.css)", login.text)
        assert style
        assert platform.get(f"{slug}.localhost", style[1]).status_code == 200
    add = "from pretalx.event.models import Organiser; Organiser.objects.create(name='Us', slug='us')"
    count = "from pretalx.event.models import Organiser; print('count', Organiser.objects.count())"
    shell = ("shell", "--unsafe-disable-scopes", "-c")  # pretalx's own guard between its events
    platform.tenantry("site", "manage", "conf", *shell, add)
    assert "count 1" in platform.tenantry("site", "manage", "conf", *shell, count)
    assert "count 0" in platform.tenantry("site", "manage", "meetup", *shell, count)
    keys = {slug: (platform.home / "data" / slug).rglob(".secret") for slug in ("conf", "meetup")}
    assert all(list(paths) for paths in keys.values()), "its own key file lies in the site's own directory"
    remove(platform, "pretalx", "conf", "meetup")


def traces_of(platform: Any, project: str) -> list[str]:
    """What a build may leave: directories of releases, template databases, roles."""
    with platform.superuser() as postgres:
        names = [
            row[0] for row in postgres.execute("SELECT datname FROM pg_database UNION SELECT rolname FROM pg_roles")
        ]
    databases = [name for name in names if name.startswith(f"tpl_{project.replace('-', '_')}_")]
    directories = [path.name for path in (platform.home / "releases").iterdir() if project in path.name]
    return databases + directories


@pytest.mark.parametrize(
    ("flaw", "said"),
    [
        ("requirement", "no-such-package-of-nobody"),
        ("settings", "ZeroDivisionError"),
        ("check", "shop.E999"),
        ("migration", "this migration fails"),
    ],
)
def test_a_failing_build_says_where_and_leaves_nothing(platform: Any, public: Path, flaw: str, said: str) -> None:
    source = plain_project(public / flaw, "django>=5.2,<5.3")
    settings, app = source / "plain" / "settings.py", source / "plain"
    if flaw == "requirement":
        (source / "requirements.txt").write_text("no-such-package-of-nobody==1.0\n")
    elif flaw == "settings":
        settings.write_text(settings.read_text() + "\n1 / 0\n")
    elif flaw == "check":
        (app / "checks.py").write_text(
            "from django.core.checks import Error, register\n\n\n@register()\ndef refuse(app_configs, **kwargs):\n"
            "    return [Error('not like this', id='shop.E999')]\n"
        )
        (app / "__init__.py").write_text("import plain.checks\n")
    else:
        (app / "migrations").mkdir()
        (app / "migrations" / "__init__.py").touch()
        (app / "models.py").touch()
        (app / "migrations" / "0001_initial.py").write_text(
            "from django.db import migrations\n\n\ndef fail(apps, schema_editor):\n"
            "    raise RuntimeError('this migration fails')\n\n\nclass Migration(migrations.Migration):\n"
            "    operations = [migrations.RunPython(fail)]\n"
        )
        settings.write_text(settings.read_text() + "\nINSTALLED_APPS += ['plain']\n")
    name = f"bad-{flaw}"
    done = platform.run("project", "add", str(source), "--name", name, seconds=BUILD_SECONDS)
    assert done.returncode == 1
    assert "failed at" in done.stderr
    assert said in done.stderr, done.stderr[-2000:]
    assert not traces_of(platform, name)
    assert platform.run("site", "create", "on-nothing", "--project", name).returncode in (1, 2)
    platform.tenantry("project", "remove", name, "--yes")


def test_a_directory_that_is_no_django_project_is_said(platform: Any, public: Path) -> None:
    (public / "notes.txt").write_text("nothing to run here")
    for path in (public, public / "nowhere", public / "notes.txt"):
        done = platform.run("project", "add", str(path), "--name", "nothing", seconds=BUILD_SECONDS)
        assert done.returncode in (1, 2), done.stdout
        assert done.stderr.strip()
        assert "Traceback" not in done.stderr
        assert not traces_of(platform, "nothing")
        platform.run("project", "remove", "nothing", "--yes")


def test_a_site_whose_new_release_does_not_start_keeps_serving_the_old_one(platform: Any, public: Path) -> None:
    source = plain_project(public / "fragile", "django>=5.2,<5.3")
    platform.tenantry("project", "add", str(source), "--name", "fragile", seconds=BUILD_SECONDS)
    platform.create("fragile-site", "fragile")
    wsgi = source / "plain" / "wsgi.py"
    wsgi.write_text(BREAKS_AT_THE_START + wsgi.read_text())
    platform.tenantry("release", "build", "fragile", seconds=BUILD_SECONDS)
    done = platform.run("site", "update", "fragile-site", "--release", "fragile-2", "--wait")
    assert done.returncode == 1
    assert "broken at the start" in done.stderr + platform.tenantry("site", "logs", "fragile-site")
    assert platform.get("fragile-site.localhost").status_code == 200
    remove(platform, "fragile", "fragile-site")
