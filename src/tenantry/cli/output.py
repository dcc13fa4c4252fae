"""How answers look: JSON for programs, tables and short lines for people."""

import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TextIO

UNBOUNDED_COLUMNS = 10_000  # into a pipe nothing is cut: `grep` must see whole values
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
    "deleting": "yellow",
    "lagging": "yellow",
    "warning": "yellow",
    "failed": "red",
    "lost": "red",
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

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]], empty: str, keep: Sequence[str]) -> None:
        """Print rows under `columns`, each on one line. What does not fit is cut in columns that are not in `keep`."""
        if not rows:
            self.line(empty, "dim")
            return
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for column in columns:
            table.add_column(
                column.upper(), no_wrap=True, overflow="ellipsis", min_width=_least(column, keep, rows, columns)
            )
        for row in rows:
            cells = [printable("-" if cell is None or cell == "" else cell).replace("\n", " ") for cell in row]
            table.add_row(*[Text(cell, style=COLOURS.get(cell, "")) for cell in cells])
        _console().print(table)

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


def _least(column: str, keep: Sequence[str], rows: Sequence[Sequence[object]], columns: Sequence[str]) -> int:
    """The narrowest a column may become: its widest value when it is kept whole, else 8."""
    widest = max(len(str(row[columns.index(column)] or "-")) for row in rows)
    return max(len(column), widest if column in keep else min(widest, 8))


def _console() -> Any:
    from rich.console import Console

    if sys.stdout.isatty():
        return Console(highlight=False, no_color=not wants_colour(sys.stdout) or None)
    return Console(highlight=False, width=UNBOUNDED_COLUMNS, no_color=True)
