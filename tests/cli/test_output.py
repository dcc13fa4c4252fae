"""Text for people: times, tables that never wrap, control characters that are shown and not obeyed."""

import contextlib
import fcntl
import io
import os
import pty
import struct
import sys
import termios
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from tenantry.cli.output import Output, ago, printable, took

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("before", "said"),
    [
        (timedelta(milliseconds=300), "just now"),
        (timedelta(seconds=-5), "just now"),
        (timedelta(seconds=59), "59 s ago"),
        (timedelta(seconds=60), "1 min ago"),
        (timedelta(minutes=119), "1 h ago"),
        (timedelta(hours=24), "1 d ago"),
        (timedelta(days=29), "29 d ago"),
        (timedelta(days=31), "2026-01-29"),
    ],
)
def test_ago(before: timedelta, said: str) -> None:
    assert ago((NOW - before).isoformat(), NOW) == said


def test_ago_of_nothing_and_of_what_is_no_time() -> None:
    assert ago(None) == "never"
    assert ago("\x1b[31mtomorrow") == "\\x1b[31mtomorrow"
    assert ago("2026-03-01T11:59:30Z", NOW) == "30 s ago"


@pytest.mark.parametrize(("seconds", "said"), [(0.842, "0.84 s"), (12.34, "12.3 s"), (125, "2 min 5 s")])
def test_took(seconds: float, said: str) -> None:
    assert took(timedelta(seconds=seconds)) == said


def test_control_characters_are_shown_not_obeyed() -> None:
    assert printable("a\x1b]0;title\x07\tb\r\x9b") == "a\\x1b]0;title\\x07\tb\\x0d\\x9b"


ROWS = [
    ("alpha", "serving", "demo-1", "http://alpha.localhost:8080"),
    ("b" * 40, "failed", "a-project-with-a-long-name-12", "http://" + "b" * 60 + ".example.org:8080"),
    ("x", "[red]", "\x1b[2J", None),
]


def print_table() -> None:
    Output(as_json=False).table(("slug", "state", "release", "url"), ROWS, "none", keep=("slug", "state"))


def test_into_a_pipe_a_table_is_whole_and_plain(capsys: pytest.CaptureFixture[str]) -> None:
    print_table()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(ROWS)
    assert "http://" + "b" * 60 + ".example.org:8080" in lines[2]
    assert lines[3].split() == ["x", "[red]", "\\x1b[2J", "-"]
    assert "\x1b" not in "".join(lines)


def on_a_terminal(columns: int, show: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> str:
    """What `show` writes to a real terminal of that width."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with io.open(theirs, "w", encoding="utf-8") as terminal:  # noqa: UP020
        monkeypatch.setattr(sys, "stdout", terminal)
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.setenv("COLUMNS", str(columns))
        show()
        terminal.flush()
    text = b""
    with contextlib.suppress(OSError):  # how a terminal without another end says that nothing is left
        while piece := os.read(ours, 65536):
            text += piece
    os.close(ours)
    return text.decode()


@pytest.mark.parametrize("columns", [80, 120])
def test_on_a_terminal_each_row_is_one_line_and_the_kept_columns_are_whole(
    columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    lines = on_a_terminal(columns, print_table, monkeypatch).replace("\r", "").rstrip("\n").split("\n")
    assert len(lines) == 1 + len(ROWS)
    assert max(map(len, lines)) <= columns
    assert "b" * 40 in lines[2]
    assert "…" in lines[2]
    assert "\x1b[3" not in "".join(lines), "NO_COLOR is respected"


def test_a_column_without_room_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    lines = on_a_terminal(60, print_table, monkeypatch).replace("\r", "").rstrip("\n").split("\n")
    assert lines[0].split() == ["SLUG", "STATE", "RELEASE"]
    assert max(map(len, lines)) <= 60


def test_states_have_colours_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    text = on_a_terminal(100, print_table, monkeypatch)
    assert "\x1b[32mserving" in text
    assert "\x1b[31mfailed" in text


def test_an_empty_table_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    Output(as_json=False).table(("slug",), [], "No site yet.", keep=())
    assert capsys.readouterr().out == "No site yet.\n"


def test_a_card_puts_list_values_under_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    Output(as_json=False).card([("slug", "blog"), ("hostnames", ["a.b", "c.d"]), ("error", None)])
    assert capsys.readouterr().out.splitlines() == [
        "slug       blog",
        "hostnames  a.b",
        "           c.d",
        "error      -",
    ]
