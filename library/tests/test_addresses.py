"""The addresses that the README promises, read by the parsers that projects use, and opened on real servers."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import dj_database_url
import environ
import pytest

README = Path(__file__).parents[1] / "README.md"
DATABASE_URL = "postgresql://{user}:{password}@/{database}?host={socket_directory}&port={port}"
CACHE_URL = "redis://{user}:{password}@{socket}?key_prefix={slug}"
REDIS_URL = "unix://{user}:{password}@{socket}?db=0"


def q(text: object) -> str:
    return quote(str(text), safe="")


@pytest.mark.parametrize("form", [DATABASE_URL, CACHE_URL, REDIS_URL])
def test_the_forms_are_those_of_the_readme(form: str) -> None:
    assert form in README.read_text()


@pytest.mark.parametrize("scheme", ["postgresql", "postgres"])
@pytest.mark.parametrize("parser", ["dj_database_url", "environ"])
def test_both_parsers_find_the_database(postgres_server: Any, parser: str, scheme: str, tmp_path: Path) -> None:
    parts = postgres_server.environment()
    url = DATABASE_URL.format(
        user=q(parts["PGUSER"]),
        password=q(parts["PGPASSWORD"]),
        database=q(parts["PGDATABASE"]),
        socket_directory=q(parts["PGHOST"]),
        port=parts["PGPORT"],
    ).replace("postgresql", scheme)
    parsed: Any = dj_database_url.parse(url) if parser == "dj_database_url" else environ.Env.db_url_config(url)
    assert parsed["ENGINE"] == "django.db.backends.postgresql"
    assert parsed["PASSWORD"] == parts["PGPASSWORD"]
    code = (
        f"from django.conf import settings; settings.configure(DATABASES={{'default': {dict(parsed)!r}}})\n"
        "from django.db import connection\n"
        "with connection.cursor() as cursor:\n"
        "    cursor.execute('select current_user, current_database()'); print(*cursor.fetchone())\n"
    )
    bare = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    result = subprocess.run([sys.executable, "-c", code], env=bare, capture_output=True, text=True, timeout=60)
    assert result.stdout == "site_17 site_17\n", result.stderr


def test_django_environ_finds_the_cache(redis_server: Any) -> None:
    user, _, password = redis_server.address("blog").partition("://")[2].partition("@")[0].partition(":")
    url = CACHE_URL.format(user=user, password=password, socket=quote(str(redis_server.socket)), slug="blog")
    cache = environ.Env.cache_url_config(url)
    assert cache["LOCATION"] == redis_server.address("blog").removesuffix("?db=0")
    assert cache["OPTIONS"] == {}
    code = (
        f"from django.conf import settings; settings.configure(CACHES={{'default': {cache!r}}})\n"
        "from django_tenantry.prefix import enforce_cache_prefix; enforce_cache_prefix()\n"
        "from django.core.cache import cache; cache.set('a', 1); print(cache.get('a'), cache.make_key('a'))\n"
    )
    environment = {
        "PATH": os.environ["PATH"],
        "TENANTRY_CACHE_PREFIX": "blog",
        "REDIS_URL": redis_server.address("blog"),
    }
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert result.stdout == "1 blog:1:a\n", result.stderr
