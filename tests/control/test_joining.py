"""Machines become nodes: with a token that works once and for a while, and secrets sealed for them alone."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from django.db import connection
from django.utils import timezone

from tenantry.control.access.actors import Actor
from tenantry.control.changelog.models import Change
from tenantry.control.changelog.services import act
from tenantry.control.errors import Conflict, InvalidInput, NotAuthenticated
from tenantry.control.fleet import secrets, services
from tenantry.control.fleet.models import JoinToken, Node, NodeSecret
from tenantry.control.sealing import sealer
from tenantry.control.sites import services as sites
from tenantry.control.sites.models import Site
from tenantry.sealing import Sealer, SealError, generate_key
from tenantry.testing.control import NODE_NAME, NODE_ROLE, ControlDatabase

from .conftest import Agent

MakeSite = Callable[..., Site]
HOUR = timedelta(hours=1)
NONE_CHANGED = "nothing may be changed"


@pytest.fixture
def join(admin: Actor) -> Callable[..., services.Joined]:
    def joined(name: str, **options: Any) -> services.Joined:
        _, text = services.create_join_token(admin, ttl=HOUR, **options)
        return services.join(text, name=name, version="0.1.0")

    return joined


def agent_of(database: ControlDatabase, role: str) -> "psycopg.Connection[Any]":
    """Log in as a node's role, made here as the job makes it."""
    with database.server.connect() as superuser:
        superuser.execute(f"DROP ROLE IF EXISTS {role}")
        superuser.execute(f"CREATE ROLE {role} LOGIN")
        superuser.execute(f"GRANT tenantry_nodes TO {role}")
    return psycopg.connect(database.dsn(role), autocommit=True)


def sealed_of(agent: "psycopg.Connection[Any]", since: int = 0) -> dict[str, str]:
    row = agent.execute("SELECT agent_v1.desired(%s)", [since]).fetchone()
    assert row is not None
    return {site["slug"]: site["sealed"] for site in row[0]["sites"]}


def in_threads(work: Callable[[int], Any], count: int) -> list[Any]:
    """Run `work` in threads that begin together; returns what each returned or raised."""
    start = threading.Barrier(count)

    def run(number: int) -> Any:
        try:
            start.wait(10)
            return work(number)
        except Exception as error:
            return error
        finally:
            connection.close()

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


def test_a_token_makes_one_node_whatever_else_tries(admin: Actor, make_site: MakeSite) -> None:
    make_site("blog")
    _, text = services.create_join_token(admin, ttl=HOUR)
    answers = in_threads(lambda n: services.join(text, name=f"web-{n}", version="1"), 10)
    joined = [answer for answer in answers if isinstance(answer, services.Joined)]
    refused = [answer for answer in answers if isinstance(answer, InvalidInput)]
    assert (len(joined), len(refused)) == (1, 9), answers
    assert {error.errors[0][0] for error in refused} == {"token"}
    assert all("used already" in error.message and joined[0].name in error.message for error in refused)
    assert list(Node.objects.exclude(name=NODE_NAME).values_list("name", "role")) == [(joined[0].name, joined[0].role)]
    assert NodeSecret.objects.count() == 1
    token = JoinToken.objects.get()
    assert token.used_at is not None
    assert token.node == joined[0].name


def test_what_a_machine_gets_is_its_own(admin: Actor, join: Callable[..., services.Joined]) -> None:
    one, two = join("web-1"), join("web-2", with_control=True)
    assert one.role != two.role
    for name in ("password", "node_key", "node_token", "role", "number"):
        assert getattr(one, name) != getattr(two, name)
        assert name in ("role", "number") or getattr(one, name) not in repr(one)
    assert (one.with_control, two.with_control) == (False, True)
    assert services.authenticate_node(one.node_token).name == "web-1"
    row = Node.objects.get(name="web-1")
    assert (row.version, row.number) == ("0.1.0", one.number)
    stored = [str(value) for value in Node.objects.filter(name="web-1").values().get().values()]
    with connection.cursor() as cursor:
        cursor.execute("SELECT args::text FROM procrastinate_jobs WHERE task_name = 'make_node_role' ORDER BY id")
        jobs = [row[0] for row in cursor.fetchall()]
    changes = [str(change.metadata) for change in Change.objects.all()]
    for secret in (one.password, one.node_key, one.node_token):
        assert not any(secret in text for text in stored + jobs + changes)
    assert one.role in jobs[0]
    assert "SCRAM-SHA-256$" in jobs[0]


def test_a_fingerprint_behind_the_token_does_no_harm(admin: Actor) -> None:
    _, text = services.create_join_token(admin, ttl=HOUR)
    assert services.join(f"{text}.0123456789abcdef0123456789abcdef", name="web-1", version="1").name == "web-1"


def test_a_token_that_is_none_is_refused_in_its_own_words(admin: Actor, join: Callable[..., services.Joined]) -> None:
    expired, expired_text = services.create_join_token(admin, ttl=HOUR)
    JoinToken.objects.filter(pk=expired.pk).update(expires_at=timezone.now() - timedelta(seconds=1))
    _, used_text = services.create_join_token(admin, ttl=HOUR)
    services.join(used_text, name="web-1", version="1")
    changes = Change.objects.count()
    for text, words in (
        ("tnj_" + "x" * 43, "no such token"),
        ("", "no such token"),
        ("\0", "no such token"),
        (used_text, "used already, by the node «web-1»"),
        (expired_text, "expired at"),
    ):
        with pytest.raises(InvalidInput, match=words) as caught:
            services.join(text, name="web-2", version="1")
        assert caught.value.errors[0][0] == "token"
    assert Change.objects.count() == changes, NONE_CHANGED
    assert not Node.objects.filter(name="web-2").exists()


@pytest.mark.parametrize("name", [NODE_NAME, NODE_NAME.upper()])
def test_a_taken_name_is_refused_and_the_token_stays_good(admin: Actor, name: str) -> None:
    _, text = services.create_join_token(admin, ttl=HOUR)
    with pytest.raises(Conflict, match="already") as caught:
        services.join(text, name=name, version="1")
    assert caught.value.field == "name"
    with pytest.raises(InvalidInput):
        services.join(text, name="a b", version="1")
    with pytest.raises(InvalidInput, match="version"):
        services.join(text, name="web-1", version="1\0")
    assert services.join(text, name="web-1", version="1").name == "web-1"


def test_two_machines_with_one_name_cannot_both_join(admin: Actor) -> None:
    texts = [services.create_join_token(admin, ttl=HOUR)[1] for _ in range(6)]
    answers = in_threads(lambda n: services.join(texts[n], name="web-1", version="1"), 6)
    assert sum(isinstance(answer, services.Joined) for answer in answers) == 1, answers
    assert sum(isinstance(answer, Conflict) for answer in answers) == 5, answers


@pytest.mark.parametrize("ttl", [timedelta(0), timedelta(seconds=59), timedelta(days=8), -HOUR])
def test_a_token_lasts_a_sensible_time(admin: Actor, ttl: timedelta) -> None:
    with pytest.raises(InvalidInput, match="1 minute to 7 days"):
        services.create_join_token(admin, ttl=ttl)
    assert not JoinToken.objects.exists()


@pytest.mark.parametrize("text", ["", "tnn_", "tnn_" + "x" * 43, "tnt_x", "tnj_x", "\0"])
def test_a_node_is_not_known_by_anything_else(admin: Actor, text: str) -> None:
    with pytest.raises(NotAuthenticated):
        services.authenticate_node(text)  # the test's own node has no token, which must not match an empty one


def test_a_node_opens_its_secrets_and_no_other_nodes(
    control_database: ControlDatabase, admin: Actor, make_site: MakeSite, join: Callable[..., services.Joined]
) -> None:
    make_site("early", environment={"KEY": "early"})
    one, two = join("web-1"), join("web-2")
    make_site("late", environment={"KEY": "late"})
    sites.update_site(admin, "early", sites.SiteChange(environment={"KEY": "changed"}))
    with agent_of(control_database, one.role) as first, agent_of(control_database, two.role) as second:
        sealed = {"web-1": sealed_of(first), "web-2": sealed_of(second)}
        for key, name in ((one.node_key, "web-1"), (two.node_key, "web-2")):
            opened = {slug: Sealer([key]).unseal(text) for slug, text in sealed[name].items()}
            assert {slug: one["environment"]["KEY"] for slug, one in opened.items()} == {
                "early": "changed",
                "late": "late",
            }
            assert opened["late"] == sealer().unseal(Site.objects.get(slug="late").sealed)
        for text in sealed["web-2"].values():
            with pytest.raises(SealError):
                Sealer([one.node_key]).unseal(text)
        stored = Site.objects.get(slug="late").sealed
        assert stored not in sealed["web-1"].values()
        with pytest.raises(SealError):
            Sealer([one.node_key]).unseal(stored)
        for table in ("node_secret", "site", "node", "join_token"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                first.execute(f"SELECT * FROM public.{table}")


def test_a_node_of_the_previous_release_gets_what_the_platforms_key_opens(
    agent: Agent, make_site: MakeSite, join: Callable[..., services.Joined]
) -> None:
    join("web-1")
    site = make_site("blog")
    (answered,) = agent.desired()["sites"]
    assert answered["sealed"] == site.sealed
    assert not NodeSecret.objects.filter(node_id=NODE_NAME).exists()


def test_a_missing_secret_is_empty_never_another_nodes(
    control_database: ControlDatabase, make_site: MakeSite, join: Callable[..., services.Joined]
) -> None:
    one = join("web-1")
    make_site("blog")
    NodeSecret.objects.all().delete()
    with agent_of(control_database, one.role) as agent:
        assert sealed_of(agent) == {"blog": ""}


def test_secrets_of_a_deleted_site_go(admin: Actor, make_site: MakeSite, join: Callable[..., services.Joined]) -> None:
    join("web-1")
    going, staying = make_site("going"), make_site("staying")
    sites.delete_site(admin, "going", confirm="going")
    assert list(NodeSecret.objects.values_list("site_number", flat=True)) == [staying.number]
    sites.finish_site_removal(going.number)
    waiting = make_site("waiting", ready=False)
    assert not NodeSecret.objects.filter(site_number=waiting.number).exists()


def test_sites_made_while_nodes_join_miss_no_secret(admin: Actor, make_site: MakeSite) -> None:
    made = [make_site(f"s{number}", ready=False) for number in range(24)]
    gone = [make_site(f"gone{number}") for number in range(8)]
    changed = [make_site(f"changed{number}", environment={"KEY": "old"}) for number in range(8)]
    texts = [services.create_join_token(admin, ttl=HOUR)[1] for _ in range(4)]

    def work(number: int) -> Any:
        if number < 4:
            return services.join(texts[number], name=f"web-{number}", version="1")
        for index in range(number - 4, 24, 4):
            sites.mark_site_provisioned(made[index].number)
            if index < 8:
                sites.delete_site(admin, gone[index].slug, confirm=gone[index].slug)
                sites.update_site(admin, changed[index].slug, sites.SiteChange(environment={"KEY": "new"}))
        return None

    answers = in_threads(work, 8)
    nodes = [answer for answer in answers if isinstance(answer, services.Joined)]
    assert len(nodes) == 4, answers
    assert answers.count(None) == 4, answers
    ready = {site.number: sealer().unseal(site.sealed) for site in Site.objects.filter(status="ready")}
    assert len(ready) == 32
    for node in nodes:
        box = Sealer([node.node_key])
        held = NodeSecret.objects.filter(node_id=node.name).values_list("site_number", "sealed")
        assert {number: box.unseal(sealed) for number, sealed in held} == ready


def test_the_first_node_gets_a_key_and_reads_everything_anew(
    agent: Agent, control_database: ControlDatabase, make_site: MakeSite
) -> None:
    site = make_site("blog")
    since = agent.call("head")["revision"]
    key, token = generate_key(), "tnn_first"
    assert services.adopt_node(NODE_NAME, NODE_ROLE, key, token) is False
    answer = agent.desired(since)
    assert answer["full"] is True, "what it has remembered is sealed with another key"
    assert Sealer([key]).unseal(answer["sites"][0]["sealed"]) == sealer().unseal(site.sealed)
    assert agent.desired(answer["revision"])["full"] is False
    assert services.authenticate_node(token).name == NODE_NAME
    changes = Change.objects.count()
    assert services.adopt_node(NODE_NAME, NODE_ROLE, key, token) is False
    assert services.adopt_node(NODE_NAME, NODE_ROLE) is False
    assert Change.objects.count() == changes, "a set-up that is repeated changes nothing"
    assert Sealer([key]).unseal(agent.desired()["sites"][0]["sealed"])
    another = generate_key()
    services.adopt_node(NODE_NAME, NODE_ROLE, another, token)
    assert Sealer([another]).unseal(agent.desired(answer["revision"])["sites"][0]["sealed"])


def test_a_renamed_first_node_keeps_being_told(agent: Agent, make_site: MakeSite) -> None:
    make_site("blog")
    key = generate_key()
    services.adopt_node(NODE_NAME, NODE_ROLE, key)
    services.adopt_node("renamed", NODE_ROLE, key)
    assert Sealer([key]).unseal(agent.desired()["sites"][0]["sealed"])
    assert list(Node.objects.values_list("name", flat=True)) == ["renamed"]


def test_adopting_takes_no_other_nodes_name(control_database: ControlDatabase) -> None:
    with control_database.server.connect() as superuser:
        superuser.execute("DROP ROLE IF EXISTS other_role")
        superuser.execute("CREATE ROLE other_role")
    with pytest.raises(Conflict, match="another role"):
        services.adopt_node(NODE_NAME, "other_role")
    with pytest.raises(InvalidInput, match="Fernet"):
        services.adopt_node(NODE_NAME, NODE_ROLE, "no key")
    row = Node.objects.get()
    assert (row.role, row.sealed_key, row.token_hash) == (NODE_ROLE, "", "")


def test_a_role_that_somebody_has_is_not_taken(
    control_database: ControlDatabase, join: Callable[..., services.Joined]
) -> None:
    """Roles are the server's: an older database that was restored beside does not know of all."""
    latest = join("web-1").number
    with control_database.server.connect() as superuser:
        superuser.execute(f"DROP ROLE IF EXISTS tenantry_node_{latest + 1}")
        superuser.execute(f"CREATE ROLE tenantry_node_{latest + 1}")
    try:
        assert join("web-2").role == f"tenantry_node_{latest + 2}"
    finally:
        with control_database.server.connect() as superuser:
            superuser.execute(f"DROP ROLE tenantry_node_{latest + 1}")


def test_ten_thousand_sites_are_sealed_in_time(admin: Actor, make_site: MakeSite) -> None:
    like = make_site("first")
    Site.objects.bulk_create(
        Site(slug=f"s{n}", project=like.project, release=like.release, status="ready", sealed=like.sealed, revision=1)
        for n in range(10_000)
    )
    _, text = services.create_join_token(admin, ttl=HOUR)
    started = timezone.now()
    services.join(text, name="web-1", version="1")
    seconds = (timezone.now() - started).total_seconds()
    print(f"joining a platform of 10,001 sites: {seconds:.2f} s")
    assert NodeSecret.objects.count() == 10_001
    assert seconds < 15


def test_the_locks_order_acts_on_sites_and_nodes(control_database: ControlDatabase, make_site: MakeSite) -> None:
    """What would go wrong without it: a node that joins does not see a site made ready at the same time."""
    site = make_site("blog", ready=False)
    order: list[str] = []
    locked = threading.Event()

    def node() -> None:
        try:
            with act():
                secrets.lock_nodes()
                locked.set()
                threading.Event().wait(0.3)
                order.append("node")
        finally:
            connection.close()

    thread = threading.Thread(target=node)
    thread.start()
    assert locked.wait(5)
    sites.mark_site_provisioned(site.number)
    order.append("site")
    thread.join()
    assert order == ["node", "site"]


def test_no_lock_that_a_node_may_take_holds_up_the_platform(
    agent: Agent, make_site: MakeSite, join: Callable[..., services.Joined]
) -> None:
    """Every role may take advisory locks, and keep them. The last one here was once what ordered acts on nodes."""
    agent.connection.execute("SELECT pg_advisory_lock(n) FROM unnest(ARRAY[0, 1, 1852793957]) AS n")
    with connection.cursor() as cursor:
        cursor.execute("SET statement_timeout = '5s'")
    try:
        join("web-1")
        site = make_site("blog")
    finally:
        with connection.cursor() as cursor:
            cursor.execute("RESET statement_timeout")
    assert NodeSecret.objects.filter(site_number=site.number).count() == 1
