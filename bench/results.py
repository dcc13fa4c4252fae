"""What a suite measured: a table for people, JSON for comparing."""

import json
import os
import platform
import subprocess
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Row:
    """One arrangement: its summary, and every single measurement."""

    name: str
    values: dict[str, Any]
    measured: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Table:
    """One suite's result."""

    suite: str
    title: str
    columns: tuple[str, ...]
    rows: list[Row]
    verdict: str

    def text(self) -> str:
        """The table as text, columns aligned."""
        lines = [("", *self.columns)]
        lines += [(row.name, *(_number(row.values.get(column)) for column in self.columns)) for row in self.rows]
        widths = [max(len(line[index]) for line in lines) for index in range(len(lines[0]))]
        body = "\n".join(
            "  ".join(
                [
                    line[0].ljust(widths[0]),
                    *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)),
                ]
            )
            for line in lines
        )
        return f"{self.title}\n\n{body}\n\n{self.verdict}\n{_busy()}"


def _busy() -> str:
    """A warning when other programs used the processors: absolute figures mean little then."""
    load, processors = os.getloadavg()[1], os.cpu_count() or 1
    if load < 1.5 * processors:
        return ""
    return f"The machine was busy (load {load:.0f} on {processors} processors): compare the rows, not the figures.\n"


def _number(value: Any) -> str:
    if value is None:
        return "–"
    return str(value) if isinstance(value, int) else f"{value:.3f}" if value < 10 else f"{value:.0f}"


def keep(table: Table) -> Path:
    """Write the table and its JSON below `bench/results/`; returns the JSON's path."""
    RESULTS.mkdir(exist_ok=True)
    now = datetime.now(UTC)
    stem = f"{table.suite}-{now:%Y%m%d-%H%M%S}"
    document = asdict(table) | {"at": now.isoformat(timespec="seconds"), "machine": _machine()}
    path = RESULTS / f"{stem}.json"
    path.write_text(json.dumps(document, indent=2) + "\n")
    (RESULTS / f"{stem}.txt").write_text(table.text())
    return path


def _machine() -> dict[str, Any]:
    here = Path(__file__).parent
    commit = subprocess.run(
        ["git", "-C", str(here), "rev-parse", "--short", "HEAD"], text=True, capture_output=True, check=False
    )
    return {
        "processors": os.cpu_count(),
        "load": os.getloadavg(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "commit": commit.stdout.strip() or None,
    }
