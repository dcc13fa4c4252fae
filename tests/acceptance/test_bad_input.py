"""Whatever a person types is answered plainly, and nothing of it reaches a file of nginx or uWSGI."""

from typing import Any

import pytest

CRAFTED = [
    'x"; }',
    "x\nmaster = true",
    "x\r\nHost: y",
    "@(exec://id)",
    "$(HOME)",
    "%2e%2e",
    "../../etc/passwd",
    "100%abc",
    "a b",
    "a;b",
    "{a}",
    "a\\b",
    "a'b",
]
SLUGS = [
    *CRAFTED,
    "",
    "Blog",
    "1blog",
    "-blog",
    "blog-",
    "bl--og",
    "blog.x",
    "büro",
    "блог",
    "a" * 41,
    "admin",
    "api",
    "static",
    "tenantry",
]
HOSTNAMES = [
    *CRAFTED,
    "localhost",
    "blog",
    "-a.localhost",
    "a-.localhost",
    ".localhost",
    "a..localhost",
    "büro.example",
    "пример.example",
    "a_b.example",
    "*.example.org",
    "127.0.0.1",
    "a" * 64 + ".example",
    ("a" * 60 + ".") * 5 + "example",
    "tenantry.localhost",
]


def files_that_programs_read(platform: Any) -> str:
    """The text and the names of everything below etc and run/vassals."""
    texts = []
    for part in ("etc", "run/vassals"):
        for path in (platform.home / part).rglob("*"):
            texts.append(str(path))
            if path.is_file():
                texts.append(path.read_text(errors="replace"))
    return "\n".join(texts)


def assert_refused(answer: Any, field: str) -> None:
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"].startswith("application/problem+json")
    errors = answer.json()["errors"]
    assert any(field in error["field"] for error in errors), errors
    assert all(error["message"] for error in errors)


@pytest.mark.parametrize("slug", SLUGS)
def test_the_api_refuses_a_slug(platform: Any, slug: str) -> None:
    with platform.api() as api:
        assert_refused(api.post("/sites", json={"slug": slug, "project": "demo"}), "slug")


@pytest.mark.parametrize("hostname", HOSTNAMES)
def test_the_api_refuses_a_hostname(platform: Any, hostname: str) -> None:
    with platform.api() as api:
        answer = api.post("/sites", json={"slug": "refused", "project": "demo", "hostnames": [hostname]})
        assert_refused(answer, "hostname")
        assert api.get("/sites/refused").status_code == 404
        assert_refused(api.post("/sites/alpha/hostnames", json={"name": hostname}), "name")


@pytest.mark.parametrize(
    "slug", ["Blog", 'x"; }', "x\nmaster = true", "@(exec://id)", "%2e%2e", "büro", "a" * 41, "admin"]
)
def test_the_command_line_refuses_a_slug_with_exit_2(platform: Any, slug: str) -> None:
    done = platform.run("site", "create", slug, "--project", "demo")
    assert done.returncode == 2, done.stderr
    assert "slug" in done.stderr


@pytest.mark.parametrize("hostname", ["localhost", 'x"; }', "a\nb.example", "$(HOME)", "пример.example", "127.0.0.1"])
def test_the_command_line_refuses_a_hostname_with_exit_2(platform: Any, hostname: str) -> None:
    done = platform.run("site", "create", "refused", "--project", "demo", "--hostname", hostname)
    assert done.returncode == 2, done.stderr
    assert "hostname" in done.stderr


def test_what_is_taken_is_refused(platform: Any) -> None:
    with platform.api() as api:
        assert_refused(api.post("/sites", json={"slug": "alpha", "project": "demo"}), "slug")
        taken = {"slug": "second", "project": "demo", "hostnames": ["alpha.localhost"]}
        assert_refused(api.post("/sites", json=taken), "hostname")
        assert_refused(api.post("/sites", json={"slug": "second", "project": "no-such-project"}), "project")
    done = platform.run("site", "create", "second", "--project", "demo", "--hostname", "ALPHA.localhost")
    assert done.returncode == 2
    assert "hostname" in done.stderr


@pytest.mark.parametrize(
    "name", ["PATH", "LD_PRELOAD", "TENANTRY_SITE", "UWSGI_FILE", "A=B", "1A", "", "A B", "PYTHONPATH"]
)
def test_a_variable_that_belongs_to_the_platform_is_refused(platform: Any, name: str) -> None:
    with platform.api() as api:
        answer = api.post("/sites", json={"slug": "refused", "project": "demo", "environment": {name: "x"}})
        assert_refused(answer, "environment")


def test_hostile_values_of_variables_stay_values(platform: Any) -> None:
    """A value may be anything: it reaches the application as it is, and no file that nginx or uWSGI parses."""
    value = '@(exec://touch pwned) $(HOME) %2e 100%abc "; } \n[uwsgi]\nexec-asap = id\n'
    platform_files = files_that_programs_read(platform)
    hostile = {
        "slug": "hostile",
        "project": "demo",
        "hostnames": ["hostile.localhost"],
        "environment": {"ODD": value},
    }
    with platform.api() as api:
        made = api.post("/sites", json=hostile)
        assert made.status_code == 201, made.text
        assert api.get("/sites/hostile/convergence", params={"wait": 30}).json()["converged"]
    printed = platform.tenantry(
        "site", "manage", "hostile", "shell", "-c", "import os; print('@' + ascii(os.environ['ODD']) + '@')"
    )
    assert printed.split("@", 1)[1].rsplit("@", 1)[0] == ascii(value)
    assert platform.get("hostile.localhost").status_code == 200
    for crumb in ("exec://", "pwned", "exec-asap", "100%abc"):
        assert crumb not in platform_files
        assert crumb not in files_that_programs_read(platform)
    platform.delete("hostile")


def test_nothing_crafted_is_in_a_file(platform: Any) -> None:
    with platform.api() as api:
        for text in CRAFTED:
            api.post("/sites", json={"slug": text, "project": "demo"})
            api.post("/sites", json={"slug": "crafted-names", "project": "demo", "hostnames": [text]})
            api.post("/projects", json={"name": text, "source": text, "settings": text, "wsgi": text})
    text = files_that_programs_read(platform)
    for crumb in ("exec://", "%2e", "etc/passwd", "100%abc", "crafted-names", "Host: y"):
        assert crumb not in text


@pytest.mark.parametrize(
    "hostname", ["nobody.localhost", "..", "alpha.localhost/../beta.localhost", 'x";', "127.0.0.1", "%2e%2e"]
)
def test_a_hostname_of_no_site_is_answered_by_no_site(platform: Any, hostname: str) -> None:
    import socket

    with socket.create_connection(("127.0.0.1", platform.http_port), timeout=10) as raw:
        raw.sendall(f"GET / HTTP/1.1\r\nHost: {hostname}\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: raw.recv(65536), b""))
    assert answer == b"" or answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 421 ", b"HTTP/1.1 404 ")), answer[:200]


def test_the_api_wants_a_token(platform: Any) -> None:
    import httpx

    with platform.api() as api:
        base = str(api.base_url)
    for headers in ({}, {"Authorization": "Bearer tnt_wrong"}, {"Authorization": "Basic YTpi"}):
        answer = httpx.get(f"{base}sites", headers=headers, trust_env=False)
        assert answer.status_code == 401
