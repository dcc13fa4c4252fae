"""`configure`: what a site overrides in hard-wired settings, and what it leaves alone."""

import copy
from typing import Any

import pytest
from django_tenantry import configure
from django_tenantry.errors import EnvironmentIncomplete

ENVIRONMENT = {
    "TENANTRY_SITE": "blog",
    "TENANTRY_CACHE_PREFIX": "blog",
    "SECRET_KEY": "the-site's-own",
    "PGHOST": "/run/Postgres",
    "PGPORT": "5433",
    "PGDATABASE": "site_17",
    "PGUSER": "site_17",
    "PGPASSWORD": "pw",
    "REDIS_URL": "unix://site_17:pw@/run/redis.sock?db=0",
    "MEDIA_ROOT": "/data/blog/media",
    "MEDIA_URL": "/media/",
    "STATIC_ROOT": "/releases/demo-1/static",
    "STATIC_URL": "/static/",
}


@pytest.fixture
def on_the_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


def hard_wired() -> dict[str, Any]:
    return {
        "__name__": "shop.settings",
        "SECRET_KEY": "django-insecure-shared",
        "SECRET_KEY_FALLBACKS": ["django-insecure-older"],
        "DEBUG": True,
        "ALLOWED_HOSTS": [],
        "DATABASES": {
            "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite3", "OPTIONS": {"timeout": 20}},
            "archive": {"ENGINE": "django.db.backends.sqlite3", "NAME": "archive.sqlite3"},
        },
        "LOGGING": {"version": 1},
        "STATIC_URL": "static/",
    }


def test_outside_tenantry_it_does_nothing_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PGHOST", "elsewhere")
    settings = hard_wired()
    before = copy.deepcopy(settings)
    configure(settings)
    assert settings == before


@pytest.mark.usefixtures("on_the_platform")
def test_a_site_gets_its_own_everything() -> None:
    settings = hard_wired()
    configure(settings)
    assert settings["DATABASES"]["default"] == {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": "/run/Postgres",
        "PORT": "5433",
        "NAME": "site_17",
        "USER": "site_17",
        "PASSWORD": "pw",
        "OPTIONS": {},
    }
    assert settings["CACHES"]["default"] == {
        "BACKEND": "django_tenantry.cache.SiteCache",
        "LOCATION": "unix://site_17:pw@/run/redis.sock?db=0",
        "KEY_PREFIX": "blog",
    }
    assert settings["SECRET_KEY"] == "the-site's-own"
    assert settings["SECRET_KEY_FALLBACKS"] == []
    assert settings["DEBUG"] is False
    assert settings["ALLOWED_HOSTS"] == ["*"]
    assert settings["USE_X_FORWARDED_HOST"] is False
    assert (settings["MEDIA_ROOT"], settings["STATIC_ROOT"]) == ("/data/blog/media", "/releases/demo-1/static")
    assert (settings["MEDIA_URL"], settings["STATIC_URL"]) == ("/media/", "/static/")
    assert settings["LOGGING"] == {"version": 1}
    assert settings["DATABASES"]["archive"]["NAME"] == "archive.sqlite3"


@pytest.mark.usefixtures("on_the_platform")
def test_calling_it_twice_changes_nothing_more() -> None:
    settings = hard_wired()
    configure(settings)
    once = copy.deepcopy(settings)
    configure(settings)
    assert settings == once


@pytest.mark.usefixtures("on_the_platform")
def test_what_the_project_said_of_its_postgresql_connections_stays() -> None:
    settings = hard_wired()
    settings["DATABASES"]["default"] = {
        "ENGINE": "django_prometheus.db.backends.postgresql",
        "HOST": "db.example.org",
        "CONN_MAX_AGE": 60,
        "CONN_HEALTH_CHECKS": True,
        "ATOMIC_REQUESTS": True,
        "OPTIONS": {"application_name": "shop", "service": "production", "host": "10.0.0.1", "pool": True},
    }
    configure(settings)
    default = settings["DATABASES"]["default"]
    assert default["ENGINE"] == "django_prometheus.db.backends.postgresql"
    assert (default["CONN_MAX_AGE"], default["CONN_HEALTH_CHECKS"], default["ATOMIC_REQUESTS"]) == (60, True, True)
    assert default["HOST"] == "/run/Postgres"
    assert default["OPTIONS"] == {"application_name": "shop", "pool": True}


@pytest.mark.usefixtures("on_the_platform")
@pytest.mark.parametrize(
    ("engine", "becomes"),
    [
        ("django.contrib.gis.db.backends.spatialite", "django.contrib.gis.db.backends.postgis"),
        ("django.contrib.gis.db.backends.postgis", "django.contrib.gis.db.backends.postgis"),
        ("django.db.backends.postgresql_psycopg2", "django.db.backends.postgresql_psycopg2"),
        ("django.db.backends.mysql", "django.db.backends.postgresql"),
    ],
)
def test_the_engine_keeps_what_models_need(engine: str, becomes: str) -> None:
    settings: dict[str, Any] = {"DATABASES": {"default": {"ENGINE": engine}}}
    configure(settings)
    assert settings["DATABASES"]["default"]["ENGINE"] == becomes


@pytest.mark.usefixtures("on_the_platform")
def test_copies_of_the_shared_key_are_replaced_too() -> None:
    settings = hard_wired()
    shared = settings["SECRET_KEY"]
    settings["SIMPLE_JWT"] = {"SIGNING_KEY": shared, "ALGORITHM": "HS256"}
    settings["KEYS"] = [shared, "other"]
    configure(settings)
    assert settings["SIMPLE_JWT"] == {"SIGNING_KEY": "the-site's-own", "ALGORITHM": "HS256"}
    assert settings["KEYS"] == ["the-site's-own", "other"]
    assert shared not in repr(settings)


@pytest.mark.usefixtures("on_the_platform")
def test_cookies_of_one_site_do_not_reach_another() -> None:
    settings = hard_wired() | {"SESSION_COOKIE_DOMAIN": ".example.org", "CSRF_COOKIE_DOMAIN": ".example.org"}
    configure(settings)
    assert settings["SESSION_COOKIE_DOMAIN"] is None
    assert settings["CSRF_COOKIE_DOMAIN"] is None
    assert "LANGUAGE_COOKIE_DOMAIN" not in settings


@pytest.mark.usefixtures("on_the_platform")
def test_uploads_do_not_go_where_the_storage_was_told() -> None:
    settings = hard_wired()
    files = "django.core.files.storage.FileSystemStorage"
    options = {"location": "/srv/media", "base_url": "/up/", "file_permissions_mode": 0o640}
    settings["STORAGES"] = {"default": {"BACKEND": files, "OPTIONS": options}, "staticfiles": {"BACKEND": "x"}}
    configure(settings)
    assert settings["STORAGES"] == {
        "default": {"BACKEND": files, "OPTIONS": {"file_permissions_mode": 0o640}},
        "staticfiles": {"BACKEND": "x"},
    }


@pytest.mark.usefixtures("on_the_platform")
def test_other_caches_and_the_timeout_stay() -> None:
    settings = hard_wired()
    local = {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}
    settings["CACHES"] = {"default": {**local, "TIMEOUT": 60, "OPTIONS": {"MAX_ENTRIES": 9}}, "local": local}
    configure(settings)
    assert settings["CACHES"]["local"] == local
    assert settings["CACHES"]["default"]["TIMEOUT"] == 60
    assert "OPTIONS" not in settings["CACHES"]["default"]


@pytest.mark.usefixtures("on_the_platform")
def test_without_redis_the_caches_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDIS_URL")
    settings = hard_wired()
    configure(settings)
    assert "CACHES" not in settings


@pytest.mark.usefixtures("on_the_platform")
@pytest.mark.parametrize("variable", ["SECRET_KEY", "PGHOST", "PGDATABASE", "PGUSER"])
def test_an_incomplete_environment_is_named(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(variable)
    with pytest.raises(EnvironmentIncomplete, match=variable):
        configure(hard_wired())
