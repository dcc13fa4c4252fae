"""A site's limits and its runtime: what people may say, what nodes are told, what needs new processes."""

from collections.abc import Callable
from typing import Any

import pytest

from tenantry.control.changelog.models import Change
from tenantry.control.releases.models import Release
from tenantry.control.sites.models import Site
from tenantry.spec.limits import BOUNDS, Limits

from .conftest import Agent, Api

MakeSite = Callable[..., Site]


def test_limits_given_at_the_beginning_are_shown_and_handed_to_nodes(api: Api, project: str, agent: Agent) -> None:
    given = {"memory_mb": 512, "request_seconds": 30, "processes_max": 4, "idle_seconds": 600, "disk_mb": 2048}
    created = api("POST", "/sites", {"slug": "blog", "project": "demo", "limits": given})
    assert created.status_code == 201, created.content
    assert created.json()["limits"] == given
    assert Site.objects.get(slug="blog").limits == given


def test_a_limit_that_is_not_named_stays_and_new_processes_are_started(
    api: Api, make_site: MakeSite, agent: Agent
) -> None:
    site = make_site("blog")
    first = api("PATCH", "/sites/blog", {"limits": {"memory_mb": 512}}).json()
    assert (first["limits"]["memory_mb"], first["generation"]) == (512, site.generation + 1)
    second = api("PATCH", "/sites/blog", {"limits": {"request_seconds": 600}}).json()
    assert (second["limits"]["memory_mb"], second["limits"]["request_seconds"]) == (512, 600)
    assert second["generation"] == site.generation + 2
    handed = Limits.from_document(agent.desired()["sites"][0]["limits"])
    assert (handed.memory_mb, handed.request_seconds) == (512, 600)
    change = Change.objects.latest("revision")
    assert (change.type, change.metadata) == ("site.updated", {"limits": {"request_seconds": 600}})


def test_the_time_until_a_site_sleeps_needs_no_new_process(api: Api, make_site: MakeSite, agent: Agent) -> None:
    site = make_site("blog")
    changed = api("PATCH", "/sites/blog", {"limits": {"idle_seconds": 30}}).json()
    assert changed["generation"] == site.generation
    assert changed["revision"] > site.revision
    assert agent.desired(site.revision)["sites"][0]["limits"] == {"idle_seconds": 30}


def test_what_a_site_has_already_is_no_change(api: Api, make_site: MakeSite) -> None:
    make_site("blog", limits={"memory_mb": 100})
    before = api.get("/sites/blog")
    same = api("PATCH", "/sites/blog", {"limits": {"memory_mb": 100, "request_seconds": 60}}).json()
    assert (same["revision"], same["generation"]) == (before["revision"], before["generation"])


def test_workers_that_would_never_grow_are_refused(api: Api, make_site: MakeSite) -> None:
    make_site("blog", limits={"processes_max": 4})
    add_granian_release()

    def refused(method: str, path: str, body: Any) -> bool:
        answer = api(method, path, body)
        return answer.status_code == 422 and "demo-2 runs in granian" in str(answer.json())

    growing = {"limits": {"processes_max": 4}}
    assert refused("PATCH", "/sites/blog", {"release": "demo-2"})
    assert refused("POST", "/sites", {"slug": "chat", "project": "demo", "release": "demo-2", **growing})
    assert api("PATCH", "/sites/blog", {"release": "demo-2", "limits": {"processes_max": 0}}).status_code == 200
    assert refused("PATCH", "/sites/blog", growing)
    assert api("PATCH", "/sites/blog", {"processes": 4, **growing}).status_code == 200, "that is no growth"
    assert refused("PATCH", "/sites/blog", {"processes": 2})
    assert api("PATCH", "/sites/blog", {"limits": {"memory_mb": 512}}).status_code == 200


def test_a_site_that_already_asks_for_growth_that_is_none_can_be_changed(api: Api, make_site: MakeSite) -> None:
    """Such sites were made before it was refused."""
    site = make_site("blog", limits={"processes_max": 4})
    Release.objects.filter(pk=site.release_id).update(engine="granian")
    assert api("PATCH", "/sites/blog", {"limits": {"memory_mb": 512}}).status_code == 200
    assert api("PATCH", "/sites/blog", {"processes": 2}).status_code == 422
    assert api("PATCH", "/sites/blog", {"limits": {"processes_max": 0}}).status_code == 200


def add_granian_release() -> None:
    first = Release.objects.get(name="demo-1")
    first.pk, first.name, first.number, first.engine = None, "demo-2", 2, "granian"
    first.save(force_insert=True)


@pytest.mark.parametrize(
    ("limits", "field", "words"),
    [
        ({"memory": 1}, "limits", "«memory»"),
        ({"memory_mb": -1}, "limits.memory_mb", "from 0"),
        ({"request_seconds": 0}, "limits.request_seconds", "from 1 to 3600"),
        ({"request_seconds": BOUNDS["request_seconds"][1] + 1}, "limits.request_seconds", "from 1 to 3600"),
        ({"memory_mb": "512"}, "limits.memory_mb", "integer"),
        ({"memory_mb": True}, "limits.memory_mb", "integer"),
        ({"memory_mb": 1.5}, "limits.memory_mb", "integer"),
        ({"disk_mb": None}, "limits.disk_mb", "integer"),
        ({"processes_max": 1}, "limits.processes_max", "from 2"),
        ([], "limits", "dict"),
    ],
)
def test_a_limit_that_is_none_is_refused_by_name(
    api: Api, project: str, make_site: MakeSite, limits: Any, field: str, words: str
) -> None:
    make_site("blog", processes=2)
    before = api.get("/sites/blog")
    answers = [
        api("PATCH", "/sites/blog", {"limits": limits}),
        api("POST", "/sites", {"slug": "other", "project": "demo", "processes": 2, "limits": limits}),
    ]
    for answer in answers:
        assert answer.status_code == 422, answer.content
        error = answer.json()["errors"][0]
        assert error["field"] == field
        assert words in error["message"]
    assert api.get("/sites/blog") == before
    assert not Site.objects.filter(slug="other").exists()


def test_more_processes_than_the_most_are_refused(api: Api, make_site: MakeSite) -> None:
    make_site("blog", limits={"processes_max": 2})
    answer = api("PATCH", "/sites/blog", {"processes": 3})
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "limits.processes_max")
    assert Site.objects.get(slug="blog").processes == 1


def test_a_runtime_is_changed_without_a_new_generation(api: Api, make_site: MakeSite, agent: Agent) -> None:
    site = make_site("blog")
    assert agent.desired()["sites"][0]["runtime"] == "on_demand"
    shown = api("PUT", "/sites/blog/runtime", {"runtime": "always_on"}).json()
    assert (shown["runtime"], shown["generation"]) == ("always_on", site.generation)
    assert agent.desired()["sites"][0]["runtime"] == "always_on"
    change = Change.objects.latest("revision")
    assert (change.type, change.metadata) == ("site.runtime", {"runtime": "always_on", "before": "on_demand"})
    again = api("PUT", "/sites/blog/runtime", {"runtime": "always_on"}).json()
    assert again["revision"] == shown["revision"]


@pytest.mark.parametrize(
    ("runtime", "words"), [("pooled", "yet"), ("", "always_on or on_demand"), ("On", "«On»"), (None, "string")]
)
def test_a_runtime_that_is_none_is_refused(api: Api, make_site: MakeSite, runtime: Any, words: str) -> None:
    make_site("blog")
    answer = api("PUT", "/sites/blog/runtime", {"runtime": runtime})
    assert answer.status_code == 422
    created = api("POST", "/sites", {"slug": "shop", "project": "demo", "runtime": runtime})
    assert created.status_code == 422
    assert created.json()["errors"][0]["field"] == "runtime"
    assert answer.json()["errors"][0]["field"] == "runtime"
    assert words in answer.json()["errors"][0]["message"]
    assert api("PUT", "/sites/none/runtime", {"runtime": "on_demand"}).status_code == 404
