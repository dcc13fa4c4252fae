"""Pages, without a browser: who may see them, what they show, how many statements they take."""

from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import URLPattern

from tenantry.control.changelog.models import Change
from tenantry.control.dashboard import urls
from tenantry.control.sites.models import Site
from tenantry.testing.control import ControlDatabase

from . import seeds
from .conftest import PASSWORD, USERNAME

ARGUMENTS = {"slug": "blog", "name": "demo-1", "version": "0"}
PUBLIC = {"login", "asset"}
CRAFTED = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"


def addresses() -> list[str]:
    """Every address of the dashboard but the public ones."""
    found = []
    for pattern in urls.urlpatterns:
        assert isinstance(pattern, URLPattern), "a nested URLconf: walk it here"
        if pattern.name in PUBLIC:
            continue
        route = str(pattern.pattern)
        for name, value in ARGUMENTS.items():
            for converter in ("str", "slug"):
                route = route.replace(f"<{converter}:{name}>", value)
        found.append("/" + route)
    return found


@pytest.mark.parametrize("address", [address for address in addresses() if address != "/logout"])
@pytest.mark.parametrize("method", ["get", "post"])
def test_nobody_sees_a_page_without_logging_in(control_database: ControlDatabase, address: str, method: str) -> None:
    response = getattr(Client(), method)(address)
    assert response.status_code == 302, address
    assert response.headers["Location"].startswith("/login")


def test_a_fragment_without_a_session_sends_the_page_to_the_login(control_database: ControlDatabase) -> None:
    response = Client().get("/", headers={"HX-Request": "true", "HX-Target": "sites"})
    assert response.status_code == 401
    assert response.headers["HX-Redirect"] == "/login"


def test_an_account_that_is_no_administrator_sees_nothing(control_database: ControlDatabase) -> None:
    from django.contrib.auth.models import User

    User.objects.create_user("guest", password=PASSWORD)
    client = Client()
    assert client.login(username="guest", password=PASSWORD)
    for address in ("/", "/changes", "/sites/new", "/projects", "/live"):
        response = client.get(address)
        assert response.status_code == 403, address
        assert "Not allowed" in response.text


def test_login_comes_back_to_the_page_asked_for_and_never_leaves_the_dashboard(client: Client) -> None:
    client.logout()
    assert client.get("/projects").headers["Location"] == "/login?next=%2Fprojects"
    typed = {"username": USERNAME, "password": PASSWORD}
    assert client.post("/login", {**typed, "next": "/projects"}).headers["Location"] == "/projects"
    client.logout()
    for elsewhere in ("https://evil.example/", "//evil.example/", "javascript:alert(1)"):
        assert client.post("/login", {**typed, "next": elsewhere}).headers["Location"] == "/"
        client.logout()


def test_logging_out_needs_a_post(client: Client) -> None:
    assert client.get("/logout").status_code == 405
    assert client.post("/logout").headers["Location"] == "/login"
    assert client.get("/").status_code == 302


def test_forms_need_their_token(client: Client) -> None:
    strict = Client(enforce_csrf_checks=True)
    strict.cookies = client.cookies
    response = strict.post("/sites/new", {"slug": "blog"})
    assert response.status_code == 403
    assert "Nothing was changed" in response.text


def test_headers_allow_nothing_inline_and_nothing_from_elsewhere(client: Client) -> None:
    for address in ("/", "/login", "/sites/new", "/nowhere"):
        response = client.get(address)
        policy = response.headers["Content-Security-Policy"]
        assert "script-src 'self'" in policy or "default-src 'self'" in policy
        assert "unsafe-inline" not in policy.split("style-src")[0]
        assert "<script>" not in response.text
        assert " style=" not in response.text
        assert " onclick=" not in response.text
        assert "//" not in response.text.replace("http://www.w3.org/2000/svg", "").replace("<!--", "")
    assert client.get("/").headers["Cache-Control"] == "no-store"
    client.logout()
    session = client.post("/login", {"username": USERNAME, "password": PASSWORD}).cookies["tenantry_session"]
    assert session["httponly"] is True
    assert session["samesite"] == "Lax"


def test_empty_states_say_what_to_type(client: Client) -> None:
    assert "tenantry project add PATH --name shop" in client.get("/").text
    assert "tenantry project add" in client.get("/projects").text
    assert "tenantry project add" in client.get("/sites/new").text
    name = seeds.project()
    assert f"tenantry site create blog --project {name}" in client.get("/").text
    assert "No site matches" in client.get("/?q=nothing").text


def test_the_list_takes_the_same_number_of_statements_for_ten_sites_and_two_hundred(
    client: Client, control_database: ControlDatabase
) -> None:
    name = seeds.project()

    def serve(count: int, prefix: str) -> None:
        seeds.many_sites(count, name, prefix)
        slugs = Site.objects.values_list("slug", flat=True)
        line = {"revision": 1, "generation": 1, "state": "serving", "message": "", "log": ""}
        seeds.report(control_database, *({"slug": slug, **line} for slug in slugs))

    def statements(address: str) -> int:
        with CaptureQueriesContext(connection) as captured:
            assert client.get(address).status_code == 200
        return len(captured)

    serve(9, "shop-few")
    counted = {address: statements(address) for address in ("/", "/?q=shop", "/changes", "/projects", "/nodes")}
    assert counted["/"] <= 15
    serve(200, "shop-many")
    assert counted == {address: statements(address) for address in counted}


def test_the_list_is_paged_searched_and_filtered(client: Client) -> None:
    name, other = seeds.project(), seeds.project()
    seeds.many_sites(120, name)
    seeds.site("wiki", other, "docs.example.org")
    seeds.site("late", other, provisioned=False)
    first = client.get("/")
    assert "1–50 of 123" in first.text
    assert 'href="/?page=2"' in first.text
    assert "101–123 of 123" in client.get("/?page=99").text
    found = client.get("/?q=DOCS.example").text
    assert 'id="site-wiki"' in found
    assert 'id="site-shop-00001"' not in found
    waiting = client.get(f"/?project={other}&status=provisioning").text
    assert 'id="site-late"' in waiting
    assert 'id="site-wiki"' not in waiting
    for odd in (
        "?page=-1",
        "?page=x",
        "?page=²",
        "?status=%00",
        "?project=%00",
        "?q=%00%27%3B",
        "?q=" + "x" * 5000,
        "?page=" + "9" * 30,
    ):
        assert client.get("/" + odd).status_code == (404 if "%00" in odd else 200), odd


def test_crafted_text_is_shown_and_never_run(client: Client, control_database: ControlDatabase) -> None:
    name = seeds.project()
    seeds.site("blog", name)
    seeds.failing(control_database, "blog", CRAFTED, f"</pre>{CRAFTED}\x1b[31m")
    Site.objects.filter(slug="blog").update(error=CRAFTED)
    seeds.report(control_database, conditions=[{"type": CRAFTED, "status": True, "message": CRAFTED}])
    pages = [
        client.get("/"),
        client.get("/sites/blog"),
        client.get("/?q=" + CRAFTED),
        client.post("/sites/new", {"slug": CRAFTED, "project": CRAFTED, "hostname": CRAFTED}),
        client.post("/sites/blog/hostnames", {"hostname": CRAFTED}),
        client.post("/login", {"username": CRAFTED, "password": "x", "next": CRAFTED}),
    ]
    for response in pages:
        assert "<script>alert" not in response.text
        assert "<img" not in response.text
    assert "&lt;script&gt;" in pages[0].text
    assert "&lt;script&gt;" in pages[1].text


@pytest.mark.parametrize(
    "address",
    [
        "/sites/nothing",
        "/sites/..%2f..%2fetc",
        "/sites/UPPER",
        "/projects/nothing",
        "/releases/nothing-1",
        "/releases/x",
    ],
)
def test_what_is_not_there_is_a_404_in_the_same_look(client: Client, address: str) -> None:
    response = client.get(address)
    assert response.status_code == 404
    assert "Not found" in response.text
    assert "/assets/" in response.text


def test_creating_a_site_says_the_same_as_the_api(client: Client) -> None:
    name = seeds.project()
    seeds.site("taken", name)
    refused = client.post("/sites/new", {"slug": "Not A Slug", "project": name, "hostname": "localhost"})
    assert refused.status_code == 422
    assert "A slug begins with a letter a-z" in refused.text
    assert "A hostname needs at least two parts" in refused.text
    assert 'value="Not A Slug"' in refused.text
    again = client.post("/sites/new", {"slug": "taken", "project": name, "hostname": ""})
    assert "There is a site «taken» already" in again.text
    made = client.post("/sites/new", {"slug": "blog", "project": name, "hostname": "blog.localhost"})
    assert made.headers["Location"] == "/sites/blog?done=created"
    assert Change.objects.get(type="site.created", site_slug="blog").actor == USERNAME
    shown = client.get("/sites/blog").text
    assert "http://blog.localhost" in shown
    assert "provisioning" in shown


def test_hostnames_come_and_go(client: Client) -> None:
    seeds.site("blog", seeds.project())
    assert client.post("/sites/blog/hostnames", {"hostname": "www.example.org"}).status_code == 302
    assert "www.example.org" in client.get("/sites/blog").text
    refused = client.post("/sites/blog/hostnames", {"hostname": "www.example.org"})
    assert refused.status_code == 422
    assert "belongs to the site blog already" in refused.text
    partly = client.post("/sites/blog/hostnames", {"hostname": "a b"}, headers={"HX-Request": "true"})
    assert partly.status_code == 422
    assert "<html" not in partly.text
    client.post("/sites/blog/hostnames/www.example.org/remove")
    assert "www.example.org" not in client.get("/sites/blog").text.split('id="changes"')[0]
    assert client.post("/sites/blog/hostnames/www.example.org/remove").status_code == 302


def test_deleting_asks_for_the_slug(client: Client) -> None:
    seeds.site("blog", seeds.project())
    refused = client.post("/sites/blog/delete", {"confirm": "blgo", "dump": "1"})
    assert refused.status_code == 422
    assert "Nothing was deleted" in refused.text
    assert Site.objects.get(slug="blog").status == "ready"
    assert client.post("/sites/blog/delete", {"confirm": "blog", "dump": "1"}).status_code == 302
    assert Site.objects.get(slug="blog").status == "deleting"
    assert Change.objects.get(type="site.deleted").metadata["dump"] is True


def test_restarting_is_a_new_generation(client: Client) -> None:
    before = seeds.site("blog", seeds.project()).generation
    assert client.post("/sites/blog/restart").headers["Location"] == "/sites/blog?done=restarted"
    assert Site.objects.get(slug="blog").generation == before + 1


def test_values_of_the_environment_are_never_shown(client: Client) -> None:
    seeds.site("blog", seeds.project(), environment={"API_KEY": "s3cr3t-value"})
    shown = client.get("/sites/blog").text
    assert "API_KEY" in shown
    assert "s3cr3t-value" not in shown


def test_a_failed_build_shows_its_step_and_log(client: Client) -> None:
    from tenantry.control.releases import services

    name = seeds.project(ready=False)
    services.start_release_step(f"{name}-1", "install")
    assert "install" in client.get(f"/releases/{name}-1").text
    services.fail_release(f"{name}-1", "install", "No such package: djanog", "ERROR: no djanog found")
    shown = client.get(f"/releases/{name}-1").text
    assert "No such package: djanog" in shown
    assert "ERROR: no djanog found" in shown
    assert "No such package" in client.get(f"/projects/{name}").text


def test_files_are_kept_for_ever_under_the_address_of_their_version(client: Client) -> None:
    from tenantry.control.dashboard.assets import SERVED, asset_url

    for name in SERVED:
        response = Client().get(asset_url(name))
        assert response.status_code == 200
        assert "immutable" in response.headers["Cache-Control"]
        assert response.content
    assert Client().get("/assets/old/app.css").headers["Cache-Control"] == "no-store"
    assert Client().get("/assets/old/..%2fassets.py").status_code == 404


def test_a_site_is_behind_until_its_node_serves_the_latest_revision(
    client: Client, control_database: ControlDatabase
) -> None:
    seeds.site("blog", seeds.project())
    states: list[Any] = []

    def state() -> str:
        from tenantry.control.dashboard.queries import site_rows_of

        return site_rows_of(["blog"])[0].worst_node_state

    states.append(state())
    seeds.serving(control_database, "blog")
    states.append(state())
    client.post("/sites/blog/restart")
    states.append(state())
    seeds.serving(control_database, "blog")
    states.append(state())
    assert states == ["waiting", "serving", "behind", "serving"]


def test_a_mode_is_set_with_its_message_and_end_and_keeps_what_the_form_does_not_show(client: Client) -> None:
    from tenantry.control.sites import services

    seeds.site("blog", seeds.project())
    details = services.ModeDetails(page="<h1>own</h1>", networks=["192.0.2.0/24"], retry_after_seconds=9)
    services.set_mode(seeds.ADMIN, "blog", "paused", details)
    typed = {"mode": "maintenance", "message": f"{CRAFTED}\r\nsoon", "until": "2099-01-01 12:00"}
    for wrong in ("2099-01-01 12:00", "2020-01-01 12:00", "soon"):
        refused = client.post("/sites/blog/mode", {**typed, "until": wrong})
        assert refused.status_code == 422
        assert 'id="until-error"' in refused.text
        assert "<script>alert" not in refused.text
        assert f'value="{wrong}"' in refused.text
    assert Site.objects.get(slug="blog").mode == "paused"
    response = client.post("/sites/blog/mode", {**typed, "until": ""})
    assert response.headers["Location"] == "/sites/blog?done=mode"
    site = Site.objects.get(slug="blog")
    assert (site.mode, site.mode_options) == (
        "maintenance",
        {
            "message": f"{CRAFTED}\nsoon", "page": "<h1>own</h1>", "networks": ["192.0.2.0/24"],
            "retry_after_seconds": 9,
        },
    )  # fmt: skip
    shown = client.get("/sites/blog").text
    assert "mode-notice" in shown
    assert "<script>alert" not in shown
    assert client.post("/sites/blog/mode", {"mode": "haunted"}).status_code == 422
    assert client.post("/sites/blog/mode", {"mode": "live", "message": "left in the form"}).status_code == 302
    assert Site.objects.get(slug="blog").mode_options == {}
