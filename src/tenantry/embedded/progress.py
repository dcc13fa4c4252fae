"""What a person sees while things start: a live table on a terminal, a line for each event elsewhere."""

import time
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text


class Step(StrEnum):
    """Where a row stands."""

    WAITING = "waiting"
    WORKING = "working"
    READY = "ready"
    FAILED = "failed"
    STOPPED = "stopped"


_STYLES = {
    Step.WAITING: "dim",
    Step.WORKING: "yellow",
    Step.READY: "green",
    Step.FAILED: "red bold",
    Step.STOPPED: "dim",
}
_SIGNS = {Step.WAITING: "·", Step.WORKING: "", Step.READY: "✔", Step.FAILED: "✘", Step.STOPPED: "○"}
_PLAIN_SIGNS = {Step.WAITING: ".", Step.WORKING: "", Step.READY: "+", Step.FAILED: "x", Step.STOPPED: "-"}
# Shorter waits need no clock: it would only flicker.
_SHOWN_SECONDS = 0.05


@dataclass(slots=True)
class _Row:
    step: Step = Step.WAITING
    detail: str = ""
    begun: float = 0.0
    seconds: float = 0.0
    spinner: Spinner | None = None


class View:
    """Rows in the order they were added. Used from one thread; a terminal is redrawn by another, which only reads.

    Without `events` a line is printed only when a step changes, not for each new detail.
    """

    def __init__(self, title: str, console: Console | None = None, *, events: bool = True) -> None:
        self._console = console or Console(highlight=False)
        self._title = title
        self._events = events
        self._rows: dict[str, _Row] = {}
        self._note = ""
        self._unicode = self._console.encoding.lower().startswith("utf")
        self._live = Live(
            get_renderable=self._render,
            console=self._console,
            refresh_per_second=10,
            auto_refresh=True,
            transient=False,
        )

    def __enter__(self) -> "View":
        if self._console.is_terminal:
            self._live.start()
        else:
            self._console.print(self._title, soft_wrap=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def add(self, *names: str) -> None:
        """Add rows that wait."""
        for name in names:
            self._rows.setdefault(name, _Row())

    def show(self, name: str, step: Step, detail: str = "") -> None:
        """Set a row's step and detail. The row's clock runs while it works."""
        row = self._rows.setdefault(name, _Row())
        if (row.step, row.detail) == (step, detail):
            return
        if step is Step.WORKING and row.step is not Step.WORKING:
            row.begun = time.monotonic()
        elif row.step is Step.WORKING:
            row.seconds = time.monotonic() - row.begun
        moved = row.step is not step
        row.step, row.detail = step, detail
        if not self._console.is_terminal and (moved or (detail and self._events)) and step is not Step.WAITING:
            self._print_row(name, row)

    def note(self, text: str) -> None:
        """Set the line below the table (on a terminal), or print it."""
        if text == self._note:
            return
        self._note = text
        if text and not self._console.is_terminal:
            self._console.print(text, soft_wrap=True)

    def _print_row(self, name: str, row: _Row) -> None:
        took = f" ({row.seconds:.1f} s)" if row.step is Step.READY and row.seconds >= _SHOWN_SECONDS else ""
        detail = f": {row.detail}" if row.detail else ""
        self._console.print(f"  {name:<12} {row.step.value}{detail}{took}", soft_wrap=True, markup=False)

    def _render(self) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        table.add_column(width=1)
        table.add_column(min_width=12)
        table.add_column(min_width=min(44, max(12, self._console.width - 34)))
        table.add_column(justify="right", min_width=7)
        for name, row in list(self._rows.items()):
            table.add_row(
                self._sign(row),
                Text(name, style="bold" if row.step in (Step.WORKING, Step.FAILED) else ""),
                Text(row.detail or row.step.value, style=_STYLES[row.step], overflow="ellipsis", no_wrap=True),
                Text(self._clock(row), style="dim"),
            )
        parts: list[RenderableType] = [Text(self._title, style="bold"), table]
        if self._note:
            parts.append(Text(self._note, style="dim"))
        return Group(*parts)

    def _sign(self, row: _Row) -> RenderableType:
        if row.step is Step.WORKING:
            if row.spinner is None:
                row.spinner = Spinner("dots" if self._unicode else "line", style="yellow")
            return row.spinner
        signs = _SIGNS if self._unicode else _PLAIN_SIGNS
        return Text(signs[row.step], style=_STYLES[row.step])

    def _clock(self, row: _Row) -> str:
        seconds = time.monotonic() - row.begun if row.step is Step.WORKING else row.seconds
        return f"{seconds:.1f} s" if seconds >= _SHOWN_SECONDS else ""
