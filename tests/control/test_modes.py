"""Modes with all that goes with them: what is accepted, what nodes are told, how they end, who is let in."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from procrastinate.contrib.django.models import ProcrastinateJob

from tenantry.control.access.actors import Actor
from tenantry.control.changelog.models import Change
from tenantry.control.errors import Forbidden
from tenantry.control.fleet.models import NodeSecret
from tenantry.control.fleet.secrets import open_key
from tenantry.control.sealing import sealer
from tenantry.control.sites import services
from tenantry.control.sites.models import Site
from tenantry.sealing import Sealer
from tenantry.spec.bypass import verify_bypass
from tenantry.spec.modes import ModeOptions

from .conftest import Agent, Api

MakeSite = Callable[..., Site]
PAGE = "<h1>Zu wegen Umbau</h1>\n"


def soon(**more: int) -> datetime:
    return (datetime.now(UTC) + timedelta(**(more or {"hours": 2}))).replace(microsecond=0)


def told(agent: Agent, slug: str = "blog") -> ModeOptions:
    (site,) = [site for site in agent.desired()["sites"] if site["slug"] == slug]
    return ModeOptions.from_document(site["mode_options"])


def test_everything_that_goes_with_a_mode_reaches_the_nodes_and_the_page_stays_out_of_lists(
    api: Api, agent: Agent, make_site: MakeSite
) -> None:
    make_site("blog")
    until = soon()
    body = {
        "mode": "maintenance", "message": "New shelves\nsoon", "retry_after_seconds": 60, "until": until.isoformat(),
        "networks": ["2001:db8::/32", "192.0.2.7", "192.0.2.7/32"], "page": PAGE,
    }  # fmt: skip
    response = api("PUT", "/sites/blog/mode", body)
    assert response.status_code == 200, response.content
    shown = response.json()
    assert response.headers["ETag"] == f'"{shown["revision"]}"'
    assert shown["mode_options"] == {
        "message": "New shelves\nsoon", "retry_after_seconds": 60, "until": until.isoformat().replace("+00:00", "Z"),
        "networks": ["192.0.2.7/32", "2001:db8::/32"], "page": True,
    }  # fmt: skip
    assert PAGE not in str(api.get("/sites"))
    options = told(agent)
    assert (options.message, options.retry_after_seconds, options.until) == ("New shelves\nsoon", 60, until)
    assert [str(network) for network in options.networks] == ["192.0.2.7/32", "2001:db8::/32"]
    assert options.page == PAGE
    change = Change.objects.latest("revision")
    assert change.metadata["page"] is True
    assert change.metadata["message"] == "New shelves\nsoon"
    assert api("PUT", "/sites/blog/mode", body).json()["revision"] == shown["revision"], "it is so already"
    other = api("PUT", "/sites/blog/mode", {"mode": "maintenance"}).json()
    assert other["revision"] == shown["revision"] + 1
    assert told(agent) == ModeOptions(), "what is left out is as if never set"


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("message", "x" * 2001, "2000 characters"),
        ("message", "a\x07", "U+0007"),
        ("retry_after_seconds", -1, "from 0"),
        ("retry_after_seconds", 31 * 86_400 + 1, "to 2678400"),
        ("until", "2020-01-01T00:00:00+00:00", "This time is over"),
        ("until", "2099-01-01T00:00:00+00:00", "At most 366 days"),
        ("until", "2099-01-01T00:00:00", "offset from UTC"),
        ("until", "tomorrow", "datetime"),
        ("networks", ["192.0.2.7/24"], "has host bits set"),
        ("networks", ["everybody"], "no network such as"),
        ("networks", [f"192.0.2.{n % 256}" for n in range(101)], "At most 100"),
        ("networks", "192.0.2.0/24", "list"),
        ("page", "é" * 65_537, "at most 128 KiB"),
        ("page", 5, "string"),
        ("colour", "red", "Extra inputs"),
    ],
)
def test_a_refusal_names_the_field_and_changes_nothing(
    api: Api, make_site: MakeSite, field: str, value: Any, says: str
) -> None:
    before = make_site("blog").revision
    for method, path, more in (("PUT", "/sites/blog/mode", {}), ("POST", "/modes", {"sites": ["blog"]})):
        response = api(method, path, {"mode": "paused", field: value, **more})
        assert response.status_code == 422, response.content
        (error,) = response.json()["errors"]
        assert error["field"].startswith(field)
        assert says in error["message"]
    site = Site.objects.get(slug="blog")
    assert (site.mode, site.revision) == ("live", before)


def test_a_live_site_has_nothing_of_it(api: Api, make_site: MakeSite) -> None:
    make_site("blog")
    response = api("PUT", "/sites/blog/mode", {"mode": "live", "message": "hello", "networks": ["::1"]})
    assert [error["field"] for error in response.json()["errors"]] == ["message", "networks"]


def test_a_mode_is_set_at_the_revision_that_was_read(api: Api, make_site: MakeSite) -> None:
    revision = make_site("blog").revision
    assert api("PUT", "/sites/blog/mode", {"mode": "paused"}, If_Match=f'"{revision - 1}"').status_code == 412
    assert api("PUT", "/sites/blog/mode", {"mode": "paused"}, If_Match=f'"{revision}"').status_code == 200


def test_a_mode_ends_by_itself_unless_it_was_set_again(admin: Actor, make_site: MakeSite) -> None:
    site = make_site("blog")
    first, second = soon(), soon(hours=3)
    services.set_mode(admin, "blog", "maintenance", services.ModeDetails(message="a", until=first))
    job = ProcrastinateJob.objects.latest("id")
    assert (job.task_name, job.scheduled_at) == ("end_mode", first)
    assert job.args == {"site_number": site.number, "until": first.isoformat()}
    services.set_mode(admin, "blog", "paused", services.ModeDetails(until=second))
    locks = {job.lock for job in ProcrastinateJob.objects.filter(task_name="end_mode")}
    assert len(locks) == 2, "one must not wait for the other"
    assert not locks & {f"site-{site.number}"}
    services.end_mode(site.number, first)
    assert Site.objects.get(slug="blog").mode == "paused", "this end was of an earlier switch"
    services.end_mode(site.number, second)
    ended = Site.objects.get(slug="blog")
    assert (ended.mode, ended.mode_options, ended.mode_until) == ("live", {}, None)
    change = Change.objects.latest("revision")
    assert (change.type, change.actor, change.metadata) == (
        "site.mode", "jobs", {"mode": "live", "before": "paused"},
    )  # fmt: skip
    services.end_mode(site.number, second)
    services.end_mode(site.number + 1, second)
    assert Change.objects.latest("revision").revision == change.revision


def test_many_sites_at_once_are_told_apart(api: Api, make_site: MakeSite, admin: Actor) -> None:
    for slug in ("one", "two", "three", "gone"):
        make_site(slug)
    services.set_mode(admin, "two", "maintenance", services.ModeDetails(message="m"))
    services.delete_site(admin, "gone", confirm="gone")
    slugs = ["one", "two", "none", "three", "gone", "one"]
    before = Change.objects.count()
    answer = api("POST", "/modes", {"mode": "maintenance", "message": "m", "sites": slugs}).json()
    assert (answer["changed"], answer["unchanged"]) == (["one", "three"], ["two"])
    assert [(failure["site"], failure["status"]) for failure in answer["failed"]] == [("none", 404), ("gone", 409)]
    assert answer["revision"] == Change.objects.latest("revision").revision
    assert Change.objects.count() == before + 2, "one change for each site"
    for slugs in ([], [f"s{n}" for n in range(201)]):
        response = api("POST", "/modes", {"mode": "live", "sites": slugs})
        assert (response.status_code, response.json()["errors"][0]["field"]) == (422, "sites")


def test_a_bypass_is_signed_with_a_key_that_nodes_have_and_the_site_has_not(
    api: Api, agent: Agent, make_site: MakeSite, admin: Actor
) -> None:
    site = make_site("blog", hostnames=["blog.localhost"])
    box, before = sealer(), site.revision
    old = dict(box.unseal(site.sealed))
    del old["bypass_key"]
    Site.objects.filter(pk=site.pk).update(sealed=box.seal(old))  # as it was made by the release before
    response = api("POST", "/sites/blog/bypass", {"hours": 3})
    assert response.status_code == 201, response.content
    made = response.json()
    site.refresh_from_db()
    key = box.unseal(site.sealed)["bypass_key"]
    token = made["cookie"].removeprefix("tenantry_bypass=")
    assert made["url"] == f"http://blog.localhost/.tenantry/bypass?token={token}"
    expires = verify_bypass(key, "blog", token, time.time())
    assert expires is not None
    assert abs(expires - time.time() - 3 * 3600) < 60
    assert verify_bypass(key, "shop", token, time.time()) is None
    for secret in NodeSecret.objects.filter(site_number=site.number).select_related("node"):
        opened = Sealer([open_key(secret.node.sealed_key)]).unseal(secret.sealed)
        assert opened == {**old, "bypass_key": key}
    assert agent.desired(before)["sites"], "nodes read the key"
    change = Change.objects.latest("revision")
    assert (change.type, change.metadata["hours"]) == ("site.bypass", 3)
    assert token not in str(change.metadata)
    assert box.unseal(site.sealed)["environment"] == old["environment"]
    again = api("POST", "/sites/blog/bypass", {}).json()
    assert verify_bypass(key, "blog", again["cookie"].partition("=")[2], time.time())


def test_what_was_signed_before_a_revocation_lets_nobody_in(api: Api, make_site: MakeSite) -> None:
    site = make_site("blog", hostnames=["blog.localhost"])
    before = api("POST", "/sites/blog/bypass", {}).json()["cookie"].partition("=")[2]
    environment, revision = sealer().unseal(site.sealed)["environment"], Change.objects.latest("revision").revision
    response = api("DELETE", "/sites/blog/bypass")
    assert (response.status_code, response.json()["revision"]) == (202, revision + 1)
    site.refresh_from_db()
    opened = sealer().unseal(site.sealed)
    after = api("POST", "/sites/blog/bypass", {}).json()["cookie"].partition("=")[2]
    assert verify_bypass(opened["bypass_key"], "blog", before, time.time()) is None
    assert verify_bypass(opened["bypass_key"], "blog", after, time.time())
    assert opened["environment"] == environment
    for secret in NodeSecret.objects.filter(site_number=site.number).select_related("node"):
        assert Sealer([open_key(secret.node.sealed_key)]).unseal(secret.sealed) == opened
    change = Change.objects.get(revision=revision + 1)
    assert (change.type, change.metadata) == ("site.bypass", {"revoked": True})
    assert api("DELETE", "/sites/none/bypass").status_code == 404


def test_a_bypass_is_refused_with_its_reason(api: Api, make_site: MakeSite) -> None:
    make_site("blog")
    response = api("POST", "/sites/blog/bypass", {})
    assert (response.status_code, "no hostname yet" in response.json()["detail"]) == (409, True)
    for hours in (0, 169, "x"):
        response = api("POST", "/sites/blog/bypass", {"hours": hours})
        assert (response.status_code, response.json()["errors"][0]["field"]) == (422, "hours")
    assert api("POST", "/sites/none/bypass", {}).status_code == 404


def test_a_change_of_the_environment_keeps_the_key(admin: Actor, make_site: MakeSite) -> None:
    site = make_site("blog")
    key = sealer().unseal(site.sealed)["bypass_key"]
    services.update_site(admin, "blog", services.SiteChange(environment={"A": "1"}))
    site.refresh_from_db()
    assert sealer().unseal(site.sealed)["bypass_key"] == key


def test_a_stranger_may_none_of_it(make_site: MakeSite) -> None:
    make_site("blog")
    stranger = Actor(name="stranger", is_admin=False)
    for act in (
        lambda: services.set_mode(stranger, "blog", "paused"),
        lambda: services.set_modes(stranger, ["blog"], "paused"),
        lambda: services.make_bypass(stranger, "blog", hours=1),
        lambda: services.revoke_bypass(stranger, "blog"),
    ):
        with pytest.raises(Forbidden):
            act()
