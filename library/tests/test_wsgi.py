"""`django_tenantry.wsgi` and `python -m django_tenantry`, each in a process of its own, as the platform starts them."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SETTINGS = """
import os
SECRET_KEY = "x"
USE_TZ = True
REDIS = "django.core.cache.backends.redis.RedisCache"
CACHES = {"default": {"BACKEND": REDIS, "LOCATION": os.environ.get("REDIS_URL", "")}}
"""
WSGI = """
from django.core.wsgi import get_wsgi_application
application = other = get_wsgi_application()
text = "not an application"
"""
MANAGE = """
import sys
from django.core.management import execute_from_command_line
execute_from_command_line(sys.argv)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    package = tmp_path / "shop"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "settings.py").write_text(SETTINGS)
    (package / "wsgi.py").write_text(WSGI)
    (package / "broken.py").write_text("import no_such_library\n")
    (tmp_path / "manage.py").write_text(MANAGE)
    return tmp_path


def python(project: Path, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=project,
        env={"PATH": os.environ["PATH"], "DJANGO_SETTINGS_MODULE": "shop.settings", **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


LOAD = "from django_tenantry.wsgi import application; print(type(application).__name__, application.__module__)"


@pytest.mark.parametrize("name", ["", "shop.wsgi", "shop.wsgi:application", "shop.wsgi:other"])
def test_it_loads_the_projects_own_application(project: Path, name: str) -> None:
    result = python(project, "-c", LOAD, TENANTRY_WSGI=name)
    assert result.stdout == "WSGIHandler django.core.handlers.wsgi\n", result.stderr


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("shop.web", "there is no module shop.web"),
        ("store.wsgi:application", "there is no module store."),
        ("shop.wsgi:app", "shop.wsgi has no WSGI application called app"),
        ("shop.wsgi:text", "shop.wsgi has no WSGI application called text"),
        ("shop.broken", "ModuleNotFoundError: No module named 'no_such_library'"),
    ],
)
def test_what_cannot_be_loaded_is_named(project: Path, name: str, says: str) -> None:
    result = python(project, "-c", LOAD, TENANTRY_WSGI=name)
    assert result.returncode == 1
    assert says in result.stderr
    assert ("ApplicationNotFound" in result.stderr) == (name != "shop.broken")


USE = "from django.core.cache import cache; cache.set('a', 1); print(cache.get('a'), cache.key_prefix)"


def test_a_cache_without_a_prefix_gets_the_sites(project: Path, redis_server: Any) -> None:
    environment = {"REDIS_URL": redis_server.address("blog"), "TENANTRY_CACHE_PREFIX": "blog"}
    unrepaired = python(project, "-c", USE, **environment)
    assert "NoPermissionError" in unrepaired.stderr
    served = python(project, "-c", f"import django_tenantry.wsgi; {USE}", **environment)
    assert served.stdout == "1 blog\n", served.stderr
    managed = python(project, "-m", "django_tenantry", "manage.py", "shell", "-c", USE, **environment)
    assert managed.stdout.endswith("1 blog\n"), managed.stderr


def test_other_redis_servers_and_prefixes_are_left_alone(project: Path) -> None:
    from django_tenantry.prefix import add_prefix

    socket = "/run/redis.sock"
    elsewhere = {"LOCATION": "redis://user:pw@cache.example.org:6379/1"}
    add_prefix(elsewhere, "blog", socket)
    assert "KEY_PREFIX" not in elsewhere
    own = {"LOCATION": ["unix://u:p@/run/redis.sock?db=0"], "KEY_PREFIX": "pages"}
    add_prefix(own, "blog", socket)
    add_prefix(own, "blog", socket)
    assert own["KEY_PREFIX"] == "blog:pages"
    local = {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}
    add_prefix(local, "blog", socket)
    assert "KEY_PREFIX" not in local


def test_manage_passes_arguments_and_exit_codes(project: Path) -> None:
    assert python(project, "-m", "django_tenantry", "manage.py", "check").returncode == 0
    refused = python(project, "-m", "django_tenantry", "manage.py", "no_such_command")
    assert refused.returncode == 1
    assert "Unknown command: 'no_such_command'" in refused.stderr
    assert "usage:" in python(project, "-m", "django_tenantry").stderr
