"""PURE: the desired state of this node as last accepted, and which answers of the database are accepted.

Rules: within an epoch the revision never falls · a new epoch is taken only from a full answer · what a full answer
leaves out is removed, unless that would be everything, or more than 3 and more than 20 % of the node's sites.
A removal that is named (`present: false`) is always taken.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tenantry.node.errors import Refused
from tenantry.spec.errors import InvalidDocument, InvalidName
from tenantry.spec.names import Slug, parse_slug
from tenantry.spec.sites import SiteSpec

REMOVED_AT_ONCE = 3
REMOVED_PART = 0.2


@dataclass(frozen=True, slots=True)
class Entry:
    """One site's desired state. `spec` None: the site is to be absent. `problem`: the last document was unusable."""

    slug: Slug
    revision: int
    spec: SiteSpec | None
    document: Mapping[str, Any] | None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What `agent_v1.desired` returned, checked. `unusable` says what is wrong with sites whose name cannot be read."""

    epoch: str
    revision: int
    full: bool
    entries: tuple[Entry, ...]
    unusable: tuple[str, ...] = ()


def parse_answer(document: Any) -> Answer:
    """Return the answer in `document`. One unusable site does not spoil the others; an unusable frame raises."""
    entries: list[Entry] = []
    unusable: list[str] = []
    try:
        for site in document["sites"]:
            try:
                entries.append(parse_entry(site))
            except InvalidDocument as error:
                unusable.append(str(error))
        return Answer(
            str(document["epoch"]), int(document["revision"]), bool(document["full"]), tuple(entries), tuple(unusable)
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidDocument(f"agent_v1.desired answered something else than agreed: {error!r}") from error


def parse_entry(document: Mapping[str, Any]) -> Entry:
    """Return one site of an answer. `InvalidDocument` only when not even the slug can be read."""
    try:
        slug, revision = parse_slug(document["slug"]), int(document["revision"])
    except (KeyError, TypeError, InvalidName) as error:
        raise InvalidDocument(f"a site without usable slug and revision: {error}") from error
    if not document.get("present", True):
        return Entry(slug, revision, None, None)
    try:
        return Entry(slug, revision, SiteSpec.from_document(document), document)
    except InvalidDocument as error:
        return Entry(slug, revision, None, None, problem=str(error))


class DesiredState:
    """The accepted state. `epoch` None: nothing was accepted yet."""

    def __init__(self) -> None:
        self.epoch: str | None = None
        self.revision = 0
        self._entries: dict[Slug, Entry] = {}

    def get(self, slug: Slug) -> Entry | None:
        return self._entries.get(slug)

    def slugs(self) -> frozenset[Slug]:
        return frozenset(self._entries)

    def present(self) -> frozenset[Slug]:
        """Return the sites that are to be served, those with an unusable document included."""
        return frozenset(slug for slug, entry in self._entries.items() if entry.spec or entry.problem)

    def forget(self, slug: Slug) -> None:
        """Drop a site that is absent from the node by now."""
        self._entries.pop(slug, None)

    def merge(self, answer: Answer, on_node: frozenset[Slug] = frozenset()) -> frozenset[Slug]:
        """Accept `answer`; return the sites whose entry changed. `Refused` leaves everything as it was.

        `on_node`: sites of which something is on the node, so that a full answer can tell which are orphans.
        """
        if answer.epoch == self.epoch and answer.revision < self.revision:
            raise Refused("StaleState", f"revision {answer.revision} was answered after {self.revision}")
        if answer.epoch != self.epoch and not answer.full:
            raise Refused("StaleState", "a new epoch needs a full answer")
        incoming = {entry.slug: entry for entry in answer.entries}
        if answer.full and not answer.unusable:  # a site that cannot be named must not look removed
            gone = (self.present() | on_node) - incoming.keys()
            self._guard(gone, len(self.present() | on_node), len(incoming))
            incoming |= {slug: Entry(slug, answer.revision, None, None) for slug in gone}
        changed = frozenset(slug for slug, entry in incoming.items() if self._take(entry))
        self.epoch, self.revision = answer.epoch, answer.revision
        return changed

    def _guard(self, gone: frozenset[Slug], known: int, listed: int) -> None:
        if gone and not listed:
            raise Refused("MassRemovalRefused", f"an empty state was answered; the node keeps its {known} sites")
        if len(gone) > REMOVED_AT_ONCE and len(gone) > REMOVED_PART * known:
            names = ", ".join(sorted(gone)[:5])
            raise Refused(
                "MassRemovalRefused", f"{len(gone)} of {known} sites would be removed at once ({names}, …); they stay"
            )

    def _take(self, entry: Entry) -> bool:
        before = self._entries.get(entry.slug)
        if entry.problem and before is not None:
            entry = Entry(entry.slug, entry.revision, before.spec, before.document, entry.problem)
        if entry == before:
            return False
        self._entries[entry.slug] = entry
        return True
