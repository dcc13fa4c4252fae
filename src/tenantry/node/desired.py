"""PURE: the desired state of this node as last accepted, and which answers of the database are accepted.

Rules: within an epoch the revision never falls · a new epoch is taken only from a full answer · an epoch that was left
is never taken again (a former primary came back) · a removal that is named (`present: false`) is always taken · what a
full answer merely leaves out is removed, unless
- the epoch is new: a restored database may not know sites that are newer than its backup; or
- it would be everything, or more than 3 and more than 20 % of the node's sites.
Such removals are *held*, until the sites are back or a person confirms with the token; all else is applied. A site
that loses all its hostnames without a change of its own counts as left out: emptied tables look like that. When a new
epoch begins without any hostname at all, no revision in it counts as a change of a site's own: they may be given out
a second time.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace

from tenantry.node.answer import Answer, Entry
from tenantry.node.errors import Refused
from tenantry.node.numbering import Look, adopted_shift, continued_shift, nothing_found
from tenantry.spec.names import Slug
from tenantry.spec.sites import SiteSpec

REMOVED_AT_ONCE = 3
REMOVED_PART = 0.2
NAMES_SHOWN = 5
LEFT_MAX = 50  # epochs: one for every failover or restore that the node remembers

MASS_REMOVAL = "MassRemovalRefused"
REMOVAL_HELD = "RemovalHeld"
HOLDING = (MASS_REMOVAL, REMOVAL_HELD)


@dataclass(frozen=True, slots=True)
class Held:
    """Sites that stay although the database no longer lists them; `condition` is the reason's type."""

    condition: str = REMOVAL_HELD
    slugs: frozenset[Slug] = frozenset()

    @property
    def token(self) -> str:
        """What a person must repeat to have exactly these sites removed."""
        return hashlib.sha256("\n".join(sorted(self.slugs)).encode()).hexdigest()[:8]

    @property
    def message(self) -> str:
        names = ", ".join(sorted(self.slugs)[:NAMES_SHOWN]) + (", …" if len(self.slugs) > NAMES_SHOWN else "")
        cause = (
            "at once"
            if self.condition == MASS_REMOVAL
            else "by a database of a new epoch (a restored backup, or a replica that was promoted)"
        )
        return (
            f"{len(self.slugs)} sites would be removed {cause} (or lose every hostname) and stay: {names}. To remove "
            f"them, confirm {self.token}"
        )


@dataclass(frozen=True, slots=True)
class Head:
    """How far the desired state was read, what of it was not followed, and the epochs before, the latest last."""

    epoch: str
    revision: int
    held: Held = Held()
    left: tuple[str, ...] = ()


class DesiredState:
    """The accepted state. `epoch` None: nothing was accepted yet."""

    def __init__(self) -> None:
        self.epoch: str | None = None
        self.revision = 0
        self.held = Held()
        self._left: tuple[str, ...] = ()
        self._entries: dict[Slug, Entry] = {}
        self._successors: dict[Slug, Entry] = {}  # other sites of the same name, which wait until this one is gone

    def restore(self, head: Head, entries: Iterable[Entry]) -> None:
        """Begin with what was remembered."""
        self.epoch, self.revision, self.held = head.epoch, head.revision, head.held
        self._left = head.left
        self._entries = {entry.slug: entry for entry in entries}

    def head(self) -> Head | None:
        """Return what to remember besides the entries; None before anything was accepted."""
        return None if self.epoch is None else Head(self.epoch, self.revision, self.held, self._left)

    def get(self, slug: Slug) -> Entry | None:
        return self._entries.get(slug)

    def slugs(self) -> frozenset[Slug]:
        return frozenset(self._entries)

    def present(self) -> frozenset[Slug]:
        """Return the sites that are to be served, those with an unusable document included."""
        return frozenset(slug for slug, entry in self._entries.items() if entry.spec or entry.problem)

    def restart(self, slug: Slug, note: str) -> Entry | None:
        """Have this node begin the site's processes anew; return the entry, None of a site that is to be absent."""
        entry = self._entries.get(slug)
        if entry is None or entry.spec is None:
            return None
        self._entries[slug] = restarted = entry.restarted(note)
        return restarted

    def forget(self, slug: Slug) -> Entry | None:
        """Drop a site that is absent from the node by now; return the site of the same name that waited for that."""
        self._entries.pop(slug, None)
        successor = self._successors.pop(slug, None)
        if successor is not None:
            self._entries[slug] = successor
        return successor

    def has_left(self, epoch: str | None) -> bool:
        """Whether this is an epoch that the node followed before the one it is in."""
        return epoch in self._left

    def is_confirmed(self, answer: Answer) -> bool:
        """Whether a person confirmed the removals that are held."""
        return bool(self.held.slugs) and answer.orders is not None and answer.orders.confirmed == self.held.token

    def merge(
        self, answer: Answer, on_node: frozenset[Slug] = frozenset(), look: Look = nothing_found
    ) -> frozenset[Slug]:
        """Accept `answer`; return the sites whose entry changed. `Refused` leaves everything as it was.

        `on_node`: sites of which something is on the node, so that a full answer can tell which are orphans.
        `look` says what is on the node of a site that is not remembered, or comes from another epoch.
        """
        new_epoch = self._check(answer)
        incoming = {entry.slug: entry for entry in answer.entries}
        if answer.full and not answer.unusable:  # a site that cannot be named must not look removed
            gone = (self.present() | (on_node - self._entries.keys())) - incoming.keys()
            missing = gone | self._stripped(incoming, self._doubted(answer, new_epoch))
            self.held = self._hold(missing, len(self.present() | on_node), new_epoch, answer)
            incoming |= {slug: Entry(slug, answer.revision, None, None) for slug in gone}
        else:
            self.held = replace(self.held, slugs=self.held.slugs - incoming.keys())
        changed = set()
        for slug, entry in incoming.items():
            here = slug in on_node or slug in self._entries or not answer.full
            if slug not in self.held.slugs and self._take(entry, new_epoch, look if here else nothing_found):
                changed.add(slug)
        if new_epoch and self.epoch is not None:
            self._left = (*self._left, self.epoch)[-LEFT_MAX:]
        self.epoch, self.revision = answer.epoch, answer.revision
        return frozenset(changed)

    def _check(self, answer: Answer) -> bool:
        """Return whether the answer begins a new epoch; `Refused` when it is stale."""
        if answer.epoch == self.epoch and answer.revision < self.revision:
            raise Refused(
                "StaleState",
                f"the database is set back: it answers revision {answer.revision}, and {self.revision} was applied. "
                "If it is to be followed, say so: tenantry event new-epoch",
            )
        if self.has_left(answer.epoch):
            raise Refused(
                "StaleState",
                "the database is in an epoch that this node has left: a former primary came back, and another took "
                "over. Stop it. If it is to be followed all the same, say so there: tenantry event new-epoch",
            )
        if answer.epoch != self.epoch and not answer.full:
            raise Refused("StaleState", "a new epoch needs a full answer")
        return self.epoch is not None and answer.epoch != self.epoch

    def _doubted(self, answer: Answer, new_epoch: bool) -> frozenset[Slug]:
        """Return the sites that are not taken to have changed, whatever their revisions say."""
        if _leads_anywhere(answer):
            return frozenset()
        if new_epoch:
            return frozenset(self._entries)
        return self.held.slugs if self.held.condition == REMOVAL_HELD else frozenset()

    def _stripped(self, incoming: dict[Slug, Entry], doubted: frozenset[Slug]) -> frozenset[Slug]:
        """Return the sites that would lose every hostname though they did not change."""
        return frozenset(
            slug
            for slug, entry in incoming.items()
            if (before := self._entries.get(slug)) is not None
            and before.spec is not None
            and entry.spec is not None
            and before.spec.hostnames
            and not entry.spec.hostnames
            and (entry.revision <= before.revision or slug in doubted)
        )

    def _hold(self, missing: frozenset[Slug], known: int, new_epoch: bool, answer: Answer) -> Held:
        """Return which of the missing sites stay."""
        slugs, condition = self.held.slugs & missing, self.held.condition
        fresh = missing - slugs
        if new_epoch and fresh:
            slugs, condition = missing, REMOVAL_HELD
        elif fresh and (not _leads_anywhere(answer) or _too_many(len(fresh), known)):
            slugs, condition = missing, MASS_REMOVAL
        elif slugs:
            slugs = missing  # not even a few are taken from a database that is in doubt
        held = Held(condition, slugs)
        confirmed = answer.orders is not None and answer.orders.confirmed == held.token
        return Held() if confirmed else held

    def _take(self, entry: Entry, new_epoch: bool, look: Look) -> bool:
        before = self._entries.get(entry.slug)
        if entry.spec is not None and (before is None or before.is_unknown):
            before = _former(entry, look(entry.spec).number) or before
        if entry.problem:
            if before is not None:
                entry = replace(before, revision=entry.revision, problem=entry.problem)
        elif (spec := entry.spec) is None:
            self._successors.pop(entry.slug, None)
            entry = entry.after(before)
        elif before is not None and before.number != entry.number and not before.is_unknown:
            # Another site of the same name. Its visitors must not meet what is left of the former one.
            self._successors[entry.slug] = entry
            entry = Entry(entry.slug, entry.revision, None, None).after(before)
        else:
            self._successors.pop(entry.slug, None)
            entry = _continued(entry.shifted(_shift(spec, before, new_epoch, look)), before)
        if entry == self._entries.get(entry.slug):
            return False
        self._entries[entry.slug] = entry
        return True


def _continued(entry: Entry, before: Entry | None) -> Entry:
    """Return the entry with what this node did of its own accord to the generation that it still is."""
    if before is None or (before.generation, before.shift) != (entry.generation, entry.shift):
        return entry
    note = before.note if before.revision == entry.revision else ""
    return replace(entry, restarts=before.restarts, note=note)


def _former(entry: Entry, number: int | None) -> Entry | None:
    """Return what stands for another site of the same name that is not remembered, but of which files are here."""
    if number is None or number == entry.number:
        return None
    return Entry(entry.slug, entry.revision, None, None, number=number)


def _shift(spec: SiteSpec, before: Entry | None, new_epoch: bool, look: Look) -> int:
    if before is None or before.is_unknown:
        return adopted_shift(spec, look)
    if not new_epoch:
        return before.shift
    return continued_shift(spec, before.spec, before.shift, look)


def _leads_anywhere(answer: Answer) -> bool:
    """Whether any site of the answer has a hostname, or may have one. Without, the tables were emptied."""
    return any(entry.spec is None or entry.spec.hostnames for entry in answer.entries)


def _too_many(count: int, known: int) -> bool:
    return count > REMOVED_AT_ONCE and count > REMOVED_PART * known
