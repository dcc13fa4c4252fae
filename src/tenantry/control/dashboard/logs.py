"""The last lines of a log, for reading in a page."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from tenantry.control.errors import Conflict
from tenantry.control.logs import tail

CHARACTERS_MAX = 200_000  # a browser shows this much without delay; one line may be a megabyte


@dataclass(frozen=True, slots=True)
class Tail:
    """The end of a log. `mark` changes whenever the text does; `reason` says why there is none."""

    text: str = ""
    reason: str = ""

    @property
    def mark(self) -> str:
        return hashlib.sha256(f"{self.text}\0{self.reason}".encode()).hexdigest()[:16]


def read_tail(path: Path, lines: int) -> Tail:
    """Return the last lines of a log file. One that is not there yet is empty."""
    try:
        content, _, _ = tail(path, lines)
    except Conflict as error:
        return Tail(reason=error.message)
    text = content.decode("utf-8", "replace").replace("\0", "").rstrip("\n")
    return Tail(text[-CHARACTERS_MAX:])
