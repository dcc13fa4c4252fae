"""Old changes go from the front of the log; who had not read them reads everything instead."""

from collections.abc import Callable
from datetime import timedelta

import psycopg
import pytest
from django.db import connection

from tenantry.control.access.actors import Actor
from tenantry.control.changelog import queries as changelog
from tenantry.control.changelog.models import Change
from tenantry.control.errors import InvalidInput, NotFound
from tenantry.control.fleet import services
from tenantry.control.releases import services as releases
from tenantry.control.sites import queries
from tenantry.control.sites import services as sites
from tenantry.control.sites.models import Site
from tenantry.testing.control import CONTROL_ROLE, ControlDatabase

from .conftest import FACTS, Agent

MakeSite = Callable[..., Site]
YEAR = timedelta(days=365)


def age(revision: int, days: int) -> None:
    """Make the changes up to `revision` so old; the application itself cannot."""
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE change DISABLE TRIGGER change_append_only")
        cursor.execute(
            "UPDATE change SET created_at = now() - make_interval(days => %s) WHERE revision <= %s", [days, revision]
        )
        cursor.execute("ALTER TABLE change ENABLE TRIGGER change_append_only")


def revisions() -> list[int]:
    return list(Change.objects.order_by("revision").values_list("revision", flat=True))


def restarts(admin: Actor, slug: str, count: int) -> None:
    for _ in range(count):
        sites.restart_site(admin, slug)


def test_old_changes_go_and_the_rest_stays(agent: Agent, admin: Actor, make_site: MakeSite) -> None:
    make_site("blog")
    restarts(admin, "blog", 3)
    _, old = changelog.head()
    restarts(admin, "blog", 4)
    _, head = changelog.head()
    age(old, 400)
    done = services.compact(admin, YEAR, keep_rows=2)
    assert (done.tail, done.removed, changelog.tail()) == (old, old, old)
    assert revisions() == list(range(old + 1, head + 2))
    last = Change.objects.latest("revision")
    assert (last.type, last.actor, last.metadata) == ("changelog.compacted", "admin", {"removed": old, "tail": old})
    again = services.compact(admin, YEAR, keep_rows=2)
    assert (again.removed, again.tail) == (0, old)
    assert revisions()[-1] == head + 1, "nothing was done, so nothing is noted"


def test_the_latest_stay_however_old(admin: Actor, make_site: MakeSite) -> None:
    make_site("blog")
    _, head = changelog.head()
    age(head, 400)
    assert services.compact(admin, YEAR).removed == 0
    assert services.compact(admin, YEAR, keep_rows=3).tail == head - 3
    assert revisions() == [head - 2, head - 1, head, head + 1]


def test_a_node_from_before_the_tail_reads_everything(agent: Agent, admin: Actor, make_site: MakeSite) -> None:
    make_site("kept")
    make_site("gone")
    _, before = changelog.head()
    sites.delete_site(admin, "gone", confirm="gone")
    sites.finish_site_removal(Site.objects.get(slug="gone").number)
    restarts(admin, "kept", 2)
    _, head = changelog.head()
    assert agent.desired(before)["full"] is False
    age(head - 1, 400)
    services.compact(admin, YEAR, keep_rows=0)
    tail = changelog.tail()
    assert tail == head - 1
    for since in (before, tail - 1):
        answer = agent.desired(since)
        assert (answer["full"], answer["tail"]) == (True, tail)
        assert [site["slug"] for site in answer["sites"]] == ["kept"]
    for since in (tail, tail + 1):
        answer = agent.desired(since)
        assert answer["full"] is False
        assert all(site.get("present", True) for site in answer["sites"])


def test_what_removed_names_were_is_still_known(agent: Agent, admin: Actor, make_site: MakeSite) -> None:
    for _ in range(2):
        site = make_site("blog")
        restarts(admin, "blog", 2)
        sites.delete_site(admin, "blog", confirm="blog")
        sites.finish_site_removal(site.number)
    releases.request_release(admin, "demo")
    releases.remove_project(admin, "demo")
    _, head = changelog.head()
    age(head, 400)
    services.compact(admin, YEAR, keep_rows=0)
    kept = list(Change.objects.exclude(type="changelog.compacted").values_list("type", flat=True))
    assert sorted(kept) == ["project.removed", "site.deleted"]
    with pytest.raises(NotFound, match="is gone"):
        queries.convergence("blog")
    releases.add_project(admin, releases.ProjectRequest(name="demo", source="/srv/demo"))
    releases.finish_release("demo-3", FACTS)
    assert make_site("blog", ready=False).generation == 7, "a generation's file name is never used again"


def test_a_deletion_that_is_waited_for_survives_compaction(agent: Agent, admin: Actor, make_site: MakeSite) -> None:
    make_site("blog")
    agent.serve_all()
    sites.delete_site(admin, "blog", confirm="blog")
    before = queries.convergence("blog")
    serving = queries.nodes_serving("blog")
    assert serving
    _, head = changelog.head()
    age(head, 400)
    services.compact(admin, YEAR, keep_rows=0)
    assert queries.nodes_serving("blog") == serving
    assert queries.convergence("blog").revision == before.revision
    agent.report({"slug": "blog", "revision": before.revision, "state": "absent"})
    assert queries.nodes_serving("blog") == []


@pytest.mark.parametrize("keep", [timedelta(days=-1), timedelta.max])
def test_a_time_that_is_none_is_refused(admin: Actor, keep: timedelta) -> None:
    with pytest.raises(InvalidInput, match="days"):
        services.compact(admin, keep)


def test_a_clock_that_was_set_back_keeps_more_not_less(admin: Actor, make_site: MakeSite) -> None:
    make_site("blog")
    restarts(admin, "blog", 4)
    _, head = changelog.head()
    age(head, 400)
    age(2, 1)  # two early ones are stamped later than those behind them
    assert services.compact(admin, YEAR, keep_rows=0).removed == 0


def test_writers_do_not_wait_while_much_is_removed(
    control_database: ControlDatabase, admin: Actor, make_site: MakeSite
) -> None:
    make_site("blog")
    _, head = changelog.head()
    age(head, 400)
    with psycopg.connect(control_database.dsn(CONTROL_ROLE)) as other:
        # The counter is taken by another writer: removing must come before waiting for it.
        other.execute("SELECT changelog_append('user.created', NULL, NULL, 'x', '{}')")
        with psycopg.connect(control_database.dsn(CONTROL_ROLE)) as compacting:
            compacting.execute("SET lock_timeout = '200ms'")
            with pytest.raises(psycopg.errors.LockNotAvailable) as caught:
                compacting.execute("SELECT changelog_compact(now() - interval '365 days', 0)")
    assert "UPDATE platform_state" in str(caught.value.diag.context)


def test_the_daily_job_compacts(control_database: ControlDatabase, admin: Actor, make_site: MakeSite) -> None:
    from tenantry.control.jobs import nodes

    make_site("blog")
    _, head = changelog.head()
    age(head, 400)
    nodes.compact_log()
    assert changelog.tail() == 0, "so few changes are kept however old they are"
