"""Modes through a whole platform: the command line, nginx, standby, the demo's own process."""

import socket
import time
from typing import Any

from tenantry.spec.uwsgi import encode_packet


def test_a_site_is_closed_explained_visited_by_link_and_opened(platform: Any) -> None:
    platform.tenantry("site", "mode", "beta", "maintenance", "--message", "Moving <house>", "--wait")
    closed = platform.get("beta.localhost")
    assert (closed.status_code, closed.headers["Retry-After"]) == (503, "120")
    assert "Moving &lt;house&gt;" in closed.text
    link = platform.json("site", "bypass", "beta", "--hours", "1")["url"]
    with platform.visitor("beta.localhost") as visitor:
        assert visitor.get(link.partition(f":{platform.http_port}")[2]).status_code == 303
        cookie = {"Cookie": platform.json("site", "bypass", "beta")["cookie"]}
        assert visitor.get("/", headers=cookie).status_code == 200
        platform.tenantry("site", "bypass", "beta", "--revoke", "--wait")
        assert visitor.get("/").status_code == visitor.get("/", headers=cookie).status_code == 503
        visitor.cookies.clear()
        cookie = {"Cookie": platform.json("site", "bypass", "beta")["cookie"]}
        assert visitor.get("/", headers=cookie).status_code == 200
    # The process itself, past nginx: of a request that was on its way when the mode changed.
    answer = ask_process(platform, "beta")
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"Moving &lt;house&gt;" in answer
    platform.up()  # a site that somebody closed is no reason to stop everything
    assert f"beta.localhost:{platform.http_port}/ (maintenance)" in platform.up_output
    platform.tenantry("site", "mode", "beta", "live", "--wait")
    assert platform.get("beta.localhost").status_code == 200
    assert ask_process(platform, "beta").startswith(b"HTTP/1.1 200 ")


def test_a_mode_ends_at_its_time(platform: Any) -> None:
    until = time.time() + 3
    moment = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(until))
    platform.tenantry("site", "mode", "gamma", "paused", "--until", moment, "--wait")
    closed = platform.get("gamma.localhost")
    if time.time() < int(until) - 1:
        assert closed.status_code == 503
        assert 1 <= int(closed.headers["Retry-After"]) <= 3
    platform.eventually(lambda: platform.get("gamma.localhost").status_code == 200)
    assert time.time() >= int(until)
    shown = platform.json("site", "show", "gamma")
    assert (shown["mode"], shown["mode_options"]["until"]) == ("live", None)


def ask_process(platform: Any, slug: str) -> bytes:
    """Ask a site's process through its own socket, as a server in front of it would."""
    variables = {
        "REQUEST_METHOD": "GET", "PATH_INFO": "/", "REQUEST_URI": "/", "SERVER_NAME": f"{slug}.localhost",
        "SERVER_PORT": "80", "SERVER_PROTOCOL": "HTTP/1.1", "HTTP_HOST": f"{slug}.localhost", "QUERY_STRING": "",
    }  # fmt: skip
    directory = platform.home / "run" / "sites" / slug
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(20)
        asking.connect(str(directory / (directory / "app.sock").readlink()))
        asking.sendall(encode_packet(variables))
        return b"".join(iter(lambda: asking.recv(65_536), b""))
