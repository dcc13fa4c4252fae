"""Modes in the process itself: what is said in a site's place, and when."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from django_tenantry.gate import ModeGate, with_modes
from django_tenantry.modes import ModeState, answer, prefers_json, retry_after

NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", False),
        ("*/*", False),
        ("text/html,application/xhtml+xml,*/*;q=0.8", False),
        ("application/json", True),
        ("application/json, text/plain, */*", True),
        ("application/problem+json;q=0.9, text/html;q=0.5", True),
        ("application/vnd.api+json", True),
        ("text/html, application/json", False),
        ("application/json;q=0", False),
        ("application/json;q=nonsense", False),
        (",;q=,/;=;", False),
    ],
)
def test_json_is_for_those_who_prefer_it(accept: str, expected: bool) -> None:
    assert prefers_json(accept) is expected


@pytest.mark.parametrize(
    ("state", "seconds"),
    [
        (ModeState("maintenance"), 120),
        (ModeState("paused"), None),
        (ModeState("paused", until=NOW + 60), 60),
        (ModeState("maintenance", until=NOW + 0.2), 1),
        (ModeState("maintenance", until=NOW - 50), 1),
        (ModeState("maintenance", until=NOW + 60, retry_after_seconds=7), 7),
        (ModeState("read_only", retry_after_seconds=0), 0),
    ],
)
def test_retry_after_is_what_was_said_else_the_end_else_two_minutes(state: ModeState, seconds: int | None) -> None:
    assert retry_after(state, NOW) == seconds
    headers = answer(state, now=NOW).headers
    assert headers.get("Retry-After") == (None if seconds is None else str(seconds))


def test_a_message_is_text_and_a_page_is_the_sites_own() -> None:
    told = answer(ModeState("maintenance", message="<script>", until=NOW + 90), now=NOW)
    assert b"&lt;script&gt;" in told.body
    assert b"<script>" not in told.body
    assert b"Until 2027-01-15 08:01 UTC." in told.body
    assert told.headers["Content-Length"] == str(len(told.body))
    own = answer(ModeState("maintenance", message="unseen", page="<b>\ud800é</b>"), now=NOW)
    assert own.body == "<b>?é</b>".encode()
    problem = json.loads(answer(ModeState("paused", message="<b>"), accept="application/json", now=NOW).body)
    assert problem == {
        "type": "about:blank", "title": "This site is paused", "status": 503, "detail": "<b>", "mode": "paused",
    }  # fmt: skip


def test_a_document_of_a_newer_platform_closes_the_site_and_nonsense_is_refused() -> None:
    assert ModeState.from_document({"mode": "haunted", "more": 1}).mode == "maintenance"
    for nonsense in (None, [], {}, {"mode": 1}, {"mode": "paused", "until": "soon"}):
        with pytest.raises(ValueError, match=r"mode's document|could not convert"):
            ModeState.from_document(nonsense)


def site(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("200 OK", [])
    return [b"the site"]


def visit(application: Any, method: str = "GET", **environ: str) -> tuple[int, dict[str, str], bytes]:
    answered: list[Any] = []

    def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> None:
        answered[:] = [int(status.split()[0]), dict(headers)]

    body = b"".join(application({"REQUEST_METHOD": method, **environ}, start))
    return answered[0], answered[1], body


def test_the_mode_of_the_file_is_followed_from_request_to_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mode.json"

    def write(document: str) -> None:
        staged = tmp_path / "staged"
        staged.write_text(document)
        staged.rename(path)

    gate = with_modes(site, {"TENANTRY_MODE_FILE": str(path)})
    assert visit(gate)[2] == b"the site"
    write('{"mode": "maintenance", "message": "soon"}')
    status, headers, body = visit(gate)
    assert (status, headers["Retry-After"], b"soon" in body) == (503, "120", True)
    assert visit(gate, "HEAD")[2] == b""
    assert visit(gate, TENANTRY_LET_THROUGH="1")[2] == b"the site"
    assert visit(gate, HTTP_TENANTRY_LET_THROUGH="1")[0] == 503
    write('{"mode": "read_only"}')
    assert visit(gate)[2] == b"the site"
    assert visit(gate, "POST", HTTP_ACCEPT="application/json")[1]["Content-Type"] == "application/problem+json"
    write("damaged")
    assert visit(gate, "POST")[0] == 503
    assert "stays as it was" in capsys.readouterr().err
    write('{"mode": "live"}')
    assert visit(gate, "POST")[2] == b"the site"
    path.unlink()
    assert visit(gate, "POST")[2] == b"the site"


def test_a_process_started_in_a_mode_is_in_it(tmp_path: Path) -> None:
    assert with_modes(site, {}) is site
    assert with_modes(site, {"TENANTRY_MODE": "live"}) is site
    started = with_modes(site, {"TENANTRY_MODE": "paused", "TENANTRY_MODE_FILE": str(tmp_path / "none")})
    assert isinstance(started, ModeGate)
    assert visit(started)[0] == 503
    (tmp_path / "none").write_text('{"mode": "live"}')
    assert visit(started)[2] == b"the site"


def test_a_live_request_costs_one_stat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = with_modes(site, {"TENANTRY_MODE_FILE": str(tmp_path / "mode.json")})
    asked: list[object] = []
    real = os.stat
    monkeypatch.setattr(os, "stat", lambda path, **options: (asked.append(path), real(path, **options))[1])
    visit(gate)
    visit(gate)
    assert asked == [str(tmp_path / "mode.json")] * 2


PROJECT = """
import os, sys
import django
from django.conf import settings
from django.http import HttpResponse
from django.urls import path
from django.db import connection, transaction

def refused(request):
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM pg_authid")

def read_only(request):
    with connection.cursor() as cursor:
        cursor.execute("SET default_transaction_read_only = on")
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (a int)")

def wrong(request):
    raise RuntimeError("a bug of the project's own")

async def later(request):
    from asgiref.sync import sync_to_async
    await sync_to_async(refused)(request)

urlpatterns = [path("refused", refused), path("read_only", read_only), path("wrong", wrong), path("later", later)]
urlpatterns.append(path("", lambda request: HttpResponse("read")))
database = {"ENGINE": "django.db.backends.postgresql", "HOST": os.environ["PGHOST"], "PORT": os.environ["PGPORT"],
            "NAME": "site_17", "USER": "site_17", "PASSWORD": os.environ["PGPASSWORD"]}
settings.configure(ROOT_URLCONF=__name__, DATABASES={"default": database}, SECRET_KEY="x", ALLOWED_HOSTS=["*"],
                   LOGGING_CONFIG=None, USE_TZ=True)
import io, logging
logging.disable()
os.environ["TENANTRY_MODE"] = sys.argv[1]
from django_tenantry.wsgi import application

for path in ("", "refused", "read_only", "later", "wrong"):
    said = []
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/" + path, "SERVER_NAME": "a", "SERVER_PORT": "80",
               "wsgi.input": io.BytesIO(), "wsgi.errors": sys.stderr, "wsgi.url_scheme": "http"}
    answered = application(environ, lambda status, headers, exc_info=None: said.append((status, dict(headers))))
    body = b"".join(answered)
    getattr(answered, "close", lambda: None)()
    print(len(said), said[0][0][:3], said[0][1].get("Retry-After"), b"accepts no changes" in body)
"""


@pytest.mark.parametrize(("mode", "status", "explained"), [("read_only", "503 120 True", True), ("live", "500", False)])
def test_a_page_that_the_database_lets_not_write_is_explained(
    postgres_server: Any, tmp_path: Path, mode: str, status: str, explained: bool
) -> None:
    script = tmp_path / "project.py"
    script.write_text(PROJECT)
    environment = {**postgres_server.environment(), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, str(script), mode], env=environment, capture_output=True, text=True, timeout=60, cwd=tmp_path
    )
    lines = done.stdout.splitlines()
    assert lines[0] == "1 200 None False", done.stderr
    expected = f"1 {status}" if explained else "1 500 None False"
    assert lines[1:4] == [expected] * 3
    assert lines[4] == "1 500 None False"
