"""Reading across apps: the platform at a glance."""

from dataclasses import dataclass
from importlib.metadata import version
from uuid import UUID

from django.db.models import Count

from tenantry.control.changelog import queries as changelog
from tenantry.control.fleet import queries as fleet
from tenantry.control.releases.models import Project
from tenantry.control.sites.models import Site


@dataclass(frozen=True, slots=True)
class PlatformStatus:
    """Counts by status or state; only those that occur."""

    version: str
    epoch: UUID
    revision: int
    projects: int
    sites: dict[str, int]
    nodes: dict[str, int]


def platform_status() -> PlatformStatus:
    """Return the platform at a glance."""
    epoch, revision = changelog.head()
    sites = dict(Site.objects.values_list("status").annotate(count=Count("number")).order_by("status"))
    nodes: dict[str, int] = {}
    for node in fleet.nodes():
        nodes[node.state] = nodes.get(node.state, 0) + 1
    return PlatformStatus(version("tenantry"), epoch, revision, Project.objects.count(), sites, nodes)
