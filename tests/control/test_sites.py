"""Sites and hostnames: their life, their secrets, who may change what when."""

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from django.conf import settings
from django.db import connection, connections
from procrastinate.contrib.django.models import ProcrastinateJob

from tenantry.control.access.actors import Actor
from tenantry.control.changelog.models import Change
from tenantry.control.errors import InvalidInput
from tenantry.control.releases import services as releases
from tenantry.control.sealing import sealer
from tenantry.control.sites import services
from tenantry.control.sites.models import Hostname, Site

from .conftest import FACTS, Agent, Api

MakeSite = Callable[..., Site]


def last_change() -> Change:
    return Change.objects.latest("revision")


def test_a_site_its_change_and_its_job_are_one_transaction(api: Api, project: str) -> None:
    response = api("POST", "/sites", {"slug": "blog", "project": "demo", "hostnames": ["Blog.Example.org."]})
    assert response.status_code == 201, response.content
    site = response.json()
    assert response.headers["Location"] == "/api/v1/sites/blog"
    assert (site["status"], site["release"], site["generation"]) == ("provisioning", "demo-1", 1)
    assert site["hostnames"] == ["blog.example.org"]
    change = last_change()
    assert (change.type, change.site_slug, change.project, change.actor) == ("site.created", "blog", "demo", "admin")
    assert site["revision"] == change.revision
    job = ProcrastinateJob.objects.latest("id")
    assert (job.task_name, job.args) == ("provision_site", {"site_number": site["number"]})
    assert (job.queue_name, job.lock) == ("sites", f"site-{site['number']}")


def test_a_create_that_fails_leaves_nothing(api: Api, make_site: MakeSite, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs, head = ProcrastinateJob.objects.count(), last_change().revision

    def broken(*args: Any, **kwargs: Any) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(services, "append", broken)
    assert api("POST", "/sites", {"slug": "blog", "project": "demo"}).status_code == 500
    assert (ProcrastinateJob.objects.count(), last_change().revision) == (jobs, head)
    assert not Site.objects.exists()


@pytest.mark.parametrize(("base", "last"), [(1_900_000_000, 79_999), (20_000, 4_999)])
def test_a_site_past_the_homes_user_ids_is_refused_and_leaves_nothing(
    api: Api, project: str, monkeypatch: pytest.MonkeyPatch, base: int, last: int
) -> None:
    monkeypatch.setattr(settings, "TENANTRY", replace(settings.TENANTRY, uid_base=base))
    with connection.cursor() as cursor:
        cursor.execute("SELECT setval(pg_get_serial_sequence('site', 'number'), %s)", [last - 1])
    assert api("POST", "/sites", {"slug": "last", "project": "demo"}).json()["number"] == last
    jobs, head = ProcrastinateJob.objects.count(), last_change().revision
    body = {"slug": "blog", "project": "demo", "hostnames": ["blog.localhost"]}
    response = api("POST", "/sites", body)
    assert response.status_code == 409
    assert f"no user id for site number {last + 1}" in response.json()["detail"]
    assert (ProcrastinateJob.objects.count(), last_change().revision) == (jobs, head)
    assert [site.slug for site in Site.objects.all()] == ["last"]
    assert not Hostname.objects.filter(name="blog.localhost").exists()


def test_secrets_are_random_sealed_and_never_shown(api: Api, make_site: MakeSite) -> None:
    one = make_site("one", environment={"API_KEY": "typed secret"})
    two = make_site("two")
    opened, other = sealer().unseal(one.sealed), sealer().unseal(two.sealed)
    assert opened["environment"] == {"API_KEY": "typed secret"}
    for name in ("secret_key", "database_password", "cache_password"):
        assert len(opened[name]) >= 40
        assert opened[name] != other[name]
    with connection.cursor() as cursor:
        cursor.execute("SELECT (SELECT jsonb_agg(s) FROM site s)::text || (SELECT jsonb_agg(c) FROM change c)::text")
        stored = cursor.fetchone()[0]
    shown = api("GET", "/sites/one").content.decode() + api("GET", "/changes").content.decode()
    for secret in ("typed secret", opened["secret_key"], opened["database_password"], opened["cache_password"]):
        assert secret not in stored
        assert secret not in shown
    assert one.sealed not in shown
    assert api.get("/sites/one")["environment_names"] == ["API_KEY"]


def test_a_projects_variables_are_its_sites_defaults(api: Api, admin: Actor) -> None:
    request = releases.ProjectRequest(name="shop", source="/srv/shop", environment={"A": "project", "B": "project"})
    releases.add_project(admin, request)
    releases.finish_release("shop-1", FACTS)
    api("POST", "/sites", {"slug": "blog", "project": "shop", "environment": {"B": "site", "C": "site"}})
    site = Site.objects.get()
    services.mark_site_provisioned(site.number)
    before = sealer().unseal(site.sealed)
    assert before["environment"] == {"A": "project", "B": "site", "C": "site"}
    response = api("PATCH", "/sites/blog", {"environment": {"D": "new"}})
    assert response.json()["environment_names"] == ["A", "B", "D"]
    assert response.json()["generation"] == 2
    site.refresh_from_db()
    after = sealer().unseal(site.sealed)
    assert after["environment"] == {"A": "project", "B": "project", "D": "new"}
    assert {k: v for k, v in after.items() if k != "environment"} == {
        k: v for k, v in before.items() if k != "environment"
    }


def test_a_job_may_report_again_without_harm(make_site: MakeSite) -> None:
    site = make_site("blog", ready=False)
    services.mark_site_provisioned(site.number)
    head = last_change()
    assert head.type == "site.provisioned"
    services.mark_site_provisioned(site.number)
    assert last_change() == head
    site.refresh_from_db()
    assert (site.status, site.revision) == ("ready", head.revision)
    services.mark_site_provisioned(9_999)
    services.finish_site_removal(9_999)


def test_a_site_that_cannot_be_provisioned_says_why(api: Api, make_site: MakeSite) -> None:
    site = make_site("blog", ready=False)
    services.mark_site_failed(site.number, "the disk is full\0")
    shown = api.get("/sites/blog")
    assert (shown["status"], shown["error"]) == ("failed", "the disk is full")
    state = api.get("/sites/blog/convergence?wait=30")
    assert (state["status"], state["converged"]) == ("failed", False)
    assert last_change().type == "site.failed"


def test_a_failed_upgrade_keeps_the_old_release_and_is_seen(
    api: Api, make_site: MakeSite, admin: Actor, agent: Agent
) -> None:
    site = make_site("blog")
    releases.request_release(admin, "demo")
    releases.finish_release("demo-2", FACTS)
    changed = api("PATCH", "/sites/blog", {"release": "demo-2"}).json()
    assert (changed["release"], changed["pending_release"], changed["generation"]) == ("demo-1", "demo-2", 1)
    job = ProcrastinateJob.objects.latest("id")
    assert (job.task_name, job.args["release_name"]) == ("upgrade_site", "demo-2")
    agent.serve_all()
    assert api.get("/sites/blog/convergence")["converged"] is False, "its migrations still run"
    services.fail_site_upgrade(site.number, "migration 0002 failed")
    agent.serve_all()
    shown = api.get("/sites/blog")
    assert (shown["status"], shown["release"], shown["pending_release"]) == ("ready", "demo-1", None)
    state = api.get("/sites/blog/convergence?wait=30")
    assert (state["status"], state["error"], state["converged"]) == ("failed", "migration 0002 failed", False)
    api("POST", "/sites/blog/restart")
    agent.serve_all()
    assert api.get("/sites/blog/convergence")["converged"] is True


def test_an_update_says_what_it_is_based_on(api: Api, make_site: MakeSite) -> None:
    make_site("blog")
    tag = api("GET", "/sites/blog").headers["ETag"]
    response = api("PATCH", "/sites/blog", {"processes": 2}, If_Match=tag)
    assert response.status_code == 200
    assert response.headers["ETag"] != tag
    assert api("PATCH", "/sites/blog", {"processes": 3}, If_Match=tag).status_code == 412
    assert api("PATCH", "/sites/blog", {"processes": 3}, If_Match="*").status_code == 200
    assert api("PATCH", "/sites/blog", {"processes": 4}, If_Match="what").status_code == 422
    assert api.get("/sites/blog")["processes"] == 3


def test_an_update_that_changes_nothing_is_no_change(api: Api, make_site: MakeSite) -> None:
    make_site("blog")
    before = api.get("/sites/blog")
    assert api("PATCH", "/sites/blog", {}).json() == before
    assert api("PATCH", "/sites/blog", {"processes": 1, "release": "demo-1"}).json() == before


def test_deleting_needs_the_slug_and_ends_with_nothing(api: Api, make_site: MakeSite, agent: Agent) -> None:
    site = make_site("blog", hostnames=["a.example.org"])
    agent.serve_all()
    assert api("DELETE", "/sites/blog").json()["errors"][0]["field"] == "confirm"
    assert api("DELETE", "/sites/blog?confirm=Blog").status_code == 422
    assert api("DELETE", "/sites/blog?confirm=blog&dump=false").json()["status"] == "deleting"
    assert ProcrastinateJob.objects.latest("id").args == {"site_number": site.number, "dump": False}
    assert api("POST", "/sites/blog/restart").status_code == 409
    assert api("POST", "/sites", {"slug": "blog", "project": "demo"}).status_code == 422
    services.mark_site_provisioned(site.number)
    assert api.get("/sites/blog")["status"] == "deleting", "a late job does not bring it back"
    assert api.get("/sites/blog/convergence")["nodes"][0]["node"] == "node-1"
    services.finish_site_removal(site.number, "/backups/blog.dump")
    assert api("GET", "/sites/blog").status_code == 404
    assert api.get("/sites/blog/convergence")["status"] == "deleting", "a node still has it"
    agent.report({"slug": "blog", "revision": 99, "state": "absent"})
    assert api("GET", "/sites/blog/convergence").status_code == 404
    assert not Hostname.objects.exists()
    assert last_change().metadata == {"number": site.number, "dump": "/backups/blog.dump"}


def test_a_removal_that_failed_is_seen_and_asked_for_again(api: Api, make_site: MakeSite) -> None:
    site = make_site("blog")
    api("DELETE", "/sites/blog?confirm=blog")
    services.mark_site_failed(site.number, "no room for the dump")
    assert api.get("/sites/blog/convergence")["error"] == "no room for the dump"
    jobs = ProcrastinateJob.objects.count()
    assert api("DELETE", "/sites/blog?confirm=blog&dump=false").status_code == 202
    assert ProcrastinateJob.objects.count() == jobs + 1


def test_hostnames_come_and_go_without_a_new_generation(api: Api, make_site: MakeSite) -> None:
    make_site("blog")
    response = api("POST", "/sites/blog/hostnames", {"name": "B.example.org."})
    assert (response.status_code, response.json()) == (201, {"name": "b.example.org", "site": "blog"})
    assert (last_change().type, last_change().metadata) == ("hostname.added", {"hostname": "b.example.org"})
    assert api.get("/hostnames")["items"] == [{"name": "b.example.org", "site": "blog"}]
    site = api.get("/sites/blog")
    assert (site["generation"], site["hostnames"]) == (1, ["b.example.org"])
    assert site["revision"] == last_change().revision
    assert api("DELETE", "/sites/blog/hostnames/b.example.org").status_code == 204
    assert api("DELETE", "/sites/blog/hostnames/b.example.org").status_code == 404
    assert api.get("/hostnames")["items"] == []


def test_of_two_at_once_one_gets_the_hostname(make_site: MakeSite, admin: Actor) -> None:
    for slug in ("one", "two"):
        make_site(slug)
    barrier = threading.Barrier(2)
    outcomes: list[str] = []

    def take(slug: str) -> None:
        barrier.wait()
        try:
            services.add_hostname(admin, slug, "a.example.org")
            outcomes.append("taken")
        except InvalidInput as error:
            outcomes.append(error.errors[0][0])
        finally:
            connections.close_all()

    threads = [threading.Thread(target=take, args=[slug]) for slug in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["name", "taken"]


def test_a_command_is_audited_and_changes_nothing(api: Api, make_site: MakeSite) -> None:
    site = make_site("blog")
    response = api("POST", "/sites/blog/commands", {"argv": ["manage.py", "migrate"]})
    assert response.status_code == 201
    assert last_change().metadata == {"argv": ["manage.py", "migrate"], "more": 0}
    assert last_change().revision == response.json()["revision"]
    api("POST", "/sites/blog/commands", {"argv": ["manage.py", "shell", "-c", "password = 'hunter2'"]})
    assert last_change().metadata == {"argv": ["manage.py", "shell"], "more": 2}, "what may be secret is not kept"
    assert api.get("/sites/blog")["revision"] == site.revision
    assert api("POST", "/sites/blog/commands", {"argv": []}).status_code == 422


def test_lists_are_filtered_and_paged(api: Api, make_site: MakeSite) -> None:
    for number in range(5):
        make_site(f"s{number}", ready=number % 2 == 0, hostnames=[f"h{number}.example.org"])

    def slugs(query: str) -> list[str]:
        return [site["slug"] for site in api.get(f"/sites{query}")["items"]]

    assert slugs("?status=provisioning") == ["s1", "s3"]
    assert slugs("?q=h4") == ["s4"]
    assert slugs("?q=S3") == ["s3"]
    assert slugs("?q=%25") == []
    assert slugs("?project=none") == []
    first = api.get("/sites?limit=2")
    assert ([site["slug"] for site in first["items"]], first["next_cursor"]) == (["s0", "s1"], "s1")
    second = api.get(f"/sites?limit=3&cursor={first['next_cursor']}")
    assert ([site["slug"] for site in second["items"]], second["next_cursor"]) == (["s2", "s3", "s4"], None)
    names = api.get("/hostnames?limit=4")
    assert len(names["items"]) == 4
    assert len(api.get(f"/hostnames?limit=4&cursor={names['next_cursor']}")["items"]) == 1


def test_a_list_costs_the_same_for_one_site_and_for_many(
    api: Api, make_site: MakeSite, django_assert_max_num_queries: Any
) -> None:
    for number in range(8):
        make_site(f"s{number}", hostnames=[f"h{number}.example.org"])
    with django_assert_max_num_queries(6):
        assert len(api.get("/sites")["items"]) == 8


def test_convergence_counts_live_nodes_only(api: Api, make_site: MakeSite, agent: Agent) -> None:
    make_site("blog")
    state = api.get("/sites/blog/convergence")
    assert (state["converged"], state["nodes"]) == (False, []), "no node is live yet"
    agent.call("heartbeat")
    state = api.get("/sites/blog/convergence")
    assert (state["converged"], state["nodes"][0]["state"]) == (False, "absent")
    agent.serve_all()
    assert api.get("/sites/blog/convergence")["converged"] is True
    assert api.get("/sites/blog")["nodes"][0]["state"] == "serving"
    api("POST", "/sites/blog/restart")
    state = api.get("/sites/blog/convergence")
    assert (state["converged"], state["nodes"][0]["lag"]) == (False, 1)
    agent.serve_all()
    assert api.get("/nodes/node-1")["lag"] == 0
    assert api.get("/status")["nodes"] == {"ready": 1}
    assert api.get("/status")["sites"] == {"ready": 1}


def test_the_same_create_twice_is_done_once(api: Api, project: str) -> None:
    body = {"slug": "blog", "project": "demo"}
    first = api("POST", "/sites", body, Idempotency_Key="k1")
    again = api("POST", "/sites", body, Idempotency_Key="k1")
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json() == again.json()
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.headers["Location"] == first.headers["Location"]
    assert Site.objects.count() == 1
    other = api("POST", "/sites", {**body, "slug": "other"}, Idempotency_Key="k1")
    assert other.json()["errors"][0]["field"] == "Idempotency-Key"
    assert api("POST", "/sites", body, Idempotency_Key="k2").json()["errors"][0]["field"] == "slug"
    assert api("POST", "/sites", body, Idempotency_Key="x" * 201).status_code == 422


def test_a_create_that_was_refused_does_not_use_up_its_key(api: Api, project: str) -> None:
    assert api("POST", "/sites", {"slug": "Blog", "project": "demo"}, Idempotency_Key="k").status_code == 422
    assert api("POST", "/sites", {"slug": "blog", "project": "demo"}, Idempotency_Key="k").status_code == 201


def test_the_same_create_twice_at_once_is_done_once(api: Api, project: str, token: str) -> None:
    barrier = threading.Barrier(4)
    answers: list[tuple[int, Any]] = []

    def create() -> None:
        barrier.wait()
        try:
            response = Api(token)("POST", "/sites", {"slug": "blog", "project": "demo"}, Idempotency_Key="k")
            answers.append((response.status_code, response.json()["number"]))
        finally:
            connections.close_all()

    threads = [threading.Thread(target=create) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(answers)) == 1
    assert answers[0][0] == 201
    assert Site.objects.count() == 1


def test_the_url_is_where_a_visitor_finds_it(make_site: MakeSite, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    make_site("blog", hostnames=["b.localhost", "a.localhost"])
    make_site("bare")
    monkeypatch.setattr(settings, "TENANTRY", replace(settings.TENANTRY, http_port=8080))
    assert api.get("/sites/blog")["url"] == "http://a.localhost:8080/"
    assert api.get("/sites/bare")["url"] is None
