"""PURE: which number a generation has on this node.

A generation's files on the node are named after its number, the emperor knows a vassal by that name, and a process that
runs is never asked what it was started from. So a number must mean one content for good. Within an epoch the platform
keeps that: whatever changes a site's processes is a new generation. A restored database does not: it counts again
from an older generation, and comes by numbers that this node has used for something else. Therefore the node counts
for itself: its number is the platform's plus the site's `shift`, and `shift` grows whenever numbers would come again.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from tenantry.spec.sites import SiteSpec


@dataclass(frozen=True, slots=True)
class Leftover:
    """What is on the node under a site's name: the highest generation (0: none), whether the one asked about is
    exactly what would be written for it, and the number of the site it was made for (None: it does not say)."""

    highest: int = 0
    same: bool = False
    number: int | None = None


Look = Callable[[SiteSpec], Leftover]


def nothing_found(_: SiteSpec) -> Leftover:
    """Look at a node on which there is nothing."""
    return Leftover()


def adopted_shift(spec: SiteSpec, look: Look) -> int:
    """Return the shift of a site that is not remembered: what is found of it is kept if it is what is wanted."""
    highest = look(spec).highest
    if highest < spec.generation:
        return 0
    same = look(replace(spec, generation=highest)).same
    return highest - spec.generation + (0 if same else 1)


def continued_shift(spec: SiteSpec, before: SiteSpec | None, shift: int, look: Look) -> int:
    """Return the shift of a site in a new epoch. `before` is what was desired, in this node's numbers; `shift` its own.

    A site that is the same in both epochs keeps its processes. Any other gets a number beyond all that were used.
    """
    here = replace(spec, generation=spec.generation + shift)
    if (
        before is not None
        and _identity(here) == _identity(before)
        and (here.sealed == before.sealed or look(here).same)
    ):
        return shift
    highest = max(look(spec).highest, before.generation if before else 0)
    return max(highest + 1 - spec.generation, 0)


def _identity(spec: SiteSpec) -> tuple[object, ...]:
    """Return all that makes a generation's processes what they are, but its secrets."""
    release = spec.release
    return (
        spec.number,
        spec.generation,
        spec.runtime,
        spec.processes,
        spec.threads,
        replace(spec.limits, idle_seconds=0),
        spec.database,
        (release.name, release.digest, release.wsgi, release.settings),
        (release.manage, release.static, release.serve_media),
    )
