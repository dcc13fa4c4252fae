"""Reading sites: as people see them, and how far the nodes have come with them."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from django.conf import settings
from django.db.models import F, Func, JSONField, Prefetch, Q, QuerySet, TextField, Value
from django.db.models.functions import Cast

from tenantry.control.changelog import queries as changelog
from tenantry.control.changelog.models import Change
from tenantry.control.config import ControlConfig
from tenantry.control.database import database_now
from tenantry.control.errors import NotFound
from tenantry.control.fleet.models import Node, NodeSite
from tenantry.control.fleet.queries import Unreachable, is_live, reports_of
from tenantry.control.sites.limits import effective_limits
from tenantry.control.sites.models import Hostname, Site, SiteStatus
from tenantry.spec.sites import Mode

SERVING = "serving"
NOT_STARTING = "failed"  # the newest generation; one before it may serve


@dataclass(frozen=True, slots=True)
class SiteOnNode:
    """What a node last said of a site. `lag` counts the revisions that it is behind the site's latest change: all of
    them while the node follows another epoch."""

    node: str
    revision: int
    generation: int
    state: str
    message: str
    log: str
    lag: int
    reported_at: datetime | None


@dataclass(frozen=True, slots=True)
class ModeView:
    """What goes with a site's mode. `page`: whether it has one of its own, which is not read for this."""

    message: str
    retry_after_seconds: int | None
    until: datetime | None
    networks: list[str]
    page: bool


@dataclass(frozen=True, slots=True)
class SiteView:
    """A site as people see it: never a secret, of its environment the names only."""

    slug: str
    number: int
    project: str
    release: str
    pending_release: str | None
    status: str
    error: str
    mode: str
    mode_options: ModeView
    pending_mode: str | None
    runtime: str
    generation: int
    revision: int
    processes: int
    threads: int
    limits: dict[str, int]
    hostnames: list[str]
    url: str | None
    environment_names: list[str]
    created_at: datetime
    updated_at: datetime
    nodes: list[SiteOnNode]


@dataclass(frozen=True, slots=True)
class Convergence:
    """Whether every live node serves the site at its latest revision, and its database follows its mode.

    `status` is the site's, or `failed` when its last upgrade or removal failed. A deleted site never converges: it is
    not found once it is gone everywhere. `unreachable` are the other nodes. `applied` asks less than `converged`: the
    revision holds on every live node and the database follows the mode, whether or not the newest generation starts.
    """

    site: str
    revision: int
    converged: bool
    applied: bool
    status: str
    error: str
    nodes: list[SiteOnNode]
    unreachable: list[Unreachable] = field(default_factory=list)


def sites(*, project: str = "", text: str = "", status: str = "", after: str = "", limit: int = 200) -> list[SiteView]:
    """Return sites by slug, later than `after`: of a project, of a status, with `text` in slug or a hostname."""
    rows = _rows().filter(slug__gt=after).order_by("slug")
    if project:
        rows = rows.filter(project__name=project)
    if status:
        rows = rows.filter(status=status)
    if text:
        rows = rows.filter(
            Q(slug__icontains=text) | Q(number__in=Hostname.objects.filter(name__icontains=text).values("site"))
        )
    return _views(rows[:limit])


def site(slug: str) -> SiteView:
    """Return one site; raises `NotFound`."""
    found = _views(_rows().filter(slug=slug))
    if not found:
        raise NotFound(f"There is no site «{slug}».")
    return found[0]


def exists(slug: str) -> bool:
    """Return whether there is such a site."""
    return Site.objects.filter(slug=slug).exists()


def hostnames(*, after: str = "", limit: int = 200) -> list[tuple[str, str]]:
    """Return (hostname, slug of its site) by hostname, later than `after`."""
    rows = Hostname.objects.filter(name__gt=after).order_by("name").values_list("name", "site__slug")
    return list(rows[:limit])


def convergence(slug: str) -> Convergence:
    """Return how far the nodes have come with a site. Raises `NotFound` for one that never was or is wholly gone."""
    row = Site.objects.filter(slug=slug).first()
    if row is None or row.status == SiteStatus.DELETING:
        return _removal(slug, row)
    nodes = _reported(row.revision, slug)
    by_name = {node.node: node for node in nodes}
    live, unreachable = _reachable()
    for name in live:
        if name not in by_name:
            nodes.append(SiteOnNode(name, 0, 0, "absent", "", "", row.revision, None))
    # An upgrade that failed leaves the site served, but what was asked for has not come about.
    status = SiteStatus.FAILED.value if row.error else row.status
    here = [by_name.get(name) for name in live]
    applied = (
        row.pending_mode is None
        and row.database_read_only == (row.mode == Mode.READ_ONLY)
        and bool(live)
        and all(node is not None and node.lag == 0 and node.state in (SERVING, NOT_STARTING) for node in here)
    )
    converged = (
        applied
        and status == SiteStatus.READY
        and row.pending_release_id is None
        and all(node is not None and node.state == SERVING for node in here)
    )
    return Convergence(slug, row.revision, converged, applied, status, row.error, nodes, unreachable)


def nodes_serving(slug: str) -> list[str]:
    """Return the live nodes that may still serve a site being deleted: not yet past its deletion, or not yet absent."""
    deleted = _deletion(slug)
    if deleted is None:
        return []
    now = database_now()
    epoch, _ = changelog.head()
    holding = set(NodeSite.objects.filter(slug=slug).values_list("node_id", flat=True))
    return [
        node.name
        for node in Node.objects.order_by("name")
        if is_live(node, now) and (node.name in holding or node.epoch != epoch or node.revision < deleted)
    ]


def nodes_behind(slug: str, revision: int, *, serving: bool = False) -> list[str]:
    """Return the live nodes that have not applied `revision` of a site; with `serving`, or do not serve it so."""
    now = database_now()
    epoch, _ = changelog.head()
    reports = {report.node_id: report for report in NodeSite.objects.filter(slug=slug)}

    def is_there(node: Node) -> bool:
        report = reports.get(node.name)
        if node.epoch != epoch:
            return False
        if serving:
            return report is not None and report.state == SERVING and report.revision >= revision
        return node.revision >= revision or (report is not None and report.revision >= revision)

    return [node.name for node in Node.objects.order_by("name") if is_live(node, now) and not is_there(node)]


def _removal(slug: str, row: Site | None) -> Convergence:
    """How far a deletion has come. Raises `NotFound` when no live node has the site and its data is gone."""
    deleted = _deletion(slug)
    if deleted is None:
        raise NotFound(f"There is no site «{slug}».")
    nodes = _reported(deleted, slug)
    waiting = nodes_serving(slug)
    if row is None and not waiting:
        raise NotFound(f"The site «{slug}» is gone.")
    error = row.error if row else ""
    status = SiteStatus.FAILED if error else SiteStatus.DELETING
    _, unreachable = _reachable()
    return Convergence(slug, deleted, False, False, status.value, error, nodes, unreachable)


def _reported(revision: int, slug: str) -> list[SiteOnNode]:
    epoch, _ = changelog.head()
    return _on_nodes(revision, reports_of([slug]).get(slug, []), epoch)


def _reachable() -> tuple[list[str], list[Unreachable]]:
    """The names of the nodes that make contact, and the others."""
    now = database_now()
    nodes = list(Node.objects.order_by("name"))
    live = [node.name for node in nodes if is_live(node, now)]
    return live, [Unreachable(node.name, node.last_contact) for node in nodes if not is_live(node, now)]


def _deletion(slug: str) -> int | None:
    """The revision at which the slug's last site was deleted."""
    rows = Change.objects.filter(site_slug=slug, type="site.deleted").order_by("-revision")
    return rows.values_list("revision", flat=True).first()


def _rows() -> QuerySet[Site]:
    """Sites with all that people see. Their pages stay in the database: two hundred of them are 25 MB."""
    return (
        Site.objects.select_related("project", "release", "pending_release")
        .prefetch_related(Prefetch("hostnames", queryset=Hostname.objects.order_by("name")))
        .defer("mode_options", "sealed")
        .annotate(
            shown_options=Func(
                F("mode_options"),
                Cast(Value("page"), TextField()),
                template="(%(expressions)s)",
                arg_joiner=" - ",
                output_field=JSONField(),
            ),
            has_page=Q(mode_options__has_key="page"),
        )
    )


def _views(rows: Iterable[Site]) -> list[SiteView]:
    found = list(rows)
    reports = reports_of(row.slug for row in found)
    config: ControlConfig = settings.TENANTRY
    epoch, _ = changelog.head()
    return [_view(row, _on_nodes(row.revision, reports.get(row.slug, []), epoch), config) for row in found]


def _view(row: Site, nodes: list[SiteOnNode], config: ControlConfig) -> SiteView:
    names = [hostname.name for hostname in row.hostnames.all()]
    return SiteView(
        slug=row.slug,
        number=row.number,
        project=row.project.name,
        release=row.release.name,
        pending_release=row.pending_release.name if row.pending_release else None,
        status=row.status,
        error=row.error,
        mode=row.mode,
        mode_options=_mode_view(row),
        pending_mode=row.pending_mode,
        runtime=row.runtime,
        generation=row.generation,
        revision=row.revision,
        processes=row.processes,
        threads=row.threads,
        limits=effective_limits(row.limits),
        hostnames=names,
        url=_url(names[0], config) if names else None,
        environment_names=row.environment_names,
        created_at=row.created_at,
        updated_at=row.updated_at,
        nodes=nodes,
    )


def _mode_view(row: Site) -> ModeView:
    options: dict[str, Any] = row.shown_options  # type: ignore[attr-defined]  # annotated by `_rows`
    return ModeView(
        message=str(options.get("message", "")),
        retry_after_seconds=options.get("retry_after_seconds"),
        until=row.mode_until,
        networks=list(options.get("networks", [])),
        page=bool(row.has_page),  # type: ignore[attr-defined]
    )


def _url(hostname: str, config: ControlConfig) -> str:
    scheme = urlsplit(config.control_url).scheme or "http"
    port = "" if config.http_port in (0, 80, 443) else f":{config.http_port}"
    return f"{scheme}://{hostname}{port}/"


def _on_nodes(revision: int, reports: Iterable[NodeSite], epoch: UUID) -> list[SiteOnNode]:
    return [
        SiteOnNode(
            node=report.node_id,
            revision=report.revision,
            generation=report.generation,
            state=report.state,
            message=report.message,
            log=report.log,
            lag=max(0, revision - report.revision) if report.node.epoch == epoch else revision,
            reported_at=report.reported_at,
        )
        for report in reports
    ]
