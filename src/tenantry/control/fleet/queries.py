"""Reading the fleet: nodes, their lag, and what they say of a site."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Count, Q
from django.utils import timezone

from tenantry.control.changelog import queries as changelog
from tenantry.control.errors import NotFound
from tenantry.control.fleet.models import Node, NodeSite

# Agents make contact every 3 s: four missed beats are no accident.
SILENT_AFTER = timedelta(seconds=15)


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node as people see it. `state` is ready, silent or joining; `lag` counts changes it has not applied."""

    name: str
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


def nodes() -> list[NodeView]:
    """Return every node, by name."""
    return _views(Node.objects.order_by("name"))


def node(name: str) -> NodeView:
    """Return one node; raises `NotFound`."""
    found = _views(Node.objects.filter(name=name))
    if not found:
        raise NotFound(f"There is no node «{name}».")
    return found[0]


def is_live(node: Node, now: datetime) -> bool:
    """Return whether the node has made contact lately."""
    return node.last_contact is not None and now - node.last_contact <= SILENT_AFTER


def reports_of(slugs: Iterable[str]) -> dict[str, list[NodeSite]]:
    """Return what nodes last said of each site, by slug; sites nobody spoke of are missing."""
    found: dict[str, list[NodeSite]] = {}
    for report in NodeSite.objects.filter(slug__in=list(slugs)).order_by("slug", "node_id"):
        found.setdefault(report.slug, []).append(report)
    return found


def _views(rows: Any) -> list[NodeView]:
    _, revision = changelog.head()
    now = timezone.now()
    counted = rows.annotate(site_count=Count("sites"), failed_count=Count("sites", filter=Q(sites__state="failed")))
    return [
        NodeView(
            name=row.name,
            state="joining" if row.last_contact is None else "ready" if is_live(row, now) else "silent",
            joined_at=row.joined_at,
            last_contact=row.last_contact,
            epoch=str(row.epoch) if row.epoch else None,
            revision=row.revision,
            lag=max(0, revision - row.revision),
            digest=row.digest,
            conditions=row.conditions,
            sites=row.site_count,
            failed=row.failed_count,
        )
        for row in counted
    ]
