"""Tables that grow with time are purged: of what has run out, and of nothing else."""

import asyncio
from datetime import timedelta

import pytest
from asgiref.sync import sync_to_async
from procrastinate.contrib.django import app

from tenantry.control.jobs.purging import purge
from tenantry.testing.control import ControlDatabase

HOUR = timedelta(hours=1)


def run_purge() -> None:
    from django.db import connections

    async def run() -> None:
        await purge(app)
        # procrastinate's thread outlives this test's database.
        await sync_to_async(connections.close_all)()

    asyncio.run(run())


def answer(key: str, age: timedelta) -> None:
    from django.contrib.auth.models import User
    from django.utils import timezone

    from tenantry.control.access.models import RememberedAnswer, Token

    user, _ = User.objects.get_or_create(username="anna")
    token, _ = Token.objects.get_or_create(name="t", user=user, hash="0", created_by="anna")
    row = RememberedAnswer.objects.create(token=token, key=key, request_digest="")
    RememberedAnswer.objects.filter(pk=row.pk).update(created_at=timezone.now() - age)


def session(key: str, left: timedelta) -> None:
    from django.contrib.sessions.models import Session
    from django.utils import timezone

    Session.objects.create(session_key=key, session_data="", expire_date=timezone.now() + left)


def test_what_has_run_out_goes_and_the_rest_stays(control_database: ControlDatabase) -> None:
    from django.contrib.sessions.models import Session

    from tenantry.control.access.models import RememberedAnswer
    from tenantry.control.jobs import tasks

    session("ended", -HOUR)
    session("open", HOUR)
    answer("old", 25 * HOUR)
    answer("new", 23 * HOUR)
    with control_database.server.connect(control_database.name) as connection:
        for status in ("succeeded", "failed", "cancelled", "aborted", "todo", "doing"):
            for age in (6, 8):
                number = tasks.remove_project.configure(lock=f"{status}-{age}").defer(
                    project_number=1, project_name="shop", releases=[]
                )
                connection.execute("ALTER TABLE procrastinate_jobs DISABLE TRIGGER USER")
                connection.execute(
                    "UPDATE procrastinate_jobs SET status = %s::procrastinate_job_status WHERE id = %s",
                    (status, number),
                )
                connection.execute("ALTER TABLE procrastinate_jobs ENABLE TRIGGER USER")
                connection.execute(
                    "UPDATE procrastinate_events SET at = now() - make_interval(days => %s) WHERE job_id = %s",
                    (age, number),
                )
    run_purge()
    assert list(Session.objects.values_list("session_key", flat=True)) == ["open"]
    assert list(RememberedAnswer.objects.values_list("key", flat=True)) == ["new"]
    with control_database.server.connect(control_database.name) as connection:
        left = {lock for (lock,) in connection.execute("SELECT lock FROM procrastinate_jobs").fetchall()}
    assert left == {
        "succeeded-6",
        "failed-6",
        "cancelled-6",
        "aborted-6",
        "todo-6",
        "todo-8",
        "doing-6",
        "doing-8",
    }


def test_old_differences_and_dead_tokens_go(control_database: ControlDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    from django.utils import timezone

    from tenantry.control.fleet.models import JoinToken, Node, NodeDrift
    from tenantry.control.jobs import purging

    monkeypatch.setattr(purging, "DRIFTS_KEPT", 3)
    now = timezone.now()
    for name, ages in (("node-1", (31, 29, 5, 4, 3)), ("node-2", (31, 1))):
        node, _ = Node.objects.get_or_create(name=name, defaults={"role": name})
        for days in ages:
            found = now - timedelta(days=days)
            NodeDrift.objects.create(node=node, kind="file", path=f"run/{days}", found_at=found)
    for name, age in (("dead", timedelta(days=31)), ("ended", timedelta(days=29)), ("good", -HOUR)):
        JoinToken.objects.create(hash=name, created_by="anna", expires_at=now - age)
    run_purge()
    left = {(one.node_id, one.path) for one in NodeDrift.objects.all()}
    assert left == {("node-1", "run/5"), ("node-1", "run/4"), ("node-1", "run/3"), ("node-2", "run/1")}
    assert set(JoinToken.objects.values_list("hash", flat=True)) == {"ended", "good"}


def test_the_log_is_compacted_with_the_rest(control_database: ControlDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    from tenantry.control.changelog import queries
    from tenantry.control.fleet import services
    from tenantry.control.jobs import nodes

    assert timedelta(days=365) == services.KEEP
    assert services.KEEP_ROWS == 10_000
    monkeypatch.setattr(nodes, "compact", lambda actor: services.compact(actor, timedelta(0), keep_rows=0))
    _, head = queries.head()
    run_purge()
    assert queries.tail() == head > 0


def test_it_is_a_daily_job_of_a_queue_that_is_served(control_database: ControlDatabase) -> None:
    from tenantry.control.jobs import tasks

    (periodic,) = app.periodic_registry.periodic_tasks.values()
    assert periodic.task.name == "purge"
    assert periodic.task.queue == tasks.SITES
    minute, hour, *rest = periodic.cron.split()
    assert minute.isdigit()
    assert hour.isdigit()
    assert rest == ["*", "*", "*"]
