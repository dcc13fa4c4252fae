"""What a removed node knew is refused by PostgreSQL and Redis, while the site goes on answering."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
import redis
from psycopg import errors

from tenantry.control.data import passwords
from tenantry.testing.control import NODE_ROLE, ControlDatabase

from .test_site_databases import platform, queued, release, site
from .test_site_jobs import secrets_of

__all__ = ["platform", "release", "site"]
Report = Callable[..., None]


@pytest.fixture
def ready(platform: Any, site: Any) -> Any:
    from tenantry.control.jobs import sites

    sites.provision_site(platform, site.number)
    site.refresh_from_db()
    return site


@pytest.fixture
def report(control_database: ControlDatabase) -> Iterator[Report]:
    """Report, as the agent of node-1, that it serves the site «blog» as it is now."""
    with psycopg.connect(control_database.dsn(NODE_ROLE), autocommit=True) as agent:

        def run(**fields: Any) -> None:
            from psycopg.types.json import Jsonb

            from tenantry.control.changelog import queries
            from tenantry.control.sites.models import Site

            epoch, revision = queries.head()
            site = Site.objects.get(slug="blog")
            one = {
                "slug": "blog", "revision": site.revision, "generation": site.generation, "state": "serving"
            }  # fmt: skip
            said = {"epoch": str(epoch), "revision": revision, "version": "1", "features": ["logins"], "sites": [one]}
            agent.execute("SELECT agent_v1.report(%s)", [Jsonb(said | fields)])

        yield run


def database_of(platform: Any, site: Any, secrets: dict[str, Any]) -> "psycopg.Connection[Any]":
    name = f"site_{site.number}"
    access = platform.server.access(name, secrets["database_password"], secrets.get("database_user"))
    return psycopg.connect(access.url, autocommit=True)


def cache_of(platform: Any, site: Any, secrets: dict[str, Any]) -> "redis.Redis":
    user = secrets.get("cache_user") or f"site_{site.number}"
    return redis.Redis.from_url(platform.cache.access(user, "blog", secrets["cache_password"]).redis_url)


def renew(platform: Any, site: Any) -> None:
    from tenantry.control.jobs import passwords as jobs

    jobs.renew_site(platform, site.number)
    site.refresh_from_db()


def refuse(platform: Any, site: Any, seconds: float = 60) -> None:
    from tenantry.control.database import database_now
    from tenantry.control.jobs import passwords as jobs

    jobs.refuse_login(platform, site.number, database_now() + timedelta(seconds=seconds))
    site.refresh_from_db()


def test_a_removed_node_knows_nothing_that_works(
    platform: Any, ready: Any, report: Report, control_database: ControlDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tenantry.control.access.actors import JOBS
    from tenantry.control.changelog.models import Change
    from tenantry.control.fleet import services
    from tenantry.control.fleet.models import Node
    from tenantry.control.jobs import passwords as jobs

    monkeypatch.setattr(jobs, "PACE_SECONDS", 0.0)
    Node.objects.create(name="node-2", role="tenantry_node_77")
    report()
    known = secrets_of(ready)
    stolen_database, stolen_cache = database_of(platform, ready, known), cache_of(platform, ready, known)
    stolen_cache.set("blog:1:x", "kept")
    serving = database_of(platform, ready, known)  # a process of the generation before, on node-1
    serving.execute("INSERT INTO note VALUES ('before')")

    services.remove(JOBS, "node-2")
    assert queued(control_database, "renew_passwords") == 1
    jobs.queue_renewals()
    jobs.queue_renewals()
    assert queued(control_database, "renew_site") == 1
    generation = ready.generation
    renew(platform, ready)
    assert ready.generation == generation + 1
    renewed = secrets_of(ready)
    assert renewed["database_user"] == renewed["cache_user"] == f"site_{ready.number}_b"
    assert {renewed[key] == known[key] for key in ("database_password", "cache_password")} == {False}
    assert queued(control_database, "refuse_login") == 1

    refuse(platform, ready)  # node-1 does not serve with the new password yet: nothing happens
    serving.execute("INSERT INTO note VALUES ('still here')")
    report()
    with database_of(platform, ready, renewed) as new:
        new.execute("ALTER TABLE note ADD COLUMN more int")
        new.execute("CREATE TABLE made AS SELECT current_user::text AS who")
        assert new.execute("SELECT who FROM made").fetchone() == (f"site_{ready.number}",)
        refuse(platform, ready)
        assert new.execute("SELECT count(*) FROM note").fetchone() == (2,)
    cache = cache_of(platform, ready, renewed)
    assert cache.get("blog:1:x") == b"kept"
    for connection in (stolen_database, serving):
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    with pytest.raises(redis.RedisError):
        stolen_cache.get("blog:1:x")
    with pytest.raises(psycopg.OperationalError, match=r"not permitted to log in|authentication failed"):
        database_of(platform, ready, known)
    with pytest.raises(redis.AuthenticationError):
        cache_of(platform, ready, known).ping()
    steps = Change.objects.filter(type="site.passwords").order_by("revision").values_list("metadata__step", flat=True)
    assert list(steps) == ["renewed", "old refused"]
    refuse(platform, ready)
    cache.close()


def test_logins_take_turns(
    platform: Any, ready: Any, report: Report, monkeypatch: pytest.MonkeyPatch, control_database: ControlDatabase
) -> None:
    from tenantry.control.jobs import passwords as jobs

    monkeypatch.setattr(jobs, "PACE_SECONDS", 0.0)
    seen = []
    for _ in range(3):
        renew(platform, ready)
        in_between = secrets_of(ready)
        renew(platform, ready)
        assert secrets_of(ready) == in_between, "while an old login may be in use, there is none to give a password"
        report()
        refuse(platform, ready)
        with database_of(platform, ready, secrets_of(ready)) as connection:
            connection.execute("INSERT INTO note VALUES ('x')")
            who = connection.execute("SELECT session_user::text, current_user::text").fetchone()
            assert who is not None
            seen.append(who)
    first, second = f"site_{ready.number}", f"site_{ready.number}_b"
    assert seen == [(second, first), (first, first), (second, first)]


def test_an_older_agent_is_waited_for(
    platform: Any, ready: Any, report: Report, control_database: ControlDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    from tenantry.control.fleet.models import Node

    report(features=["logins", 7, "x" * 100])
    assert Node.objects.get().features == ["logins"]
    report(features=None)
    assert Node.objects.get().features == [], "it says its version, and no features: an agent of before"
    before = secrets_of(ready)
    renew(platform, ready)
    assert secrets_of(ready) == before
    assert "node-1 run an older release" in caplog.text
    assert queued(control_database, "renew_site") == 1


def test_a_node_that_never_manages_does_not_keep_old_passwords_alive(
    platform: Any, ready: Any, report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tenantry.control.changelog.models import Change
    from tenantry.control.jobs import passwords as jobs

    monkeypatch.setattr(jobs, "PACE_SECONDS", 0.0)
    report()
    known = secrets_of(ready)
    renew(platform, ready)
    refuse(platform, ready, seconds=-1)
    with pytest.raises(psycopg.OperationalError):
        database_of(platform, ready, known)
    assert Change.objects.filter(type="site.passwords").latest("revision").metadata["behind"] == ["node-1"]


@pytest.mark.parametrize("step", ["open_login", "outcomes"])
def test_a_renewal_killed_after_a_step_is_run_again(
    platform: Any, ready: Any, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tenantry.control.jobs import passwords as jobs
    from tenantry.control.sites import outcomes

    def killed(*_: Any) -> None:
        raise InterruptedError

    known = secrets_of(ready)
    with monkeypatch.context() as patch:
        if step == "outcomes":
            patch.setattr(outcomes, "renew_passwords", killed)
        else:
            patch.setattr(platform.cache.__class__, "provision_user", killed)
        with pytest.raises(InterruptedError):
            renew(platform, ready)
    database_of(platform, ready, known).close()
    monkeypatch.setattr(jobs, "PACE_SECONDS", 0.0)
    renew(platform, ready)
    with database_of(platform, ready, secrets_of(ready)) as connection:
        connection.execute("SELECT 1")


def test_what_a_site_has_set_for_its_role_counts_for_the_second_login(platform: Any, ready: Any) -> None:
    known = secrets_of(ready)
    name = f"site_{ready.number}"
    with database_of(platform, ready, known) as connection:
        connection.execute(f'ALTER ROLE {name} SET search_path = "$user", "od""d", public')
        connection.execute(f"ALTER ROLE {name} SET statement_timeout = '7s'")
        connection.execute(f"ALTER ROLE {name} IN DATABASE {name} SET application_name = 'it''s'")
        connection.execute(f"ALTER ROLE {name} SET role = 'none'")
    for _ in range(2):
        passwords.open_login(platform.server, ready.number, f"{name}_b", "second")
    access = platform.server.access(name, "second", f"{name}_b")
    with psycopg.connect(access.url, autocommit=True) as connection:
        shown = [
            connection.execute(f"SHOW {setting}").fetchone()
            for setting in ("search_path", "statement_timeout", "application_name", "role")
        ]
        assert shown == [('"$user", "od""d", public',), ("7s",), ("it's",), (name,)]
        with pytest.raises(errors.InsufficientPrivilege):
            connection.execute(f"ALTER ROLE {name}_b PASSWORD 'mine'; SET ROLE NONE; CREATE ROLE x")


def test_a_site_with_a_second_login_is_removed_whole(
    platform: Any, ready: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tenantry.control.access.actors import JOBS
    from tenantry.control.jobs import passwords as jobs
    from tenantry.control.jobs import sites
    from tenantry.control.sites import services

    monkeypatch.setattr(jobs, "PACE_SECONDS", 0.0)
    renew(platform, ready)
    with database_of(platform, ready, secrets_of(ready)) as connection:
        connection.execute("SET ROLE NONE; CREATE TABLE by_the_login (i int)")
    services.delete_site(JOBS, "blog", confirm="blog")
    sites.remove_site(platform, ready.number, dump=True, wait_seconds=0)
    with platform.server.admin() as admin:
        assert admin.execute("SELECT rolname FROM pg_roles WHERE rolname ~ '^site_'").fetchall() == []
    assert [user for user in platform.cache.users() if user.startswith("site_")] == []
    jobs.renew_site(platform, ready.number)
    jobs.refuse_login(platform, ready.number, datetime.now(UTC))
