"""PURE: what was found to differ from what it should be, from the finding to the repair, until it is reported.

A drift is one path and kind. Ages are what is reported, not times: the database's clock dates them. `since_seconds`
counts back from the finding to the last good check.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tenantry.node.integrity import Drift
from tenantry.spec.names import Slug

REPORTED_AT_ONCE = 500


@dataclass(slots=True)
class _Record:
    drift: Drift
    good_at: float  # when this was last seen as it should be
    found_at: float
    repaired_at: float | None = None
    told: bool = field(default=False)

    def line(self, now: float) -> dict[str, Any]:
        repaired = self.repaired_at
        return {
            "site": self.drift.slug,
            "kind": self.drift.kind,
            "path": self.drift.path,
            "detail": self.drift.detail,
            "since_seconds": round(self.found_at - self.good_at, 3),
            "found_seconds": round(now - self.found_at, 3),
            "repaired_seconds": None if repaired is None else round(now - repaired, 3),
            "took_seconds": None if repaired is None else round(repaired - self.found_at, 3),
        }


class DriftLog:
    """Open drifts by path and kind, and repaired ones until they are reported. `None` as a site is the node itself."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._began = clock()
        self._good_at: dict[Slug | None, float] = {}
        self._open: dict[tuple[str, str], _Record] = {}
        self._repaired: list[_Record] = []
        self._taken: list[_Record] = []

    def restore(self, lines: Iterable[Mapping[str, Any]], wall: float) -> None:
        """Go on with what was open and reported before the start; `wall` is the time in seconds since 1970."""
        for line in lines:
            found_at = self._clock() - max(wall - float(line["found_at"]), 0.0)
            slug = None if line["site"] is None else Slug(str(line["site"]))
            drift = Drift(slug, str(line["kind"]), str(line["path"]), str(line["detail"]))
            self._open[drift.kind, drift.path] = _Record(drift, found_at, found_at, told=True)

    def to_remember(self, wall: float) -> list[dict[str, Any]]:
        """Return what the database may hold open, for `restore`: it would stay open there, repaired after a restart."""
        now = self._clock()
        return [
            {
                "site": record.drift.slug,
                "kind": record.drift.kind,
                "path": record.drift.path,
                "detail": record.drift.detail,
                "found_at": wall - (now - record.found_at),
            }
            for record in (*self._open.values(), *self._repaired)
        ]

    def examined(self, slug: Slug | None, drifts: Iterable[Drift]) -> None:
        """All of `slug` was examined, and `drifts` is what differs: what did before and no longer does is repaired."""
        now = self._clock()
        differs = {(drift.kind, drift.path): drift for drift in drifts}
        for key, drift in differs.items():
            if key not in self._open:
                self._open[key] = _Record(drift, self._good_at.get(slug, self._began), now)
        for key in [key for key, record in self._open.items() if record.drift.slug == slug and key not in differs]:
            record = self._open.pop(key)
            record.repaired_at, record.told = now, False
            self._repaired.append(record)
        if not differs:
            self._good_at[slug] = now

    def differs(self, slug: Slug | None) -> bool:
        """Whether something of `slug` is known to differ."""
        return any(record.drift.slug == slug for record in self._open.values())

    def keep_only(self, slugs: Iterable[Slug]) -> None:
        """Sites that are gone cannot differ any more."""
        kept = {None, *slugs}
        for slug in {record.drift.slug for record in self._open.values()} - kept:
            self.examined(slug, ())
        self._good_at = {slug: at for slug, at in self._good_at.items() if slug in kept}

    def take(self) -> list[dict[str, Any]]:
        """Return what is to be reported next; `arrived` or `give_back` must follow."""
        records = [*self._repaired, *(record for record in self._open.values() if not record.told)]
        self._taken = records[:REPORTED_AT_ONCE]
        for record in self._taken:
            record.told = True
        now = self._clock()
        return [record.line(now) for record in self._taken]

    def arrived(self) -> bool:
        """What was taken was reported; returns whether more waits."""
        done = {id(record) for record in self._taken if record.repaired_at is not None}
        self._repaired = [record for record in self._repaired if id(record) not in done or not record.told]
        self._taken = []
        return bool(self._repaired) or any(not record.told for record in self._open.values())

    def give_back(self, _: Mapping[str, Any] | None = None) -> None:
        """What was taken did not arrive."""
        for record in self._taken:
            record.told = False
        self._taken = []
