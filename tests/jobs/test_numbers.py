"""A restored database gives out no number whose files, database or cache user are still here."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.db import connection

from tenantry.control.data import databases
from tenantry.control.data.cache import CacheServer
from tenantry.control.data.server import TenantServer
from tenantry.testing.control import ControlDatabase

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="users of their own are root's")


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
def next_number(platform: Any) -> Callable[[str], int]:
    from tenantry.control.jobs.numbers import keep_numbers

    def after_a_restore(table: str) -> int:
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT setval(pg_get_serial_sequence('{table}', 'number'), 3)")
            keep_numbers(platform)
            cursor.execute(f"SELECT nextval(pg_get_serial_sequence('{table}', 'number'))")
            return int(cursor.fetchone()[0])

    return after_a_restore


def directory(platform: Any, slug: str, number: int) -> Path:
    from tenantry.control.data.directories import make_site_directories, site_owner

    make_site_directories(platform.home, slug, site_owner(platform.uid_base, number))
    made: Path = platform.home / "data" / slug
    return made


def test_without_anything_forgotten_numbers_go_on(next_number: Callable[[str], int]) -> None:
    assert next_number("site") == 4
    assert next_number("project") == 4


def test_a_database_that_is_here_is_not_given_to_another_site(platform: Any, next_number: Callable[[str], int]) -> None:
    with platform.server.admin() as admin:
        admin.execute("CREATE ROLE site_41")
    try:
        assert next_number("site") == 42
    finally:
        databases.drop_site_database(platform.server, 41)


def test_a_cache_user_that_is_here_is_not_given_to_another_site(
    platform: Any, next_number: Callable[[str], int]
) -> None:
    platform.cache.provision_user("site_17", "old", "password")
    try:
        assert next_number("site") == 18
    finally:
        platform.cache.drop_user("site_17", "old")


@as_root
def test_a_user_whose_files_are_here_is_not_given_to_another_site(
    platform: Any, next_number: Callable[[str], int]
) -> None:
    made = directory(platform, "old", 29)
    os.chown(made / "media", 0, 0)  # also what is left of one
    (platform.home / "data" / "foreign").mkdir()
    assert next_number("site") == 30


@as_root
def test_a_project_whose_releases_are_here_keeps_its_number(platform: Any, next_number: Callable[[str], int]) -> None:
    release = platform.home / "releases" / "shop-1"
    release.mkdir(parents=True)
    os.chown(release, 0, platform.uid_base + 10_000 + 12)
    assert next_number("project") == 13
    assert next_number("site") == 4


@as_root
def test_a_site_is_not_made_over_the_files_of_another(platform: Any) -> None:
    from tenantry.control.jobs.numbers import foreign_files

    directory(platform, "old", 7)
    assert foreign_files(platform, "new", 7) == platform.home / "data" / "old"
    assert foreign_files(platform, "old", 7) is None
    assert foreign_files(platform, "new", 8) is None
