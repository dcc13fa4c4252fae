"""How answers look: JSON for programs, tables and short lines for people."""

import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TextIO

UNBOUNDED_COLUMNS = 1_000_000
LEAST_COLUMN = 8  # a cut value of fewer characters says nothing
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400

COLOURS = {
    "ready": "green",
    "serving": "green",
    "ok": "green",
    "live": "green",
    "current": "green",
    "provisioning": "yellow",
    "building": "yellow",
    "queued": "yellow",
    "starting": "yellow",
    "joining": "yellow",
    "deleting": "yellow",
    "warning": "yellow",
    "failed": "red",
    "silent": "red",
    "absent": "red",
    "revoked": "red",
}
_SGR = {"green": "32", "yellow": "33", "red": "31", "dim": "2", "bold": "1"}


def printable(text: object) -> str:
    """`text` with control characters shown, not obeyed: messages and logs come from other people's programs."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found.group()):02x}", str(text))


def ago(moment: str | None, now: datetime | None = None) -> str:
    """An ISO time as a person says it: «12 s ago», «3 h ago», a date when older than 30 days; «never» for None."""
    if not moment:
        return "never"
    try:
        then = datetime.fromisoformat(moment)
    except ValueError:
        return printable(moment)
    then = then if then.tzinfo else then.replace(tzinfo=UTC)
    seconds = ((now or datetime.now(UTC)) - then).total_seconds()
    if seconds < 1:
        return "just now"
    if seconds < _MINUTE:
        return f"{int(seconds)} s ago"
    if seconds < _HOUR:
        return f"{int(seconds / _MINUTE)} min ago"
    if seconds < _DAY:
        return f"{int(seconds / _HOUR)} h ago"
    if seconds < 30 * _DAY:
        return f"{int(seconds / _DAY)} d ago"
    return then.astimezone().strftime("%Y-%m-%d")


def took(duration: timedelta) -> str:
    """A duration for people: «0.84 s», «12.3 s», «2 min 5 s»."""
    seconds = duration.total_seconds()
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < _MINUTE:
        return f"{seconds:.1f} s"
    return f"{int(seconds // _MINUTE)} min {int(seconds % _MINUTE)} s"


def wants_colour(stream: TextIO) -> bool:
    """Colours go to terminals only, and to none when NO_COLOR is set or TERM is dumb."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, colour: str, stream: TextIO) -> str:
    """`text` in a colour where the stream takes colours."""
    return f"\x1b[{_SGR[colour]}m{text}\x1b[0m" if colour in _SGR and wants_colour(stream) else text


class Output:
    """Where a command writes. With `as_json`, stdout carries the document alone; remarks go to stderr or nowhere."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json

    def result(self, document: Any, show: Callable[[], None]) -> None:
        """Print the command's result: the document as JSON, or whatever `show` prints for a person."""
        if self.as_json:
            print(json.dumps(document, indent=2, ensure_ascii=False))
        else:
            show()

    def entry(self, document: Any, line: str) -> None:
        """Print one entry of a stream: a JSON document on one line, or `line`."""
        print(json.dumps(document, ensure_ascii=False) if self.as_json else line, flush=True)

    def line(self, text: str = "", colour: str = "") -> None:
        """Print one line for a person."""
        print(paint(printable(text), colour, sys.stdout))

    def remark(self, text: str, colour: str = "") -> None:
        """Print one line on stderr: progress, warnings, what to do next."""
        print(paint(printable(text), colour, sys.stderr), file=sys.stderr, flush=True)

    def log_entry(self, text: str) -> None:
        """Print a line of a log: raw into a pipe, with control characters shown on a terminal."""
        self.entry({"line": text}, printable(text) if sys.stdout.isatty() else text)

    def tail(self, title: str, log: str | None) -> None:
        """Print the end of a log under a title, set off from the rest; nothing when there is none."""
        if log:
            self.line()
            self.line(f"{title}:", "bold")
            for text in log.rstrip("\n").splitlines():
                self.line(f"  | {text}")

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]], empty: str, keep: Sequence[str]) -> None:
        """Print rows under `columns`, each on one line.

        Where they do not fit, columns that are not in `keep` are cut, then left out from the right.
        """
        if not rows:
            self.line(empty, "dim")
            return
        cells = [[printable("-" if cell in (None, "") else cell).replace("\n", " ") for cell in row] for row in rows]
        room = _columns()
        while (widths := _widths(columns, cells, keep, room)) is None:
            leave = max(index for index, column in enumerate(columns) if column not in keep)
            columns = [column for index, column in enumerate(columns) if index != leave]
            cells = [[cell for index, cell in enumerate(row) if index != leave] for row in cells]
        heading = "  ".join(_fit(column.upper(), width) for column, width in zip(columns, widths, strict=True))
        print(paint(heading.rstrip(), "bold", sys.stdout))
        for row in cells:
            last = len(row) - 1
            pieces = [
                paint(_fit(cell, width, pad=index != last), COLOURS.get(cell, ""), sys.stdout)
                for index, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            print("  ".join(pieces))

    def card(self, pairs: Sequence[tuple[str, object]]) -> None:
        """Print one thing: a name and a value on each line, the values under each other; lists one value a line."""
        width = max(len(name) for name, _ in pairs)
        for name, value in pairs:
            values = value if isinstance(value, list | tuple) else [value]
            for index, single in enumerate(values or ["-"]):
                text = "-" if single is None or single == "" else printable(single)
                label = name if index == 0 else ""
                print(
                    f"{paint(label.ljust(width), 'bold', sys.stdout)}  {paint(text, COLOURS.get(text, ''), sys.stdout)}"
                )


def _columns() -> int:
    """How wide a line may be. Into a pipe nothing is cut: `grep` must see whole values."""
    if not sys.stdout.isatty():
        return UNBOUNDED_COLUMNS
    chosen = os.environ.get("COLUMNS", "")
    return int(chosen) if chosen.isdigit() and int(chosen) else os.get_terminal_size(sys.stdout.fileno()).columns


def _widths(columns: Sequence[str], rows: Sequence[Sequence[str]], keep: Sequence[str], room: int) -> list[int] | None:
    """The width of each column: its widest cell, or less for the widest ones that are not in `keep` until all fit.

    None when they cannot fit and a column could be left out.
    """
    widths = [max(len(column), *(len(row[index]) for row in rows)) for index, column in enumerate(columns)]
    least = [
        width if column in keep else min(width, max(len(column), LEAST_COLUMN))
        for column, width in zip(columns, widths, strict=True)
    ]
    excess = sum(widths) + 2 * (len(widths) - 1) - room
    while excess > 0:
        index = max(range(len(widths)), key=lambda one: (widths[one] > least[one], widths[one]))
        if widths[index] <= least[index]:
            return None if any(column not in keep for column in columns) else widths
        widths[index] -= 1
        excess -= 1
    return widths


def _fit(text: str, width: int, *, pad: bool = True) -> str:
    """`text` in exactly `width` columns, cut with an ellipsis; without `pad`, not filled up."""
    if len(text) > width:
        return text[: width - 1] + "…"
    return text.ljust(width) if pad else text
