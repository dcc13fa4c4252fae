"""How far a page has seen, as it travels in addresses and in the ids of events. Pure but for the clock."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

_EPOCH = datetime.fromtimestamp(0, UTC)
_MILLISECOND = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class Position:
    """How far a page has seen: the last revision, and until when nodes' reports."""

    revision: int
    reported: datetime

    @classmethod
    def parse(cls, text: str) -> "Position | None":
        """Read an event's id, or the «since» of a page; None for anything else."""
        match = re.fullmatch(r"([0-9]{1,18})-([0-9]{1,14})", text)
        if match is None:
            return None
        return cls(int(match[1]), _EPOCH + int(match[2]) * _MILLISECOND)

    def __str__(self) -> str:
        return f"{self.revision}-{(self.reported - _EPOCH) // _MILLISECOND}"


def live_query(revision: int, **page: str) -> str:
    """Return the query with which a page that was read at `revision`, now, opens its stream."""
    return urlencode({"since": str(Position(revision, datetime.now(UTC))), **page})
