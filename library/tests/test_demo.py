"""The demo project's own tests, run by its own manage.py: on SQLite, and as a site on PostgreSQL and Redis."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

DEMO = Path(__file__).parents[2] / "examples/demo"


def manage(*arguments: str, **environment: str) -> str:
    result = subprocess.run(
        [sys.executable, "-W", "error", "manage.py", *arguments],
        cwd=DEMO,
        env={"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout + result.stderr


def site(postgres_server: Any, redis_server: Any) -> dict[str, str]:
    parts = {name: quote(value, safe="") for name, value in postgres_server.environment().items()}
    login = f"{parts['PGUSER']}:{parts['PGPASSWORD']}"
    return {
        "ALLOWED_HOSTS": "*",
        "DATABASE_URL": f"postgresql://{login}@/{parts['PGDATABASE']}?host={parts['PGHOST']}&port={parts['PGPORT']}",
        "DEBUG": "False",
        "REDIS_URL": redis_server.address("blog"),
        "SECRET_KEY": "own" * 20,
        "TENANTRY_CACHE_PREFIX": "blog",
        "TENANTRY_SITE": "blog",
    }


def test_the_demo_passes_its_tests_on_sqlite() -> None:
    assert "OK" in manage("test")


def test_the_demo_passes_its_tests_as_a_site(postgres_server: Any, redis_server: Any) -> None:
    assert "OK" in manage("test", "--noinput", **site(postgres_server, redis_server))


@pytest.mark.parametrize(
    "arguments", [("check", "--fail-level", "WARNING"), ("makemigrations", "--check", "--dry-run")]
)
def test_the_demo_is_complete(arguments: tuple[str, ...], postgres_server: Any, redis_server: Any) -> None:
    manage(*arguments, **site(postgres_server, redis_server))
