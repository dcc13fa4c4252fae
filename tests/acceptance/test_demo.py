"""The demo's three sites: each answers for itself, with its own row, cache entry and upload, none seen by another."""

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

SITES = ("alpha", "beta", "gamma")
TOKEN = re.compile(r'name="csrfmiddlewaretoken" value="([^"]+)"')


def submit(visitor: httpx.Client, path: str, fields: dict[str, str], files: dict[str, Any] | None = None) -> None:
    """Fill in the form at `path` and send it, as a browser does; the answer must be a redirect."""
    token = TOKEN.search(visitor.get(path).text)
    assert token
    answer = visitor.post(path, data={"csrfmiddlewaretoken": token[1], **fields}, files=files)
    assert answer.status_code == 302, answer.text[:2000]


@pytest.fixture
def visitors(platform: Any) -> Iterator[dict[str, httpx.Client]]:
    opened = {slug: platform.visitor(f"{slug}.localhost") for slug in SITES}
    yield opened
    for visitor in opened.values():
        visitor.close()


def test_each_hostname_is_answered_by_its_site(visitors: dict[str, httpx.Client]) -> None:
    seen = {slug: visitor.get("/whoami").json() for slug, visitor in visitors.items()}
    assert [seen[slug]["site"] for slug in SITES] == list(SITES)
    for what in ("database", "cache_prefix", "cached_value"):
        assert len({seen[slug][what] for slug in SITES}) == 3, what
    for slug, visitor in visitors.items():
        page = visitor.get("/")
        assert page.status_code == 200
        assert f"The notice board of {slug}" in page.text


def test_a_note_written_in_one_site_is_in_no_other(visitors: dict[str, httpx.Client]) -> None:
    for slug, visitor in visitors.items():
        submit(visitor, "/", {"author": "A visitor", "text": f"written only in {slug}", "colour": "mint"})
    for slug, visitor in visitors.items():
        page = visitor.get("/").text
        assert [other for other in SITES if f"written only in {other}" in page] == [slug]


def test_a_cached_page_is_each_sites_own(visitors: dict[str, httpx.Client]) -> None:
    for visitor in visitors.values():
        submit(visitor, "/numbers/", {})
    for visitor in visitors.values():
        assert visitor.get("/numbers/").headers["X-Cache"] == "miss", "another site's entry would be a hit"
        assert visitor.get("/numbers/").headers["X-Cache"] == "hit"
    submit(visitors["alpha"], "/numbers/", {})
    assert visitors["alpha"].get("/numbers/").headers["X-Cache"] == "miss"
    assert visitors["beta"].get("/numbers/").headers["X-Cache"] == "hit"


def test_an_upload_is_served_by_its_site_only(visitors: dict[str, httpx.Client]) -> None:
    links = {}
    for slug, visitor in visitors.items():
        content = f"a file of {slug}".encode()
        submit(visitor, "/files/", {"title": f"File of {slug}"}, {"file": (f"{slug}.txt", content, "text/plain")})
        found = re.findall(r'(/media/uploads/[^"\s]+\.txt)', visitor.get("/files/").text)
        assert found
        links[slug] = found[0]
    for slug, visitor in visitors.items():
        assert visitor.get(links[slug]).text == f"a file of {slug}"
        for other in set(SITES) - {slug}:
            assert visitor.get(links[other]).status_code == 404


def test_static_files_are_served_by_nginx(visitors: dict[str, httpx.Client]) -> None:
    page = visitors["alpha"].get("/").text
    style = re.search(r'href="(/static/board/board[^"]*\.css)"', page)
    assert style
    answer = visitors["alpha"].get(style[1])
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/css")
    assert visitors["alpha"].get("/static/../src/manage.py").status_code in (400, 404)
    assert visitors["alpha"].get("/media/../../beta/media/").status_code in (400, 403, 404)


def test_the_admin_has_its_login_page(visitors: dict[str, httpx.Client]) -> None:
    assert visitors["alpha"].get("/admin/login/").status_code == 200


def test_a_session_of_one_site_is_worth_nothing_in_another(platform: Any, visitors: dict[str, httpx.Client]) -> None:
    make = "from django.contrib.auth.models import User; User.objects.create_superuser('eve', password='only-in-alpha')"
    platform.tenantry("site", "manage", "alpha", "shell", "-c", make)
    alpha = visitors["alpha"]
    submit(alpha, "/admin/login/", {"username": "eve", "password": "only-in-alpha", "next": "/admin/"})
    assert alpha.get("/admin/").status_code == 200
    session = alpha.cookies["sessionid"]
    beta = visitors["beta"]
    beta.cookies.set("sessionid", session)
    assert beta.get("/admin/").status_code == 302


def test_the_visitors_host_header_does_not_choose_the_answers_host(platform: Any) -> None:
    with platform.visitor("ALPHA.localhost") as visitor:
        assert visitor.get("/whoami").json()["site"] == "alpha"
    with platform.visitor("alpha.localhost") as visitor:
        answer = visitor.get("/whoami", headers={"X-Forwarded-Host": "evil.example"})
        assert answer.json()["site"] == "alpha"
        assert "evil.example" not in visitor.get("/", headers={"X-Forwarded-Host": "evil.example"}).text


def test_the_dashboard_wants_a_login_and_then_shows_the_sites(platform: Any) -> None:
    address = f"http://127.0.0.1:{platform.control_port}"
    password = (platform.home / "secrets" / "admin-password").read_text().strip()
    with httpx.Client(base_url=address, follow_redirects=True, trust_env=False, timeout=20) as person:
        page = person.get("/")
        assert page.status_code == 200
        assert "alpha" not in page.text
        token = TOKEN.search(page.text)
        assert token
        fields = {"csrfmiddlewaretoken": token[1], "username": "admin", "password": password}
        shown = person.post(page.url, data=fields, headers={"Referer": str(page.url)})
        assert shown.status_code == 200
        for slug in SITES:
            assert slug in shown.text
