"""PURE: what this node says of itself. A report holds the node's line and the sites that changed since the last one."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from tenantry.node.answer import Entry
from tenantry.node.render.modes import standby_mode_document
from tenantry.spec.modes import NO_OPTIONS
from tenantry.spec.names import Slug
from tenantry.spec.sites import SiteState

FEATURES = ("logins",)  # what control must not expect of every agent: that it reads which login a site uses


class NodeStatus:
    """Collects what is to be reported. The node's revision is the last one up to which everything is settled."""

    def __init__(self, version: str = "") -> None:
        self._facts: dict[str, Any] = {"version": version, "features": list(FEATURES)} if version else {}
        self._epoch: str | None = None
        self._head = 0
        self._pending: dict[Slug, tuple[int, int]] = {}  # the first and the latest revision not settled
        self._sites: dict[Slug, dict[str, Any]] = {}
        self._lines: dict[Slug, int] = {}
        self._digest = 0
        self._conditions: dict[str, str] = {}
        self._changed: set[Slug] = set()
        self._reported: dict[str, Any] | None = None

    def head(self, epoch: str, revision: int) -> None:
        """The desired state was read up to `revision`. In a new epoch every site is reported again."""
        if epoch != self._epoch:
            self._changed.update(self._sites)
        self._epoch, self._head = epoch, revision

    def begin(self, slug: Slug, revision: int) -> None:
        """`slug` has to follow `revision`; the node's revision waits for it."""
        first, _ = self._pending.get(slug, (revision, revision))
        self._pending[slug] = (first, revision)

    def knows(self, slug: Slug) -> bool:
        return slug in self._sites

    def serves(self, slug: Slug) -> bool:
        """Whether the site was found serving when it was last worked on."""
        return slug in self._sites and self._sites[slug]["state"] == SiteState.SERVING.value

    def fact(self, name: str, value: Any) -> None:
        """Report `value` under the key `name` from now on."""
        self._facts[name] = value

    def site(
        self,
        entry: Entry,
        state: SiteState,
        message: str = "",
        log: str = "",
        *,
        generation: int | None = None,
        settled: bool = True,
    ) -> None:
        """Note a site's state. `settled` False: it is still being worked on, the node's revision waits.

        `generation` is the node's number of the one that is spoken of; else it is the desired one.
        """
        # What came meanwhile is not settled by the end of what was worked on when it came.
        if settled and entry.revision >= self._pending.get(entry.slug, (0, 0))[1]:
            self._pending.pop(entry.slug, None)
        line = {
            "slug": entry.slug,
            "revision": entry.revision,
            "generation": entry.generation if generation is None else entry.platform_number(generation),
            "state": state.value,
            "message": message,
            "log": log,
        }
        if self._sites.get(entry.slug) != line:
            self._sites[entry.slug] = line
            self._changed.add(entry.slug)
        self._note_digest(entry, state)

    def explain(self, entry: Entry, message: str, log: str) -> None:
        """Say more of a site's state, which stays what it is."""
        line = self._sites[entry.slug] | {"message": message, "log": log}
        if self._sites[entry.slug]["message"] != message:
            self._sites[entry.slug] = line
            self._changed.add(entry.slug)

    def set_condition(self, kind: str, message: str) -> None:
        self._conditions[kind] = message

    def clear_condition(self, kind: str) -> None:
        self._conditions.pop(kind, None)

    @property
    def revision(self) -> int:
        """Return the last revision of which nothing is left to do."""
        return min([self._head, *(first - 1 for first, _ in self._pending.values())])

    @property
    def digest(self) -> str:
        """Return a hash of what is served: nodes that serve the same have the same."""
        return f"sha256x:{self._digest:064x}"

    def take_report(self, *, anyway: bool = False) -> dict[str, Any] | None:
        """Return the next report, None when nothing changed (unless `anyway`); `give_back` it if it did not arrive."""
        if self._epoch is None:
            return None
        node = self._facts | {
            "epoch": self._epoch,
            "revision": self.revision,
            "digest": self.digest,
            "conditions": [
                {"type": kind, "status": True, "message": message} for kind, message in sorted(self._conditions.items())
            ],
        }
        if not self._changed and node == self._reported and not anyway:
            return None
        changed, self._changed = self._changed, set()
        self._reported = node
        report = node | {"sites": [self._sites[slug] for slug in sorted(changed)]}
        for slug in changed:
            if self._sites[slug]["state"] == SiteState.ABSENT.value:
                del self._sites[slug]
        return report

    def give_back(self, report: Mapping[str, Any]) -> None:
        """The report did not arrive: its sites are reported next time, unless they changed since."""
        self._reported = None
        for line in report["sites"]:
            self._sites.setdefault(line["slug"], line)
            self._changed.add(line["slug"])

    def _note_digest(self, entry: Entry, state: SiteState) -> None:
        self._digest ^= self._lines.pop(entry.slug, 0)
        if state is SiteState.SERVING and entry.spec is not None:
            spec = entry.spec
            text = f"{spec.slug} {entry.generation} {spec.release.digest} {spec.mode} {' '.join(spec.hostnames)}"
            if spec.mode_options != NO_OPTIONS:  # else the digest is that of agents which know no options
                text += f" {json.dumps(standby_mode_document(spec, None), sort_keys=True)}"
            self._lines[entry.slug] = int.from_bytes(hashlib.sha256(text.encode()).digest())
            self._digest ^= self._lines[entry.slug]
