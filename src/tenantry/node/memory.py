"""The last accepted desired state on disk: `state/sites/<slug>.json` and, written last, `state/head.json`.

Beside it `state/drift.json`: drifts that were reported and not repaired when the agent ended.

An interruption leaves newer sites under an older head: what lies between is read from the database again. What cannot
be read is left out and said; it is no reason to take a site away.
"""

import json
import logging
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tenantry.node.answer import Entry, parse_entry
from tenantry.node.desired import HOLDING, Head, Held
from tenantry.node.effects.files import remove, write_file
from tenantry.node.ports import Remembered
from tenantry.spec.errors import InvalidDocument
from tenantry.spec.names import Slug

logger = logging.getLogger(__name__)

VERSION = 1
WRITERS = 16  # files on their way to the disk at once, which takes what waits in one go
_DRIFT_KEYS = frozenset({"site", "kind", "path", "detail", "found_at"})
_SHIFT = "shift"  # beside the platform's own keys in a site's file: what the node adds to its generations


class LastKnown:
    """The memory of one node. Only the agent writes it; nothing is written before the database was heard."""

    def __init__(self, directory: Path) -> None:
        self._sites = directory / "sites"
        self._head = directory / "head.json"
        self._drift = directory / "drift.json"
        self._newer = False
        self._damaged: set[Path] = set()

    def load(self) -> Remembered:
        """Return what is remembered. Damaged files and those of a newer release are named, and left alone for now."""
        try:
            document = json.loads(self._head.read_bytes())
            version, head = int(document["version"]), _parse_head(document)
        except FileNotFoundError:
            return Remembered(None, drifts=self._load_drifts())
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            logger.warning("%s is damaged and not used: %r", self._head, error)
            return Remembered(None, problems=(f"state/head.json is damaged and not used: {error!r:.200}",))
        if version > VERSION:
            self._newer = True
            problem = (
                f"state/head.json was written by a newer release (version {version}, this one knows {VERSION}): not "
                "used. It is kept as head.json.newer once the database has answered"
            )
            logger.warning("%s", problem)
            return Remembered(None, problems=(problem,))
        entries = tuple(self._load_sites())
        problems = tuple(f"state/sites/{path.name} is damaged and not used" for path in sorted(self._damaged))
        return Remembered(head, entries, problems, self._load_drifts())

    def load_site(self, slug: Slug) -> Entry | None:
        """Return one remembered site."""
        try:
            return _parse_site(json.loads((self._sites / f"{slug}.json").read_bytes()))
        except (OSError, ValueError, InvalidDocument):
            return None

    def save(self, head: Head, entries: Iterable[Entry]) -> None:
        """Remember changed entries, then the head. Durable when it returns; interrupted, the older head stands."""
        with ThreadPoolExecutor(WRITERS) as writers:
            list(writers.map(self._save_site, entries))
        for path in self._damaged:
            remove(path)
        self._damaged.clear()
        if self._newer:
            self._head.rename(self._head.with_name("head.json.newer"))
            self._newer = False
        document: dict[str, Any] = {"version": VERSION, "epoch": head.epoch, "revision": head.revision}
        if head.held.slugs:
            document["held"] = {"condition": head.held.condition, "sites": sorted(head.held.slugs)}
        if head.left:
            document["left"] = list(head.left)
        write_file(self._head, json.dumps(document).encode(), mode=0o600, durable=True)

    def _save_site(self, entry: Entry) -> None:
        path = self._sites / f"{entry.slug}.json"
        if entry.document is not None:
            write_file(path, _encode(dict(entry.document) | {_SHIFT: entry.shift}), mode=0o600, durable=True)
            self._damaged.discard(path)
        elif entry.problem is None:
            remove(path)

    def save_drifts(self, drifts: Iterable[Mapping[str, Any]]) -> None:
        """Remember what was reported as differing. Durable when it returns."""
        write_file(self._drift, json.dumps(list(drifts)).encode(), mode=0o600, durable=True)

    def _load_drifts(self) -> tuple[Mapping[str, Any], ...]:
        try:
            drifts = json.loads(self._drift.read_bytes())
            return tuple(drift for drift in drifts if drift.keys() >= _DRIFT_KEYS and float(drift["found_at"]) >= 0)
        except FileNotFoundError:
            return ()
        except (OSError, ValueError, TypeError, AttributeError) as error:
            logger.warning("%s is damaged and not used: %r", self._drift, error)
            return ()

    def _load_sites(self) -> Iterable[Entry]:
        for path in sorted(self._sites.glob("*.json")):
            try:
                yield _parse_site(json.loads(path.read_bytes()))
            except (OSError, ValueError, InvalidDocument) as error:
                logger.warning("%s is damaged and not used: %r", path, error)
                self._damaged.add(path)


def _parse_head(document: Mapping[str, Any]) -> Head:
    held = document.get("held") or {}
    condition, slugs = held.get("condition"), held.get("sites", [])
    known = condition if condition in HOLDING else Held().condition
    return Head(
        str(document["epoch"]),
        int(document["revision"]),
        Held(known, frozenset(Slug(str(slug)) for slug in slugs)),
        tuple(str(epoch) for epoch in document.get("left") or ()),
    )


def _parse_site(document: Any) -> Entry:
    if not isinstance(document, Mapping):
        raise InvalidDocument("a site's file holds no object")
    shift = document.get(_SHIFT, 0)
    if not isinstance(shift, int) or shift < 0:
        raise InvalidDocument(f"{_SHIFT} must be a count, not {shift!r}")
    entry = parse_entry({key: value for key, value in document.items() if key != _SHIFT})
    if entry.problem is not None:
        raise InvalidDocument(entry.problem)
    return entry.shifted(shift)


def _encode(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
