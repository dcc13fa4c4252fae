"""nginx as rendered, with a real site behind it: names, headers, files, pages."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from node_lab import AS_ROOT, Node, wait_until


def test_names_are_matched_whole_and_whatever_their_case(blog: Node) -> None:
    assert blog.page("BLOG.localhost")["request"]["HTTP_HOST"] == "blog.localhost"
    assert blog.page("blog.localhost:1234")["request"]["HTTP_HOST"] == "blog.localhost:1234"
    for other in ("log.localhost", "blog.localhost.example.org", "x.blog.localhost", "localhost", "127.0.0.1"):
        status, headers, body = blog.get(other)
        assert status == 404
        assert body == b"No site answers to this name here.\n"
        assert headers["connection"] == "close"


@pytest.mark.parametrize(
    "host",
    [
        "../sites/blog",
        "%2e%2e",
        "blog.localhost/../x",
        "blog$x",
        '"; }',
        "_blog",
        ".",
        "..",
        "bl\\og",
        "blog*",
        "\xff",
        "",
    ],
)
def test_malformed_names_get_no_answer_of_a_site(blog: Node, host: str) -> None:
    answer = blog.raw(b"GET / HTTP/1.1\r\nHost: " + host.encode("latin-1") + b"\r\nConnection: close\r\n\r\n")
    assert answer == b"" or answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 404 "))
    assert b"blog" not in answer


def test_a_full_address_in_the_request_line_decides_and_the_application_sees_it(blog: Node) -> None:
    request = b"GET http://blog.localhost/x HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
    body = json.loads(blog.raw(request).split(b"\r\n\r\n", 1)[1])
    assert body["request"]["HTTP_HOST"] == "blog.localhost"


def test_what_visitors_claim_about_themselves_is_replaced(blog: Node) -> None:
    claimed = {
        "X-Forwarded-For": "6.6.6.6", "X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "https",
        "X-Forwarded-Port": "443", "X-Forwarded-Ssl": "on", "X-Real-IP": "6.6.6.6", "Forwarded": "for=6.6.6.6",
        "X-Script-Name": "/evil", "Proxy": "http://evil.example", "X-Original-Url": "/evil", "X_Forwarded_Host": "evil",
    }  # fmt: skip
    request = blog.page(f"blog.localhost:{blog.port}", headers=claimed)["request"]
    assert request["HTTP_HOST"] == request["HTTP_X_FORWARDED_HOST"] == f"blog.localhost:{blog.port}"
    assert request["HTTP_X_FORWARDED_FOR"] == request["HTTP_X_REAL_IP"] == "127.0.0.1"
    assert request["HTTP_X_FORWARDED_PROTO"] == "http"
    assert request["HTTP_X_FORWARDED_PORT"] == str(blog.port)
    assert not [value for value in request.values() if "evil" in value or "6.6.6" in value]


def test_a_port_that_is_none_is_left_out(blog: Node) -> None:
    answer = blog.raw(b"GET / HTTP/1.1\r\nHost: blog.localhost:80x\r\nConnection: close\r\n\r\n")
    assert b'"HTTP_HOST": "blog.localhost"' in answer or answer.startswith(b"HTTP/1.1 400 ")


def test_static_files_come_from_the_disk_and_the_rest_from_the_application(blog: Node) -> None:
    static = blog.home / "releases" / "demo-1" / "static"
    (static / "app.0123456789ab.js").write_text("1")
    status, headers, body = blog.get("blog.localhost", "/static/style.css")
    assert (status, headers["content-type"], body) == (200, "text/css", b"/* demo-1 */")
    assert headers["x-content-type-options"] == "nosniff"
    assert "immutable" in blog.get("blog.localhost", "/static/app.0123456789ab.js")[1]["cache-control"]
    for path in ("/static/missing.css", "/static/", "/staticx"):
        assert blog.page("blog.localhost", path)["path"] == path
    assert (
        blog.page("blog.localhost", "/static/style.css", method="POST", body=b"x")["request"]["REQUEST_METHOD"]
        == "POST"
    )


def test_uploads_are_served_harmless(blog: Node) -> None:
    media = blog.home / "data" / "blog" / "media"
    (media / "evil.html").write_text("<script>alert(1)</script>")
    (media / "evil.html").chmod(0o644)
    status, headers, body = blog.get("blog.localhost", "/media/evil.html")
    assert (status, body) == (200, b"<script>alert(1)</script>")
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"].startswith("sandbox; default-src 'none'")
    assert blog.page("blog.localhost", "/media/none.png")["path"] == "/media/none.png"


def test_links_among_uploads_lead_nowhere(blog: Node) -> None:
    media = blog.home / "data" / "blog" / "media"
    outside = blog.home / "outside"
    outside.mkdir(mode=0o755)
    (outside / "secret.txt").write_text("top secret")
    (outside / "secret.txt").chmod(0o644)
    (media / "passwd").symlink_to("/etc/passwd")
    (media / "secret.txt").symlink_to(outside / "secret.txt")
    (media / "dir").symlink_to(outside)
    (media / "relative").symlink_to("../../../outside")
    (blog.home / "releases" / "demo-1" / "static" / "passwd").symlink_to("/etc/passwd")
    for path in (
        "/media/passwd", "/media/secret.txt", "/media/dir/secret.txt", "/media/relative/secret.txt", "/static/passwd",
        "/media/../../../etc/passwd", "/media/%2e%2e/site.1.json", "/static/../site.1.json", "/media/..%2fsite.1.json",
    ):  # fmt: skip
        body = blog.raw(f"GET {path} HTTP/1.1\r\nHost: blog.localhost\r\nConnection: close\r\n\r\n".encode())
        assert b"top secret" not in body
        assert b"root:x:" not in body
        assert b'"argv"' not in body


def test_an_application_cannot_make_nginx_read_a_neighbours_files(serving: Node) -> None:
    """A path without a slash would be put right behind the site's own hostname."""
    answer = "def application(environ, start_response):\n    start_response('200 OK', [('X-Accel-Redirect', "
    answer += "environ['HTTP_X_TEST'] if 'HTTP_X_TEST' in environ else '')]); return [b'mine']\n"
    serving.release("hostile-1", answer)
    serving.reported("evil", serving.put(serving.document("evil", 1, "hostile-1", hostnames=["evil.example.co"])))
    serving.reported("blog", serving.put(serving.document("blog", 2, "demo-1", hostnames=["evil.example.com"])))
    (serving.home / "data" / "blog" / "media" / "private.txt").write_text("private")
    for path in ("m/media/private.txt", "/media/x", "@unknown", "/static/style.css"):
        request = f"GET / HTTP/1.1\r\nHost: evil.example.co\r\nX-Test: {path}\r\nConnection: close\r\n\r\n"
        assert b"mine" in serving.raw(request.encode())


def test_a_wildcards_place_leads_whoever_has_no_name_of_his_own(serving: Node) -> None:
    serving.release(
        "other-1", "def application(environ, start_response):\n    start_response('200 OK', []); return [b'own']\n"
    )
    serving.reported("blog", serving.put(serving.document("blog", 1, "demo-1")))
    serving.reported("other", serving.put(serving.document("other", 2, "other-1", hostnames=["a.example.org"])))
    serving.stop("agent")  # nothing makes such a place yet: it would remove it
    (serving.home / "run" / "hosts" / "_.example.org").symlink_to("../sites/blog")
    assert serving.get("a.example.org")[2] == b"own"
    assert json.loads(serving.get("b.example.org")[2])["path"] == "/"
    assert [serving.get(name)[0] for name in ("a.b.example.org", "example.org")] == [404, 404]


def test_a_project_may_serve_its_uploads_itself(serving: Node) -> None:
    serving.reported("blog", serving.put(serving.document("blog", 1, "demo-1")))
    (serving.home / "data" / "blog" / "media" / "private.txt").write_text("private")
    changes = {"release_changes": {"serve_media": False, "static": None}}
    serving.reported("blog", serving.put(serving.document("blog", 1, "demo-1", generation=2, **changes)))
    for path in ("/media/private.txt", "/static/style.css"):
        assert serving.page("blog.localhost", path)["path"] == path


def test_files_of_the_platform_are_no_pages(blog: Node) -> None:
    for path in ("/site.1.json", "/app.sock", "/1.sock", "/mode.maintenance"):
        assert blog.page("blog.localhost", path)["path"] == path


def test_a_site_that_is_away_gets_a_short_page(serving: Node) -> None:
    serving.reported("blog", serving.put(serving.document("blog", 1, "demo-1")))
    serving.stop("agent")
    serving.stop("emperor", signal.SIGKILL)
    (serving.home / "run" / "sites" / "blog" / "1.sock").unlink()
    status, headers, body = serving.get("blog.localhost")
    assert status == 503
    assert headers["retry-after"] == "5"
    assert headers["cache-control"] == "no-store"
    assert b"not answering right now" in body
    assert b"nginx" not in body


def test_the_flags_of_a_mode_act_at_once(blog: Node) -> None:
    site = blog.home / "run" / "sites" / "blog"
    (site / "mode.readonly").touch()
    assert blog.get("blog.localhost")[0] == 200
    assert blog.get("blog.localhost", method="POST", body=b"x")[0] == 503
    (site / "mode.maintenance").touch()
    status, headers, _ = blog.get("blog.localhost")
    assert (status, headers["retry-after"]) == (503, "120")
    (site / "mode.maintenance").unlink()
    (site / "mode.readonly").unlink()
    assert blog.get("blog.localhost", method="POST", body=b"x")[0] == 200


def test_large_requests_and_long_headers_pass(blog: Node) -> None:
    for _ in range(20):  # the application does not read the body: its answer must arrive all the same
        assert blog.get("blog.localhost", method="POST", body=b"x" * 3_000_000)[0] == 200
    assert blog.get("blog.localhost", "/" + "q" * 7000, headers={"X-Long": "y" * 7000})[0] == 200
    answer = blog.raw(b"POST / HTTP/1.1\r\nHost: blog.localhost\r\nContent-Length: 200000000\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_the_access_log_names_the_site(blog: Node) -> None:
    blog.get("blog.localhost", "/logged?a=%22%3B")
    log = blog.home / "logs" / "access.log"
    line = wait_until(lambda: [text for text in log.read_text().splitlines() if "/logged" in text], 5)[0]
    entry = json.loads(line)
    assert (entry["site"], entry["host"], entry["status"]) == ("blog", "blog.localhost", 200)


def test_nginx_says_how_it_is_to_this_machine(blog: Node) -> None:
    status, _, body = blog.get("_status", "/nginx")
    assert (status, body.startswith(b"Active connections")) == (200, True)


@pytest.mark.skipif(not AS_ROOT, reason="needs root to run sites under users of their own")
def test_a_site_reaches_nothing_of_its_neighbour(blog: Node) -> None:
    blog.reported("spy", blog.put(blog.document("spy", 2, "demo-1")))
    home = blog.home
    (home / "data" / "blog" / "media" / "photo.jpg").write_text("x")
    targets: list[Path] = [
        home / "run" / "sites" / "blog" / "1.sock",
        home / "run" / "sites" / "spy" / "1.sock",
        home / "run" / "sites" / "blog" / "site.1.json",
        home / "run" / "sites" / "spy" / "site.1.json",
        home / "run" / "sites",
        home / "run" / "hosts",
        home / "run" / "vassals",
        home / "run" / "emperor.sock",
        home / "data" / "blog" / "media",
        home / "data" / "blog" / "media" / "photo.jpg",
        home / "data" / "blog" / "home",
        home / "logs" / "sites" / "blog.log",
        home / "state" / "head.json",
    ]
    script = (
        "import os, socket, sys\n"
        "for path in sys.argv[1:]:\n"
        "    try:\n"
        "        if path.endswith('.sock'):\n"
        "            socket.socket(socket.AF_UNIX).connect(path)\n"
        "        elif os.path.isdir(path): os.listdir(path)\n"
        "        else: open(path).read()\n"
        "        print('REACHED', path)\n"
        "    except OSError: pass\n"
        "pid = int(sys.stdin.read())\n"
        "for name in ('environ', 'fd', 'mem'):\n"
        "    try:\n"
        "        os.listdir(f'/proc/{pid}/fd') if name == 'fd' else open(f'/proc/{pid}/{name}').read(1)\n"
        "        print('READ', name)\n"
        "    except OSError: pass\n"
        "try: os.kill(pid, 0); print('SIGNALLED')\n"
        "except OSError: pass\n"
    )
    pid = blog.page("blog.localhost")["pid"]
    command = blog.python("exec", "--config", str(blog.config), "spy", "--", "python", "-c", script)
    done = subprocess.run(
        [*command, *map(str, targets)], input=str(pid).encode(), capture_output=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout.decode()) == (0, ""), done.stderr


def test_crafted_values_stay_in_the_document(serving: Node) -> None:
    crafted = {
        "A": '"; } server { listen 1; }', "B": "two\nlines = 1", "C": "@(exec://touch /tmp/owned)", "D": "$(HOME)",
        "E": "%(home)", "F": "100%abc", "G": "${DATABASE_URL}", "H": "'; DROP TABLE x;--",
        "UWSGI_EXEC": "x", "LD_PRELOAD": "x",
        "TENANTRY_SITE": "other", "PATH": "/evil", "I": "ünï ☃",
    }  # fmt: skip
    serving.reported("blog", serving.put(serving.document("blog", 1, "demo-1", environment=crafted)))
    seen = serving.page("blog.localhost")["environment"]
    for name in "ABCDEFHI":
        assert seen[name] == crafted[name]
    assert seen["G"] == seen["DATABASE_URL"]
    assert seen["TENANTRY_SITE"] == "blog"
    assert not {"UWSGI_EXEC", "LD_PRELOAD"} & seen.keys()
    assert "/evil" not in seen["PATH"]
    needles = ["exec://", "two\\nlines", "DROP TABLE", "listen 1;"]
    holders = {
        path.relative_to(serving.home).as_posix()
        for path in serving.home.rglob("*")
        if path.is_file() and not path.is_symlink() and "releases" not in path.parts
        for text in [path.read_text(errors="replace")]
        if any(needle in text for needle in needles)
    }
    assert holders == {"run/sites/blog/site.1.json"}
    assert not os.path.exists("/tmp/owned")


@pytest.mark.parametrize(
    "changes",
    [
        {"slug": '"; }'},
        {"slug": "a\nb"},
        {"hostnames": ["@(exec://id)"]},
        {"hostnames": ["../../etc/x.y"]},
        {"hostnames": ["a b.c"]},
        {"health_path": "/\r\nX: y"},
        {"generation": "1; }"},
        {"release_changes": {"name": "../../x-1"}},
        {"release_changes": {"static": "../../../etc"}},
        {"release_changes": {"manage": "../../../etc/x"}},
        {"database": "site_1; DROP"},
    ],
)
def test_crafted_documents_write_nothing(blog: Node, changes: dict[str, object]) -> None:
    run = blog.home / "run"
    before = sorted(str(p) for p in run.rglob("*"))
    blog.put(blog.document(str(changes.pop("slug", "bad")), 2, "demo-1", **changes))
    revision = blog.put(blog.document("good", 3, "demo-1"))
    blog.reported("good", revision)
    time.sleep(0.1)
    left = [p for p in sorted(str(p) for p in run.rglob("*")) if p not in before and "good" not in p]
    assert [p for p in left if not p.startswith((f"{run}/sites/bad", f"{blog.home}/data/bad"))] == []
    assert not list((run / "vassals").glob("bad*"))
