"""A project of `django-admin startproject` with the README's two lines, on the real PostgreSQL and Redis."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

README = Path(__file__).parents[1] / "README.md"
VISIT = """
import django_tenantry.wsgi
from django.conf import settings
from django.contrib.auth.models import User
from django.core.cache import cache
from django.db import connection
from django.test import Client
User.objects.create_superuser("ada", password="pw")
client = Client(enforce_csrf_checks=True, headers={"host": "books.localhost:8080"})
page = client.get("/admin/login/")
form = {"username": "ada", "password": "pw", "csrfmiddlewaretoken": client.cookies["csrftoken"].value}
answer = client.post("/admin/login/?next=/admin/", form, headers={"origin": "http://books.localhost:8080"})
cache.set("a", 1)
print(page.status_code, answer.status_code, answer["location"], connection.vendor, cache.get("a"), settings.DEBUG)
"""


def lines_of_the_readme(which: int) -> str:
    return re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)[which]


@pytest.mark.parametrize("which", [0, 1])
def test_the_lines_of_the_readme_are_enough(
    which: int, tmp_path: Path, postgres_server: Any, redis_server: Any
) -> None:
    bare = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONWARNINGS": "error"}
    site = {
        **bare,
        **postgres_server.environment(),
        "DJANGO_SETTINGS_MODULE": "shop.settings",
        "MEDIA_ROOT": str(tmp_path / "media"),
        "REDIS_URL": redis_server.address("blog"),
        "SECRET_KEY": "own",
        "STATIC_ROOT": str(tmp_path / "static"),
        "STATIC_URL": "/static/",
        "TENANTRY_CACHE_PREFIX": "blog",
        "TENANTRY_SITE": "blog",
        "TENANTRY_WSGI": "shop.wsgi:application",
    }

    def python(environment: dict[str, str], *arguments: str) -> str:
        result = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    python(bare, "-m", "django", "startproject", "shop", str(tmp_path))
    settings = tmp_path / "shop/settings.py"
    settings.write_text(f"{settings.read_text()}\n{lines_of_the_readme(which)}")

    # As before, outside the platform.
    vendor = "from django.db import connection; print(connection.vendor)"
    assert python(bare, "manage.py", "shell", "-v", "0", "-c", vendor) == "sqlite\n"

    python(site, "manage.py", "check", "--fail-level", "WARNING")
    python(site, "manage.py", "collectstatic", "--noinput")
    assert (tmp_path / "static/admin/css/base.css").is_file()
    python(site, "manage.py", "migrate", "--noinput")
    try:
        assert python(site, "-c", VISIT) == "200 302 /admin/ postgresql 1 False\n"
    finally:
        python(site, "manage.py", "migrate", "admin", "zero")
        python(site, "manage.py", "migrate", "auth", "zero")
    assert not (tmp_path / "db.sqlite3").exists()
