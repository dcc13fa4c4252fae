"""PURE: what `agent_v1.desired` answers, checked: sites, and what a person asks of this node."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from tenantry.spec.errors import InvalidDocument, InvalidName
from tenantry.spec.names import Slug, parse_slug
from tenantry.spec.sites import SiteSpec


@dataclass(frozen=True, slots=True)
class Entry:
    """One site's desired state. `spec` None: the site is to be absent. `problem`: the last document was unusable.

    `spec.generation` is this node's number of the generation, `shift` more than the platform's (see `numbering`).
    `number` is the site's own, also while it is being removed; None where it is not known. `restarts` counts how often
    this node alone began the platform's generation anew (see `restarter`), `note` says the last time.
    """

    slug: Slug
    revision: int
    spec: SiteSpec | None
    document: Mapping[str, Any] | None
    problem: str | None = None
    shift: int = 0
    number: int | None = None
    restarts: int = 0
    note: str = ""

    @property
    def generation(self) -> int:
        """The platform's number of the desired generation; 0 of a site that is to be absent."""
        return self.spec.generation - self.shift if self.spec else 0

    @property
    def is_unknown(self) -> bool:
        """Whether nothing is known of the site but that its document cannot be used."""
        return self.spec is None and self.problem is not None

    def shifted(self, shift: int) -> "Entry":
        """Return this entry, fresh from the database, in the node's numbers."""
        if shift == 0 or self.spec is None:
            return self
        return replace(self, spec=replace(self.spec, generation=self.spec.generation + shift), shift=shift)

    def restarted(self, note: str) -> "Entry":
        """Return this entry with the same processes to be begun anew, under the node's next number."""
        if self.spec is None:
            return self
        spec = replace(self.spec, generation=self.spec.generation + 1)
        return replace(self, spec=spec, shift=self.shift + 1, restarts=self.restarts + 1, note=note)

    def platform_number(self, generation: int) -> int:
        """Return the platform's number of one of this node's generations: the desired one, or one before it."""
        if self.spec is not None and self.spec.generation - self.restarts <= generation <= self.spec.generation:
            return self.generation
        # One of an older epoch has no number that the platform would know.
        return max(generation - self.shift + self.restarts, 0)

    def after(self, before: "Entry | None") -> "Entry":
        """Return this removal with what must be known of the site that is removed."""
        return self if before is None else replace(self, shift=before.shift, number=before.number)


@dataclass(frozen=True, slots=True)
class Orders:
    """What people ask of this node. They hold until they are changed, and are followed whenever they are read."""

    draining: bool = False
    confirmed: str | None = None
    check: int = 0
    check_repair: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What `agent_v1.desired` returned. `unusable` says what is wrong with sites whose name cannot be read.

    `orders` None: the control of the previous release gives none.
    """

    epoch: str
    revision: int
    full: bool
    entries: tuple[Entry, ...]
    unusable: tuple[str, ...] = ()
    orders: Orders | None = None


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
            str(document["epoch"]),
            int(document["revision"]),
            bool(document["full"]),
            tuple(entries),
            tuple(unusable),
            _parse_orders(document.get("node")),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidDocument(f"agent_v1.desired answered something else than agreed: {error!r}") from error


def parse_entry(document: Mapping[str, Any]) -> Entry:
    """Return one site of an answer. `InvalidDocument` only when not even the slug can be read."""
    try:
        slug, revision = parse_slug(document["slug"]), int(document["revision"])
    except (KeyError, TypeError, ValueError, InvalidName) as error:
        raise InvalidDocument(f"a site without usable slug and revision: {error}") from error
    if not document.get("present", True):
        return Entry(slug, revision, None, None)
    try:
        spec = SiteSpec.from_document(document)
    except InvalidDocument as error:
        return Entry(slug, revision, None, None, problem=str(error))
    return Entry(slug, revision, spec, document, number=spec.number)


def _parse_orders(document: Any) -> Orders | None:
    if not isinstance(document, Mapping):
        return None
    confirmed = document.get("confirmed")
    return Orders(
        draining=bool(document.get("draining", False)),
        confirmed=None if confirmed is None else str(confirmed),
        check=int(document.get("check") or 0),
        check_repair=bool(document.get("check_repair", False)),
    )
