"""A tenant's environment: what other people's parsers make of it, and what a person may not change."""

from collections.abc import Callable
from typing import Any

import dj_database_url
import environ
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict

from tenantry.spec.environment import CacheAccess, DatabaseAccess, SiteIdentity, SitePlaces, site_environment

HOST = "/home/Üser name/.tenantry/postgres/sock"
IDENTITY = SiteIdentity("blog", ("blog.localhost", "b.example.org"), "shop.settings", "shop.wsgi:application", "secret")
PLACES = SitePlaces("/r/venv", "/r/static", "/d/media", "/d/home", "/d/tmp")
DATABASE = DatabaseAccess(HOST, 5433, "site_17", "site_17", "p@ss/:?#%&=+ word")
CACHE = CacheAccess("/home/u/redis.sock", "site_17", "blog", "p@ss-word")


@pytest.mark.parametrize("parse", [dj_database_url.parse, environ.Env.db_url_config])
@given(password=st.text(min_size=1, max_size=30, alphabet=st.characters(codec="utf-8", exclude_characters="\0")))
def test_django_parsers_read_the_database(parse: Callable[[str], dict[str, Any]], password: str) -> None:
    access = DatabaseAccess(HOST, 5433, "site_17", "site_17", password)
    found = parse(access.url)
    assert (found["NAME"], found["USER"], found["PASSWORD"]) == ("site_17", "site_17", password)
    assert (found["OPTIONS"]["host"], found["OPTIONS"]["port"]) == (HOST, 5433)
    assert found["ENGINE"] == "django.db.backends.postgresql"


def test_libpq_reads_the_database() -> None:
    assert conninfo_to_dict(DATABASE.url) == {
        "user": "site_17",
        "password": DATABASE.password,
        "dbname": "site_17",
        "host": HOST,
        "port": "5433",
    }


def test_redis_and_django_environ_read_the_cache() -> None:
    arguments = redis.ConnectionPool.from_url(CACHE.redis_url).connection_kwargs
    assert (arguments["username"], arguments["password"], arguments["path"]) == ("site_17", "p@ss-word", CACHE.place)
    found = environ.Env.cache_url_config(CACHE.cache_url)
    assert found["BACKEND"] == "django.core.cache.backends.redis.RedisCache"
    arguments = redis.ConnectionPool.from_url(found["LOCATION"]).connection_kwargs
    assert (arguments["username"], arguments["password"], arguments["path"]) == ("site_17", "p@ss-word", CACHE.place)


def test_typed_values_use_the_platforms_and_replace_its_defaults() -> None:
    typed = {"SHOP_DB": "${DATABASE_URL}#${UNKNOWN}$HOME", "DEBUG": "True", "LOOP": "${LOOP}${SHOP_DB}"}
    found = site_environment(IDENTITY, PLACES, DATABASE, CACHE, typed)
    assert found["SHOP_DB"] == f"{DATABASE.url}#${{UNKNOWN}}$HOME"
    assert found["DEBUG"] == "True"
    assert found["LOOP"] == "${LOOP}${SHOP_DB}"
    assert found["TENANTRY_HOSTNAMES"] == "blog.localhost,b.example.org"


@pytest.mark.parametrize(
    "name", ["TENANTRY_SITE", "PATH", "HOME", "LD_PRELOAD", "PYTHONPATH", "UWSGI_FILE", "DJANGO_SETTINGS_MODULE"]
)
def test_what_belongs_to_the_platform_cannot_be_typed(name: str) -> None:
    plain = site_environment(IDENTITY, PLACES, DATABASE, CACHE, {})
    assert site_environment(IDENTITY, PLACES, DATABASE, CACHE, {name: "x"}) == plain


def test_without_database_and_cache_nothing_points_anywhere() -> None:
    found = site_environment(IDENTITY, PLACES, None, None, {})
    assert found["CACHE_URL"] == "locmemcache://"
    assert not [name for name in found if name.startswith(("PG", "DB_", "DATABASE", "REDIS"))]


def test_secrets_stay_out_of_messages() -> None:
    for value in (IDENTITY, DATABASE, CACHE):
        assert "secret" not in repr(value).replace("secret_key", "")
        assert "p@ss" not in repr(value)
