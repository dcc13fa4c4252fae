"""Reading the fleet: nodes, their lag, and what they say of a site."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Count, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Coalesce

from tenantry.control.changelog import queries as changelog
from tenantry.control.database import database_now
from tenantry.control.errors import NotFound
from tenantry.control.fleet.models import Node, NodeDrift, NodeSite
from tenantry.control.sites.models import Site, SiteStatus
from tenantry.spec.sites import Mode

# Agents make contact every 3 s: four missed beats are no accident.
SILENT_AFTER = timedelta(seconds=15)


# The condition by which a node says that nobody is being served any more.
DRAINED = "Drained"


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node as people see it: never its keys.

    `state` is joining (it never made contact), ready, draining, drained or silent. `lag` counts the changes that it has
    not applied: all of them while it follows another epoch. `check_requested` is the number of the last check that was
    asked for, `checked_id` that of the last one answered; `checked` is what the latest check found, of either kind.
    `modes_ignored` counts sites in a mode other than live, where the node's agent is of a release that knows no modes.
    """

    name: str
    number: int
    state: str
    joined_at: datetime
    last_contact: datetime | None
    epoch: str | None
    revision: int
    lag: int
    digest: str
    conditions: list[dict[str, Any]]
    sites: int
    failed: int
    draining: bool
    drained: bool
    notifications: bool | None
    version: str
    check_requested: int
    checked_id: int
    checked_at: datetime | None
    checked: dict[str, Any] | None
    drift_open: int
    modes_ignored: int

    @property
    def knows_modes(self) -> bool:
        """Whether its agent can put a site into a mode: those that cannot do not say their version either."""
        return bool(self.version) or self.epoch is None


@dataclass(frozen=True, slots=True)
class DriftView:
    """A difference that a node found. `good_at`: when it was last seen right; `repaired_at` None: it is open."""

    id: int
    site: str | None
    kind: str
    path: str
    detail: str
    good_at: datetime | None
    found_at: datetime
    repaired_at: datetime | None
    took_seconds: float | None


@dataclass(frozen=True, slots=True)
class Unreachable:
    """A node that nobody waits for: it makes no contact. It catches up when it does again."""

    node: str
    last_contact: datetime | None


def nodes() -> list[NodeView]:
    """Return every node, by name."""
    return _views(Node.objects.order_by("name"))


def node(name: str) -> NodeView:
    """Return one node; raises `NotFound`."""
    found = _views(Node.objects.filter(name=name))
    if not found:
        raise NotFound(f"There is no node «{name}».")
    return found[0]


def drift_of(name: str, limit: int = 100, *, open_only: bool = False) -> list[DriftView]:
    """Return what a node found to differ, latest first, at most `limit`; raises `NotFound`."""
    if not Node.objects.filter(name=name).exists():
        raise NotFound(f"There is no node «{name}».")
    rows = NodeDrift.objects.filter(node_id=name).order_by("-id")
    if open_only:
        rows = rows.filter(repaired_at=None)
    return [
        DriftView(
            id=row.pk,
            site=row.site_slug,
            kind=row.kind,
            path=row.path,
            detail=row.detail,
            good_at=row.good_at,
            found_at=row.found_at,
            repaired_at=row.repaired_at,
            took_seconds=row.took_seconds,
        )
        for row in rows[:limit]
    ]


def is_live(node: Node, now: datetime) -> bool:
    """Return whether the node has made contact lately. `now` is by the database's clock, as its contact is dated."""
    return node.last_contact is not None and now - node.last_contact <= SILENT_AFTER


def nodes_without(feature: str) -> list[str]:
    """Return the nodes in contact whose agent does not understand a feature: those of an older release."""
    now = database_now()
    return [node.name for node in Node.objects.order_by("name") if is_live(node, now) and feature not in node.features]


def has_drained(node: Node) -> bool:
    """Return whether the node was asked to drain and says that it has."""
    return node.draining and any(
        condition.get("type") == DRAINED and condition.get("status", True) for condition in node.conditions
    )


def reports_of(slugs: Iterable[str]) -> dict[str, list[NodeSite]]:
    """Return what nodes last said of each site, by slug, with their nodes; sites nobody spoke of are missing."""
    found: dict[str, list[NodeSite]] = {}
    rows = NodeSite.objects.filter(slug__in=list(slugs)).select_related("node")
    for report in rows.order_by("slug", "node_id"):
        found.setdefault(report.slug, []).append(report)
    return found


def _views(rows: QuerySet[Node]) -> list[NodeView]:
    epoch, revision = changelog.head()
    now = database_now()
    drifts = NodeDrift.objects.filter(node_id=OuterRef("pk"), repaired_at=None).order_by()
    counted = rows.annotate(
        site_count=Count("sites"),
        failed_count=Count("sites", filter=Q(sites__state="failed")),
        drift_count=Coalesce(Subquery(drifts.values("node_id").annotate(count=Count("pk")).values("count")), 0),
    )
    views = [
        NodeView(
            name=row.name,
            number=row.number,
            state=_state(row, now),
            joined_at=row.joined_at,
            last_contact=row.last_contact,
            epoch=str(row.epoch) if row.epoch else None,
            revision=row.revision,
            lag=max(0, revision - row.revision) if row.epoch == epoch else revision,
            digest=row.digest,
            conditions=row.conditions,
            sites=row.site_count,
            failed=row.failed_count,
            draining=row.draining,
            drained=has_drained(row),
            notifications=row.notifications,
            version=row.version,
            check_requested=row.check_requested,
            checked_id=row.checked_id,
            checked_at=row.checked_at,
            checked=row.checked,
            drift_open=row.drift_count,
            modes_ignored=0,
        )
        for row in counted
    ]
    if all(view.knows_modes for view in views):
        return views
    ignored = Site.objects.filter(status=SiteStatus.READY).exclude(mode=Mode.LIVE).count()
    return [view if view.knows_modes else replace(view, modes_ignored=ignored) for view in views]


def _state(node: Node, now: datetime) -> str:
    if node.last_contact is None:
        return "joining"
    if not is_live(node, now):
        return "silent"
    if node.draining:
        return "drained" if has_drained(node) else "draining"
    return "ready"
