"""Reading for pages: each function is a fixed number of statements, however many sites there are."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.contrib.postgres.expressions import ArraySubquery
from django.db.models import Count, Exists, OuterRef, Q, QuerySet
from django.db.models.functions import JSONObject

from tenantry.control.changelog.models import Change
from tenantry.control.dashboard.filters import STATUSES, SiteFilter
from tenantry.control.fleet.models import Node, NodeSite
from tenantry.control.releases.models import Project, Release, ReleaseStatus
from tenantry.control.sites.models import Hostname, Site, SiteStatus
from tenantry.control.sites.queries import SiteView

PAGE_SIZE = 50

UNFINISHED = (ReleaseStatus.QUEUED, ReleaseStatus.BUILDING)

# From worst to best: a site's summary is that of its worst node.
NODE_STATES = ("failed", "absent", "waiting", "behind", "starting", "serving")


@dataclass(frozen=True, slots=True)
class NodeState:
    """What one node does for one site. `state` is one of NODE_STATES."""

    node: str
    state: str
    revision: int
    generation: int
    message: str = ""
    log: str = ""
    reported_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class SiteRow:
    """One line of the list of sites."""

    slug: str
    project: str
    release: str
    pending_release: str | None
    status: str
    error: str
    revision: int
    updated_at: datetime
    hostnames: tuple[str, ...]
    nodes: tuple[NodeState, ...]

    @property
    def serving_nodes(self) -> int:
        return sum(node.state == "serving" for node in self.nodes)

    @property
    def worst_node_state(self) -> str:
        return min((node.state for node in self.nodes), key=NODE_STATES.index, default="waiting")


@dataclass(frozen=True, slots=True)
class ChangeRow:
    """One line of the change log. `site`, `project` and `node` are set only while there is such a one, so that every
    link leads somewhere."""

    revision: int
    type: str
    site: str | None
    gone_site: str | None
    project: str | None
    node: str | None
    gone_node: str | None
    actor: str
    created_at: datetime


def site_rows(asked: SiteFilter) -> list[SiteRow]:
    """Return one page of the sites asked for, by slug."""
    start = (asked.page - 1) * PAGE_SIZE
    found = _matching(asked)
    if asked.status:
        found = found.filter(status=asked.status)
    return _rows(found, start, start + PAGE_SIZE)


def site_rows_of(slugs: Collection[str]) -> list[SiteRow]:
    """Return the rows of the sites named; those that are gone are missing."""
    return _rows(Site.objects.filter(slug__in=list(slugs)), 0, len(slugs))


def status_counts(asked: SiteFilter) -> dict[str, int]:
    """Return how many of the sites asked for have each status, whatever status was asked for."""
    counted = dict(_matching(asked).order_by().values_list("status").annotate(count=Count("*")))
    return {status: counted.get(status, 0) for status in STATUSES}


def project_names() -> list[str]:
    """Return the names of all projects."""
    return list(Project.objects.order_by("name").values_list("name", flat=True))


def creatable_projects() -> list[str]:
    """Return the names of the projects that have a release a site can run."""
    return list(Project.objects.exclude(current_release=None).order_by("name").values_list("name", flat=True))


def last_changes(limit: int, *, before: int | None = None, site: str = "", project: str = "") -> list[ChangeRow]:
    """Return changes, newest first: all, those of a site, or those of a project and its sites."""
    changes = Change.objects.order_by("-revision")
    if before is not None:
        changes = changes.filter(revision__lt=before)
    if site:
        changes = changes.filter(site_slug=site)
    if project:
        changes = changes.filter(project=project)
    exists = Exists(Site.objects.filter(slug=OuterRef("site_slug")))
    project_exists = Exists(Project.objects.filter(name=OuterRef("project")))
    nodes = set(_node_names())
    return [
        ChangeRow(
            revision=change.revision,
            type=change.type,
            site=change.site_slug if site_exists else None,
            gone_site=None if site_exists else change.site_slug,
            project=change.project if has_project else None,
            node=node if node in nodes else None,
            gone_node=None if node in nodes else node,
            actor=change.actor,
            created_at=change.created_at,
        )
        for change, site_exists, has_project, node in (
            (change, change.site_exists, change.project_exists, change.metadata.get("node"))
            for change in changes.annotate(site_exists=exists, project_exists=project_exists)[:limit]
        )
    ]


@dataclass(frozen=True, slots=True)
class ReportRow:
    """That a node reported on a site, and when."""

    node: str
    slug: str
    reported_at: datetime


def reports_since(moment: datetime, limit: int) -> list[ReportRow]:
    """Return the reports after `moment`, oldest first; the latest ones when there are more than `limit`."""
    found = NodeSite.objects.filter(reported_at__gt=moment).order_by("-reported_at")
    rows = list(found.values_list("node_id", "slug", "reported_at")[:limit])
    return [ReportRow(*row) for row in reversed(rows)]


def release_counts(project_name: str) -> dict[str, int]:
    """Return how many sites run each release of a project, by the release's name."""
    counted = Release.objects.filter(project__name=project_name).annotate(site_count=Count("sites"))
    return dict(counted.values_list("name", "site_count"))


def building_projects() -> set[str]:
    """Return the names of the projects that have a release queued or being built."""
    unfinished = Release.objects.filter(status__in=UNFINISHED)
    return set(unfinished.values_list("project__name", flat=True))


def node_states(found: SiteView) -> tuple[NodeState, ...]:
    """Return what each node does for a site, with its message and log."""
    names = ("node", "state", "revision", "generation", "message", "log", "reported_at")
    spoken = [{name: getattr(said, name) for name in names} for said in found.nodes]
    return _node_states(spoken, _node_names(), found.status, found.revision)


def _matching(asked: SiteFilter) -> "QuerySet[Site]":
    """The sites that match all but the status."""
    found = Site.objects.all()
    if asked.project:
        found = found.filter(project__name=asked.project)
    if asked.q:
        named = Exists(Hostname.objects.filter(site=OuterRef("pk"), name__contains=asked.q))
        found = found.filter(Q(slug__contains=asked.q) | named)
    return found


def _rows(found: "QuerySet[Site]", start: int, end: int) -> list[SiteRow]:
    """Two statements: the page with its hostnames and reports, and the names of the nodes."""
    reports = NodeSite.objects.filter(slug=OuterRef("slug")).order_by("node_id")
    spoken = JSONObject(node="node_id", state="state", revision="revision", generation="generation")
    # The page is cut first: PostgreSQL would gather hostnames and reports of every row that OFFSET skips.
    cut = found.order_by("slug").values("pk")[start:end]
    rows = (
        Site.objects.filter(pk__in=cut)
        .order_by("slug")
        .annotate(
            names=ArraySubquery(Hostname.objects.filter(site=OuterRef("pk")).order_by("name").values("name")),
            spoken=ArraySubquery(reports.annotate(spoken=spoken).values("spoken")),
        )
        .values(
            "slug", "status", "error", "revision", "updated_at", "names", "spoken",
            "project__name", "release__name", "pending_release__name",
        )
    )  # fmt: skip
    nodes = _node_names()
    return [
        SiteRow(
            slug=row["slug"],
            project=row["project__name"],
            release=row["release__name"],
            pending_release=row["pending_release__name"],
            status=row["status"],
            error=row["error"],
            revision=row["revision"],
            updated_at=row["updated_at"],
            hostnames=tuple(row["names"]),
            nodes=_node_states(row["spoken"], nodes, row["status"], row["revision"]),
        )
        for row in rows
    ]


def _node_names() -> list[str]:
    return list(Node.objects.order_by("name").values_list("name", flat=True))


def _node_states(spoken: list[dict[str, Any]], nodes: list[str], status: str, revision: int) -> tuple[NodeState, ...]:
    """Say of each node whether it serves what is desired now.

    A node that serves an earlier revision is «behind»; one that has said nothing yet of a ready site is «waiting».
    """
    said = {str(report["node"]): report for report in spoken}
    states: list[NodeState] = []
    for node in nodes:
        report = said.get(node)
        if report is None:
            if status == SiteStatus.READY:
                states.append(NodeState(node, "waiting", 0, 0))
            continue
        state = str(report["state"])
        if state == "serving" and report["revision"] < revision and status == SiteStatus.READY:
            state = "behind"
        if state not in NODE_STATES:
            state = "waiting"
        states.append(NodeState(**{**report, "state": state}))
    return tuple(states)
