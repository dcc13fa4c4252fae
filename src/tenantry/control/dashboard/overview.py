"""The list of sites, the nodes, and the change log."""

from dataclasses import dataclass

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_safe

from tenantry.control.changelog.queries import head
from tenantry.control.dashboard import queries
from tenantry.control.dashboard.access import signed_in
from tenantry.control.dashboard.filters import STATUSES, SiteFilter
from tenantry.control.dashboard.node_pages import fleet_context
from tenantry.control.dashboard.positions import live_query

CHANGES_BESIDE = 12
CHANGES_PAGE = 100


@dataclass(frozen=True, slots=True)
class Tab:
    """One status to filter by; the empty one is all of them."""

    status: str
    count: int
    url: str
    current: bool


@dataclass(frozen=True, slots=True)
class SitesPage:
    """One page of the list of sites, with the addresses of its neighbours."""

    asked: SiteFilter
    sites: list[queries.SiteRow]
    tabs: list[Tab]
    total: int
    projects: list[str]

    @property
    def q(self) -> str:
        return self.asked.q

    @property
    def project(self) -> str:
        return self.asked.project

    @property
    def filtered(self) -> bool:
        return self.asked.filtered

    @property
    def here(self) -> str:
        return _address(self.asked)

    @property
    def pages(self) -> int:
        return max(1, -(-self.total // queries.PAGE_SIZE))

    @property
    def first(self) -> int:
        return (self.asked.page - 1) * queries.PAGE_SIZE + 1

    @property
    def last(self) -> int:
        return self.first + len(self.sites) - 1

    @property
    def previous_url(self) -> str:
        return _address(self.asked.with_page(self.asked.page - 1)) if self.asked.page > 1 else ""

    @property
    def next_url(self) -> str:
        return _address(self.asked.with_page(self.asked.page + 1)) if self.asked.page < self.pages else ""


def sites_page(asked: SiteFilter) -> SitesPage:
    """Read the page asked for; a page behind the last one becomes the last one."""
    counts = queries.status_counts(asked)
    total = counts[asked.status] if asked.status else sum(counts.values())
    last_page = max(1, -(-total // queries.PAGE_SIZE))
    if asked.page > last_page:
        asked = asked.with_page(last_page)
    tabs = [
        Tab(
            status,
            counts.get(status, sum(counts.values())),
            _address(asked.with_status(status)),
            status == asked.status,
        )
        for status in ("", *STATUSES)
    ]
    return SitesPage(asked, queries.site_rows(asked) if total else [], tabs, total, queries.project_names())


@signed_in
@require_safe
def overview(request: HttpRequest) -> HttpResponse:
    """The first page. The list alone when htmx asks for it: search, filters, pages, and a list that has changed."""
    # The revision is read first: what changes while the rest is read comes again through the stream.
    _, revision = head()
    page = sites_page(SiteFilter.parse(request.GET.dict()))
    part = request.headers.get("HX-Target")
    if part in ("sites", "tabs") and "HX-History-Restore-Request" not in request.headers:
        return render(request, f"dashboard/parts/{part}.html", {"page": page})
    context = {
        "section": "sites",
        "page": page,
        **fleet_context(),
        "changes": queries.last_changes(CHANGES_BESIDE),
        "live": live_query(revision),
    }
    return render(request, "dashboard/overview.html", context)


@signed_in
@require_safe
def changes(request: HttpRequest) -> HttpResponse:
    """The change log, newest first. The first page is live; an older one does not change."""
    _, revision = head()
    text = request.GET.get("before", "")
    before = int(text) if text.isascii() and text.isdigit() and len(text) < 18 else None
    found = queries.last_changes(CHANGES_PAGE, before=before)
    context = {
        "section": "changes",
        "changes": found,
        "paged": before is not None,
        "older": found[-1].revision if len(found) == CHANGES_PAGE else None,
        "live": "" if before is not None else live_query(revision, page="changes"),
    }
    return render(request, "dashboard/changes.html", context)


def _address(asked: SiteFilter) -> str:
    return reverse("dashboard:overview") + asked.query()
