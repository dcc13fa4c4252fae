"""What crafted, wrong and odd input gets: a clear refusal naming the field, and nothing of it kept."""

from typing import Any

import pytest
from django.test import Client
from procrastinate.contrib.django.models import ProcrastinateJob

from tenantry.control.changelog import queries
from tenantry.control.sites.models import Hostname, Site

from .conftest import Api

CRAFTED = [
    '"; }',
    "a\nb",
    "a\n[uwsgi]\nexec-asap = id",
    "@(exec://id)",
    "$(HOME)",
    "%2e%2e",
    "..",
    "../../etc/passwd",
    "/etc/passwd",
    "a b",
    "a;b",
    "a'b",
    "a\x00b",
    "a\u202eb",
    "-a",
    "a-",
    "a_b",
    "A",
    "бло́г",
    "bücher",
    "ａｂｃ",
    "a" * 300,
    "",
    " ",
    "\ud800",
    "{{7*7}}",
    "100%abc",
    "a\r",
]
BAD_SLUGS = [*CRAFTED, "admin", "tenantry", "1blog", "a--b", "xn--abc", "a.b", "a" * 41, "blog\n"]
BAD_HOSTNAMES = [*CRAFTED, "localhost", "tenantry.localhost", "a..b", ".a.b", "127.0.0.1", "*.a.org", "a.b:80", "a"]
BAD_HOSTNAMES.remove("A")
BAD_HOSTNAMES += ["http://a.org", "a.org/x", f"{'a' * 64}.org", ".".join(["abcdefgh"] * 32), "é.org", "a.-b.org"]


def fields(response: Any) -> list[str]:
    assert response.status_code == 422, response.content
    assert response.headers["Content-Type"] == "application/problem+json"
    document = response.json()
    assert document["status"] == 422
    assert all(error["message"] for error in document["errors"])
    return [error["field"] for error in document["errors"]]


@pytest.fixture
def nothing_happens(api: Api, project: str) -> Any:
    before = queries.head()
    jobs = ProcrastinateJob.objects.count()
    yield
    assert queries.head() == before
    assert not Site.objects.exists()
    assert not Hostname.objects.exists()
    assert ProcrastinateJob.objects.count() == jobs


def test_no_bad_slug_becomes_a_site(api: Api, nothing_happens: None) -> None:
    for slug in BAD_SLUGS:
        assert fields(api("POST", "/sites", {"slug": slug, "project": "demo"})) == ["slug"], slug


def test_no_bad_hostname_is_taken(api: Api, nothing_happens: None) -> None:
    for name in BAD_HOSTNAMES:
        body = {"slug": "blog", "project": "demo", "hostnames": ["good.example.org", name]}
        named = fields(api("POST", "/sites", body))
        assert named[0].split(".")[0] == "hostnames", name


def test_no_bad_hostname_is_added(api: Api, make_site: Any) -> None:
    make_site("blog")
    for name in BAD_HOSTNAMES:
        assert fields(api("POST", "/sites/blog/hostnames", {"name": name})) == ["name"], name
    assert not Hostname.objects.exists()


def test_no_bad_project_name_is_taken(api: Api) -> None:
    for name in BAD_SLUGS:
        assert fields(api("POST", "/projects", {"name": name, "source": "/srv/x"})) == ["name"], name


def test_another_script_is_told_its_ascii_form(api: Api, project: str) -> None:
    response = api("POST", "/sites", {"slug": "blog", "project": "demo", "hostnames": ["bücher.example"]})
    assert "xn--bcher-kva.example" in response.json()["detail"]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, ["project", "slug"]),
        ({"slug": "blog"}, ["project"]),
        ({"slug": 7, "project": "demo"}, ["slug"]),
        ({"slug": "blog", "project": "none"}, ["project"]),
        ({"slug": "blog", "project": "a\u0000b"}, ["project"]),
        ({"slug": "blog", "project": "demo", "colour": "red"}, ["colour"]),
        ({"slug": "blog", "project": "demo", "release": "demo-9"}, ["release"]),
        ({"slug": "blog", "project": "demo", "release": "../x"}, ["release"]),
        ({"slug": "blog", "project": "demo", "processes": 0}, ["processes"]),
        ({"slug": "blog", "project": "demo", "processes": 10**30}, ["processes"]),
        ({"slug": "blog", "project": "demo", "threads": "many"}, ["threads"]),
        ({"slug": "blog", "project": "demo", "threads": 65, "processes": -1}, ["processes", "threads"]),
        ({"slug": "blog", "project": "demo", "hostnames": "a.org"}, ["hostnames"]),
        ({"slug": "blog", "project": "demo", "hostnames": ["a.org", "A.org."]}, ["hostnames"]),
        ({"slug": "blog", "project": "demo", "hostnames": [f"h{n}.org" for n in range(101)]}, ["hostnames"]),
        ({"slug": "blog", "project": "demo", "environment": {"A": 1}}, ["environment.A"]),
        ({"slug": "blog", "project": "demo", "environment": {"PATH": "/x"}}, ["environment.PATH"]),
        ({"slug": "blog", "project": "demo", "environment": {"TENANTRY_SITE": "x"}}, ["environment.TENANTRY_SITE"]),
        ({"slug": "blog", "project": "demo", "environment": {"A B": "x"}}, ["environment.A B"]),
        ({"slug": "blog", "project": "demo", "environment": {"A": "x\u0000"}}, ["environment.A"]),
        ({"slug": "blog", "project": "demo", "environment": {"A": "x" * 40_000}}, ["environment.A"]),
        ({"slug": "blog", "project": "demo", "environment": {f"A{n}": "" for n in range(201)}}, ["environment"]),
        (
            {"slug": "blog", "project": "demo", "environment": {f"A{n}": "x" * 30_000 for n in range(9)}},
            ["environment"],
        ),
        ({"slug": "-", "project": "demo", "hostnames": ["-"], "threads": 0}, ["hostnames", "slug", "threads"]),
    ],
)
def test_a_bad_site_names_every_field_at_fault(
    api: Api, nothing_happens: None, body: dict[str, Any], expected: list[str]
) -> None:
    assert sorted(fields(api("POST", "/sites", body))) == expected


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"source": ""}, "source"),
        ({"source": "relative/path"}, "source"),
        ({"source": "/srv/a\nb"}, "source"),
        ({"source": "--upload-pack=id"}, "source"),
        ({"source": "ext::sh -c id"}, "source"),
        ({"source": "https://anna:hunter2@git.example.org/shop.git"}, "source"),
        ({"source": "git+https://ghp_token@git.example.org/shop.git"}, "source"),
        ({"source": "ssh://git:hunter2@git.example.org/shop.git"}, "source"),
        ({"settings": "a/b"}, "settings"),
        ({"wsgi": "a:b;c"}, "wsgi"),
        ({"engine": "gunicorn"}, "engine"),
        ({"engine": "granian", "asgi": "a:b;c"}, "asgi"),
        ({"asgi": "a:b"}, "asgi"),
        ({"python": "3.13; id"}, "python"),
        ({"python": "2.7"}, "python"),
        ({"health_path": "x"}, "health_path"),
        ({"health_path": "/a b"}, "health_path"),
        ({"health_path": "/a\r\nX: y"}, "health_path"),
        ({"environment": {"LD_PRELOAD": "/x.so"}}, "environment.LD_PRELOAD"),
    ],
)
def test_a_bad_project_names_the_field(api: Api, change: dict[str, Any], field: str) -> None:
    assert fields(api("POST", "/projects", {"name": "shop", "source": "/srv/shop", **change})) == [field]


def test_a_taken_name_names_its_owner(api: Api, make_site: Any) -> None:
    make_site("blog", hostnames=["a.example.org"])
    assert fields(api("POST", "/sites", {"slug": "blog", "project": "demo"})) == ["slug"]
    assert fields(api("POST", "/projects", {"name": "demo", "source": "/srv/demo"})) == ["name"]
    response = api("POST", "/sites", {"slug": "shop", "project": "demo", "hostnames": ["A.Example.org"]})
    assert fields(response) == ["hostnames"]
    assert "blog" in response.json()["detail"]
    assert not Site.objects.filter(slug="shop").exists(), "nothing half-made"


@pytest.mark.parametrize("body", [b"{", b"\xff", b"[" * 100_000, b'{"a":', b"NaN", b"nul"])
def test_a_body_that_is_no_json_is_400(api: Api, body: bytes) -> None:
    response = api("POST", "/sites", body)
    assert response.status_code == 400
    assert response.headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize("body", [b"[]", b'"x"', b"7", b"null", b""])
def test_a_body_that_is_no_object_is_422(api: Api, body: bytes) -> None:
    assert api("POST", "/sites", body).status_code == 422


def test_a_body_that_is_too_large_is_413(api: Api) -> None:
    response = api("POST", "/sites", b'{"slug": "' + b"x" * 2_000_000 + b'"}')
    assert response.status_code == 413
    assert response.json()["title"] == "Content too large"


@pytest.mark.parametrize(
    "path",
    [
        "/nope",
        "/sites/nope",
        "/sites/a%00b",
        "/sites/%2e%2e%2fetc",
        "/sites/nope/logs",
        "/sites/nope/convergence",
        "/sites/%F0%9F%92%A9/logs",
        "/projects/nope/releases",
        "/releases/nope/log",
        "/releases/..%2f..%2fetc%2fpasswd/log",
        "/nodes/nope",
    ],
)
def test_what_is_not_there_is_a_404_document(api: Api, path: str) -> None:
    response = api("GET", path)
    assert response.status_code == 404
    assert response.headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/sites?limit=0", "limit"),
        ("/sites?limit=x", "limit"),
        ("/sites?limit=100000", "limit"),
        ("/sites?status=odd", "status"),
        ("/changes?since=-1", "since"),
        ("/changes?since=99999999999999999999", "since"),
        ("/projects/demo/releases?cursor=x", "cursor"),
        ("/sites/blog/convergence?wait=1e9", "wait"),
        ("/sites/blog/logs?lines=-1", "lines"),
    ],
)
def test_a_bad_query_names_the_parameter(api: Api, make_site: Any, path: str, field: str) -> None:
    make_site("blog")
    assert fields(api("GET", path)) == [field]


@pytest.mark.parametrize("query", ["q=%00", "q=%ff", "cursor=%00", "project=%00"])
def test_no_query_breaks_a_list(api: Api, query: str) -> None:
    assert api("GET", f"/sites?{query}").status_code < 500


def test_a_wrong_method_is_a_405_document(api: Api) -> None:
    response = api("PUT", "/sites")
    assert response.status_code == 405
    assert response.json()["status"] == 405
    assert "GET" in response.headers["Allow"]


def test_a_bug_is_a_500_document_without_its_reason(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from tenantry.control.sites import queries as site_queries

    def broken(slug: str) -> None:
        raise ZeroDivisionError("a secret in a message")

    monkeypatch.setattr(site_queries, "site", broken)
    response = api("GET", "/sites/blog")
    assert response.status_code == 500
    assert response.headers["Content-Type"] == "application/problem+json"
    assert "secret" not in response.content.decode()
    assert "ZeroDivisionError" in caplog.text


def test_a_foreign_host_header_is_a_400_document(token: str) -> None:
    response = Client(raise_request_exception=False).get("/api/v1/whoami", headers={"Host": "evil.example"})
    assert response.status_code in (400, 401)


def test_every_answer_has_the_security_headers(api: Api) -> None:
    for response in (api("GET", "/whoami"), api("GET", "/nope"), Client().get("/healthz")):
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["X-Frame-Options"] == "DENY"
        assert "default-src 'self'" in response.headers["Content-Security-Policy"]
    assert api("GET", "/whoami").headers["Cache-Control"] == "no-store"
