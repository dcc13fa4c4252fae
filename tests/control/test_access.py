"""Every operation tried as nobody, with a wrong token, as a person without rights, and as the administrator."""

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from tenantry.control.access import services
from tenantry.control.access.actors import Actor
from tenantry.control.access.models import Token
from tenantry.control.api.v1 import api as api_v1
from tenantry.control.config import Cluster
from tenantry.control.errors import Forbidden, InvalidInput, NotAuthenticated
from tenantry.control.fleet import services as fleet
from tenantry.control.releases import services as releases
from tenantry.control.sites import services as sites
from tenantry.control.sites.models import Site

from .conftest import Api

OPERATIONS = sorted(
    (method.upper(), path.removeprefix("/api/v1"))
    for path, methods in api_v1.get_openapi_schema()["paths"].items()
    for method in methods
)
BODIES: dict[tuple[str, str], dict[str, Any]] = {
    ("POST", "/projects"): {"name": "other", "source": "/srv/other"},
    ("POST", "/sites"): {"slug": "other", "project": "demo"},
    ("PATCH", "/projects/{name}"): {"warm_paths": ["/"]},
    ("PATCH", "/sites/{slug}"): {"threads": 2},
    ("POST", "/sites/{slug}/commands"): {"argv": ["manage.py", "check"]},
    ("POST", "/sites/{slug}/hostnames"): {"name": "b.example.org"},
    ("POST", "/tokens"): {"name": "ci"},
    ("PUT", "/sites/{slug}/mode"): {"mode": "maintenance"},
    ("PUT", "/sites/{slug}/runtime"): {"runtime": "on_demand"},
    ("POST", "/modes"): {"mode": "maintenance", "sites": ["blog"]},
    ("POST", "/nodes/{name}/confirm"): {"token": "0123abcd"},
}
# Machines, not people: the token in the body, or the node's own. See test_joining and test_artifacts.
OF_MACHINES = {("POST", "/nodes/join"), ("GET", "/agent/artifacts/{digest}")}
OPERATIONS = [operation for operation in OPERATIONS if operation not in OF_MACHINES]
REFUSED_HERE = {
    ("DELETE", "/projects/{name}"): 409,  # it has a site
    ("POST", "/nodes/{name}/confirm"): 409,  # the node asks for nothing
}
ENDLESS = {("GET", "/events")}  # followed in test_events


def fill(path: str) -> str:
    name = "demo-1" if path.startswith("/releases") else "node-1" if path.startswith("/nodes") else "demo"
    if "/hostnames/" in path:
        name = "a.example.org"
    filled = path.replace("{slug}", "blog").replace("{name}", name).replace("{id}", "1").replace("{revision}", "1")
    return filled + "?confirm=blog" if path == "/sites/{slug}" else filled


def send(client: Api, operation: tuple[str, str]) -> Any:
    method, path = operation
    return client(method, fill(path), BODIES.get(operation))


@pytest.fixture
def world(make_site: Callable[..., Site], token: str, cluster: Cluster) -> None:
    """Something of everything, so that no operation is refused for want of a thing."""
    make_site("blog", hostnames=["a.example.org"])


def test_every_operation_is_covered() -> None:
    assert len(OPERATIONS) > 25
    assert set(BODIES) <= set(OPERATIONS)


@pytest.mark.parametrize("operation", OPERATIONS, ids=" ".join)
def test_an_operation_is_for_the_administrator_alone(operation: tuple[str, str], world: None, token: str) -> None:
    person = User.objects.create_user("eva", password="a long enough one")
    weak = services.create_token(Actor("admin", True, "admin"), "weak", username="eva")[1]
    before = list(Site.objects.values())
    for client, status in ((Api(None), 401), (Api("tnt_wrong"), 401), (Api(token[:-1]), 401), (Api(weak), 403)):
        response = send(client, operation)
        assert response.status_code == status
        assert response.headers["Content-Type"] == "application/problem+json"
        assert response.json()["status"] == status
        assert (status == 401) == ("WWW-Authenticate" in response.headers)
    browser = Client(raise_request_exception=False)
    browser.force_login(person)
    assert browser.generic(operation[0], f"/api/v1{fill(operation[1])}").status_code in (401, 403)
    assert list(Site.objects.values()) == before
    if operation not in ENDLESS:
        response = send(Api(token), operation)
        usual = {"POST": {200, 201, 202}, "DELETE": {202, 204}, "GET": {200}, "PATCH": {200}, "PUT": {200}}
        refused = REFUSED_HERE.get(operation)
        expected = {refused} if refused else usual[operation[0]]
        assert response.status_code in expected, response.content
        assert token not in response.content.decode()


def test_an_administrators_session_may_read_but_not_change(world: None) -> None:
    browser = Client(raise_request_exception=False)
    browser.force_login(User.objects.get(username="admin"))
    assert browser.get("/api/v1/sites").status_code == 200
    assert browser.post("/api/v1/sites/blog/restart").status_code == 401
    assert browser.delete("/api/v1/sites/blog?confirm=blog").status_code == 401


def test_a_token_is_shown_once_and_stored_as_its_hash(api: Api, admin: Actor) -> None:
    made = api("POST", "/tokens", {"name": "ci"}).json()
    assert made["token"].startswith("tnt_")
    assert api.get("/tokens")["items"][-1] == {k: v for k, v in made.items() if k != "token"}
    stored = json.dumps(list(Token.objects.values()), default=str)
    assert made["token"] not in stored
    assert made["token"].removeprefix("tnt_") not in stored
    assert Api(made["token"]).get("/whoami") == {"user": "admin", "is_admin": True, "token": "ci", "version": "0.1.0"}


def test_a_revoked_expired_or_disabled_token_is_worth_nothing(api: Api, admin: Actor) -> None:
    made = api("POST", "/tokens", {"name": "ci"}).json()
    assert api("DELETE", f"/tokens/{made['id']}").status_code == 204
    assert Api(made["token"])("GET", "/whoami").status_code == 401
    assert api("DELETE", f"/tokens/{made['id']}").status_code == 204, "again is no error"
    assert api("DELETE", "/tokens/999").status_code == 404

    _, short = services.create_token(admin, "short", expires_at=timezone.now() + timedelta(hours=1))
    assert services.authenticate(short).token_name == "short"
    Token.objects.filter(name="short").update(expires_at=timezone.now() - timedelta(seconds=1))
    with pytest.raises(NotAuthenticated):
        services.authenticate(short)

    _, text = services.create_token(admin, "of the disabled")
    User.objects.update(is_active=False)
    with pytest.raises(NotAuthenticated):
        services.authenticate(text)


@pytest.mark.parametrize("text", ["", "tnt_", "x" * 10_000, "\ud800", "tnt_ü"])
def test_no_text_breaks_authentication(control_database: object, text: str) -> None:
    with pytest.raises(NotAuthenticated):
        services.authenticate(text)


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Basic YTpi", "Bearer a b", "bearer\ttnt_x"])
def test_no_authorization_header_breaks_the_api(control_database: object, header: str) -> None:
    response = Client(raise_request_exception=False).get("/api/v1/whoami", headers={"Authorization": header})
    assert response.status_code == 401


def test_a_token_must_have_a_name_a_user_and_a_future(api: Api) -> None:
    for body, field in (
        ({"name": " "}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": "ci", "user": "nobody"}, "user"),
        ({"name": "ci", "expires_at": "2001-01-01T00:00:00Z"}, "expires_at"),
    ):
        response = api("POST", "/tokens", body)
        assert response.status_code == 422, body
        assert response.json()["errors"][0]["field"] == field


def test_services_check_permission_themselves(world: None) -> None:
    stranger = Actor(name="eva", is_admin=False, username="eva")
    acts: list[Callable[[], object]] = [
        lambda: sites.create_site(stranger, sites.SiteRequest(slug="x", project="demo")),
        lambda: sites.update_site(stranger, "blog", sites.SiteChange(threads=2)),
        lambda: sites.restart_site(stranger, "blog"),
        lambda: sites.delete_site(stranger, "blog", confirm="blog"),
        lambda: sites.add_hostname(stranger, "blog", "c.example.org"),
        lambda: sites.remove_hostname(stranger, "blog", "a.example.org"),
        lambda: sites.record_command(stranger, "blog", ["ls"]),
        lambda: releases.add_project(stranger, releases.ProjectRequest(name="x", source="/x")),
        lambda: releases.request_release(stranger, "demo"),
        lambda: releases.activate(stranger, "demo-1"),
        lambda: releases.remove_project(stranger, "demo"),
        lambda: services.create_token(stranger, "x"),
        lambda: services.revoke_token(stranger, 1),
    ]
    for act in acts:
        with pytest.raises(Forbidden):
            act()


def test_a_node_needs_a_name_and_a_role(control_database: object) -> None:
    for name, role in (("", "tenantry_node_1"), ("a b", "tenantry_node_1"), ("n", 'x"; DROP TABLE node; --')):
        with pytest.raises(InvalidInput):
            fleet.adopt_node(name, role)
