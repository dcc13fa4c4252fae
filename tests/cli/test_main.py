"""Exit codes and error lines: what a person and a script see when something is wrong."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tenantry.cli import errors
from tenantry.cli.client import refusal
from tenantry.cli.connection import Connection

PROBLEM = "application/problem+json"


def problem(status: int, detail: str, *fields: tuple[str, str]) -> dict[str, Any]:
    document: dict[str, Any] = {"title": "No", "status": status, "detail": detail}
    if fields:
        document["errors"] = [{"field": field, "message": message} for field, message in fields]
    return document


def lines_of(text: str) -> list[str]:
    assert "Traceback" not in text
    return text.rstrip("\n").split("\n")


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (400, errors.Refused, 1),
        (401, errors.Unauthorized, 1),
        (403, errors.Unauthorized, 1),
        (404, errors.NotFound, 1),
        (409, errors.Refused, 1),
        (412, errors.Refused, 1),
        (413, errors.Refused, 1),
        (422, errors.InvalidInput, 2),
        (500, errors.Refused, 1),
        (502, errors.Refused, 1),
        (503, errors.Refused, 1),
    ],
)
@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"detail": "why"}', b'{"errors": "no list"}'])
def test_every_status_has_its_error_whatever_the_body(
    status: int, kind: type[errors.CliError], code: int, body: bytes
) -> None:
    error = refusal(status, body, Connection("http://x", "t", "here"))
    assert type(error) is kind
    assert error.exit_code == code
    assert error.lines()[0]
    assert "<html>" not in str(error)


def test_every_error_of_the_tree_is_drawn_with_its_exit_code() -> None:
    drawn = {name: int(code) for name, code in re.findall(r"^[├└─│ ]*(\w+) +(\d) ", errors.__doc__ or "", re.MULTILINE)}
    found = {
        name: kind.exit_code
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.CliError)
    }
    assert drawn == found


def test_a_422_names_each_field_and_exits_2(cli: Any, stub: Any) -> None:
    stub.answer(
        "POST", "/api/v1/sites", 422, problem(422, "x", ("slug", "taken."), ("hostnames", "too many.")), PROBLEM
    )
    done = cli("site", "create", "blog", "--project", "demo")
    assert (done.code, done.out) == (2, "")
    assert lines_of(done.err) == ["error: slug: taken.", "       hostnames: too many."]


def test_a_conflict_and_an_unknown_name_exit_1(cli: Any, stub: Any) -> None:
    stub.answer("POST", "/api/v1/sites", 409, problem(409, "The slug is taken.", ("slug", "taken")), PROBLEM)
    stub.answer("GET", "/api/v1/sites/blog", 404, problem(404, "There is no site «blog»."), PROBLEM)
    assert cli("site", "create", "blog", "--project", "demo").code == 1
    done = cli("site", "show", "blog", "--json")
    assert (done.code, done.out, done.err) == (1, "", "error: There is no site «blog».\n")


def test_a_refused_token_says_where_it_came_from(cli: Any, stub: Any) -> None:
    stub.answer("GET", "/api/v1/whoami", 401, problem(401, "The token is not valid."), PROBLEM)
    done = cli("whoami")
    assert done.code == 1
    assert "TENANTRY_URL" in done.err
    assert len(lines_of(done.err)) == 2


@pytest.mark.parametrize(
    ("words", "field"),
    [
        (("site", "create", 'a"; }', "--project", "demo"), "slug"),
        (("site", "create", "a\nb", "--project", "demo"), "slug"),
        (("site", "create", "", "--project", "demo"), "slug"),
        (("site", "create", "пример", "--project", "demo"), "slug"),
        (("site", "create", "a" * 41, "--project", "demo"), "slug"),
        (("site", "create", "api", "--project", "demo"), "slug"),
        (("site", "create", "%2e%2e", "--project", "demo"), "slug"),
        (("site", "create", "blog", "--project", "$(HOME)"), "project"),
        (("site", "create", "blog", "--project", "demo", "--hostname", "@(exec://id).org"), "hostname"),
        (("site", "create", "blog", "--project", "demo", "--hostname", "пример.рф"), "hostname"),
        (("site", "create", "blog", "--project", "demo", "--env", "=x"), "environment"),
        (("site", "create", "blog", "--project", "demo", "--env", "NOT_SET_ANYWHERE"), "environment"),
        (("site", "show", "../projects/demo"), "slug"),
        (("site", "delete", "a/hostnames/b.c", "--confirm", "a/hostnames/b.c"), "slug"),
        (("release", "show", "demo"), "release"),
        (("release", "show", "demo-0"), "release"),
        (("hostname", "remove", "blog", "a/../b.org"), "hostname"),
        (("node", "show", "../sites"), "name"),
        (("project", "add", "", "--name", "x"), "source"),
        (("site", "update", "blog"), "options"),
    ],
)
def test_invalid_input_exits_2_and_names_the_field_before_anything_is_sent(
    cli: Any, stub: Any, words: tuple[str, ...], field: str
) -> None:
    done = cli(*words)
    assert (done.code, done.out) == (2, "")
    assert lines_of(done.err)[0].startswith(f"error: {field}: ")
    assert stub.requests == []


@pytest.mark.parametrize(
    "words",
    [("site",), ("bogus",), ("site", "create"), ("site", "create", "blog"), ("site", "list", "--bogus"), ("site", "x")],
)
def test_a_command_line_that_is_wrong_exits_2(cli: Any, words: tuple[str, ...]) -> None:
    done = cli(*words)
    assert done.code == 2
    assert done.err
    assert "Traceback" not in done.err


def test_the_suggestion_of_a_misspelt_command(cli: Any) -> None:
    assert "create" in cli("site", "creat", "blog").err


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def test_nobody_answers(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("TENANTRY_URL", url)
    monkeypatch.setenv("TENANTRY_TOKEN", "tnt_x")
    done = cli("site", "list")
    assert done.code == 1
    assert lines_of(done.err) == [
        f"error: The platform at {url} does not answer.",
        "       Run bin/up or set TENANTRY_URL.",
    ]


def test_no_platform_at_all(cli: Any) -> None:
    done = cli("site", "list")
    assert done.code == 1
    assert "no client.json" in lines_of(done.err)[0]


def test_something_else_answers(cli: Any, stub: Any) -> None:
    stub.answer("GET", "/api/v1/whoami", 200, b"<html>hello</html>", "text/html")
    done = cli("whoami")
    assert done.code == 1
    assert "is not Tenantry" in done.err


def test_an_answer_that_breaks_off(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        monkeypatch.setenv("TENANTRY_URL", f"http://127.0.0.1:{listener.getsockname()[1]}")
        monkeypatch.setenv("TENANTRY_TOKEN", "tnt_x")

        def half_an_answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n[1,")

        thread = threading.Thread(target=half_an_answer)
        thread.start()
        done = cli("whoami")
        thread.join()
    assert done.code == 1
    assert "does not answer" in done.err


def test_what_the_platform_says_is_shown_not_obeyed(cli: Any, stub: Any) -> None:
    stub.answer("GET", "/api/v1/whoami", 409, problem(409, "bad \x1b]0;owned\x07"), PROBLEM)
    assert "\x1b" not in cli("whoami").err


def test_the_token_goes_into_the_header(cli: Any, stub: Any) -> None:
    stub.answer("GET", "/api/v1/whoami", 200, {"name": "admin"})
    done = cli("whoami", "--json")
    assert done.document() == {"name": "admin"}
    assert stub.requests[0][2]["Authorization"] == "Bearer tnt_test"


def test_home_is_taken_before_and_after_the_noun(cli: Any, tmp_path: Path) -> None:
    for words in (("--home", str(tmp_path / "a"), "site", "list"), ("site", "list", "--home", str(tmp_path / "a"))):
        assert str(tmp_path / "a") in cli(*words).err


def program(*words: str, **variables: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "tenantry.cli.main", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **variables},
    )


def test_ctrl_c_exits_130_without_a_traceback() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        process = program("event", "follow", TENANTRY_URL=url, TENANTRY_TOKEN="tnt_x")
        connection, _ = listener.accept()  # it waits for an answer now
        with connection:
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert err == ""


def test_a_reader_that_goes_away_is_no_traceback(stub: Any) -> None:
    rows = [{"name": f"h{n}.example.org", "site": "blog"} for n in range(5000)]
    stub.answer("GET", "/api/v1/hostnames", 200, rows)
    process = program("hostname", "list")
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read()
    process.stderr.close()
    process.wait(timeout=10)
    assert err == ""


def test_a_command_imports_little() -> None:
    """`site create` pays for what it uses: each of these would add 50 to 150 ms to every command."""
    code = (
        "import sys; from tenantry.cli.main import run;"
        " run(['site', 'create', 'blog', '--project', 'demo']); print(*sorted(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    loaded = set(done.stdout.split())
    assert "tenantry.cli.sites" in loaded
    assert not loaded & {"httpx", "rich", "django", "asyncio", "tenantry.cli.doctor", "tenantry.cli.projects"}
    assert not [name for name in loaded if name.startswith(("tenantry.control", "tenantry.node", "tenantry.embedded"))]
