"""What is new for a page: the fragments to replace, and the parts that are to ask for themselves again."""

import re
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from django.http import Http404, HttpRequest
from django.template.loader import render_to_string
from django.utils import timezone

from tenantry.control.changelog.models import Change
from tenantry.control.changelog.queries import changes_after, head
from tenantry.control.dashboard import queries
from tenantry.control.dashboard.node_pages import fleet_context, node_context
from tenantry.control.dashboard.positions import Position
from tenantry.control.dashboard.project_pages import project_context, projects_context
from tenantry.control.dashboard.site_pages import site_context
from tenantry.control.errors import NotFound
from tenantry.control.sites.queries import site as find_site

CHANGES_BESIDE = 12
CHANGES_PAGE = 100
CHANGES_MAX = 500  # a page further behind reads itself again instead
ROWS_MAX = 40  # sites pushed one by one; with more of them the list is read again
ANNOUNCED_MAX = 3  # more than this at once is noise in a screen reader
REPORTS_MAX = 200
# A report carries the time of its writing and commits a little later: look back this far each time.
REPORT_OVERLAP = timedelta(seconds=2)

LIST_CHANGES = frozenset({"site.created", "site.removed"})
COUNT_CHANGES = frozenset({"site.provisioned", "site.failed", "site.deleted", "site.updated"})

PARTS = "dashboard/parts/"
_CSRF_TOKEN = re.compile(r'name="csrfmiddlewaretoken" value="[^"]*"')


@dataclass(frozen=True, slots=True)
class Watched:
    """What a page shows: one of PAGES, and the slug or project it is about."""

    page: str
    subject: str = ""


@dataclass(frozen=True, slots=True)
class News:
    """What to send. `rows` are the lines of sites, each for the page that shows it; `fragments` replace parts of the
    page by their id; `refresh` names the events on which parts of the page ask for themselves again."""

    rows: dict[str, str] = field(default_factory=dict)
    fragments: list[str] = field(default_factory=list)
    refresh: list[str] = field(default_factory=list)
    busy: bool = False


class Reader:
    """Reads for one stream, again and again, what it has not sent yet. Used by one thread at a time."""

    def __init__(self, request: HttpRequest, watched: Watched, position: Position | None) -> None:
        self.position = position or Position(0, timezone.now())
        self._request = request
        self._watched = watched
        self._sent_reports: dict[tuple[str, str], datetime] = {}
        self._sent_parts: dict[str, str] = {}

    def read(self) -> News:
        """Return what is new since the last call, and move the position there."""
        seen = self.position.revision
        _, revision = head()
        changes = changes_after(seen, CHANGES_MAX + 1) if revision > seen else []
        slugs = self._reported_sites()
        # Further behind than it pays to follow, or ahead of a database that was restored from a backup.
        lost = len(changes) > CHANGES_MAX or revision < seen
        self.position = replace(self.position, revision=revision if lost or not changes else changes[-1].revision)
        read = getattr(self, f"_read_{self._watched.page}")
        news: News = read(changes, slugs, seen, lost)
        return news

    def _reported_sites(self) -> set[str]:
        """Return the sites that nodes have reported on since, each report once."""
        found = queries.reports_since(self.position.reported - REPORT_OVERLAP, REPORTS_MAX)
        new = [entry for entry in found if self._sent_reports.get((entry.node, entry.slug)) != entry.reported_at]
        if found:
            latest = max(self.position.reported, found[-1].reported_at)
            self.position = replace(self.position, reported=latest)
            # Beyond the limit there is no telling which were sent: keep what is read again because of the overlap.
            self._sent_reports = {(entry.node, entry.slug): entry.reported_at for entry in found}
        return {entry.slug for entry in new}

    def _read_overview(self, changes: list[Change], slugs: set[str], seen: int, lost: bool) -> News:
        slugs = slugs | {change.site_slug for change in changes if change.site_slug}
        types = {change.type for change in changes}
        busy = lost or len(slugs) > ROWS_MAX
        rows, refresh, fragments = {}, [], [self._part("nodes", **fleet_context())]
        if busy or types & LIST_CHANGES:
            refresh.append("sites")
        elif types & COUNT_CHANGES:
            refresh.append("counts")
        if slugs and not busy:
            rows = {row.slug: self._part("site_row", site=row) for row in queries.site_rows_of(slugs)}
        if changes or lost:
            fragments.append(self._part("changes", changes=queries.last_changes(CHANGES_BESIDE), seen=seen))
            fragments += self._announced(changes)
        return News(rows, fragments, refresh, busy)

    def _read_changes(self, changes: list[Change], slugs: set[str], seen: int, lost: bool) -> News:
        if not changes and not lost:
            return News()
        return News(fragments=[self._part("changes", changes=queries.last_changes(CHANGES_PAGE), seen=seen)])

    def _read_site(self, changes: list[Change], slugs: set[str], seen: int, lost: bool) -> News:
        slug = self._watched.subject
        own = [change for change in changes if change.site_slug == slug]
        if not own and slug not in slugs and not lost:
            return News()
        try:
            context = {**site_context(find_site(slug)), "seen": seen}
        except NotFound:
            return News(fragments=[self._part("site_gone", slug=slug)])
        names = ("site_head", "site_state", "hostnames", "site_facts", "changes")
        return News(fragments=[*(self._part(name, **context) for name in names), *self._announced(own)])

    def _read_projects(self, changes: list[Change], slugs: set[str], seen: int, lost: bool) -> News:
        if not lost and not any(change.project for change in changes):
            return News()
        return News(fragments=[self._part("projects", **projects_context())])

    def _read_project(self, changes: list[Change], slugs: set[str], seen: int, lost: bool) -> News:
        if not lost and not any(change.project == self._watched.subject for change in changes):
            return News()
        try:
            context = project_context(self._watched.subject)
        except Http404:
            return News()
        return News(fragments=[self._part(name, **context, seen=seen) for name in ("releases", "changes")])

    def _read_nodes(self, changes: list[Change], slugs: set[str], seen: int, lost: bool) -> News:
        return self._news_of_nodes({"fleet": fleet_context()})

    def _read_node(self, changes: list[Change], slugs: set[str], seen: int, lost: bool) -> News:
        try:
            context = node_context(self._watched.subject)
        except Http404:
            return News(fragments=[self._part("node_gone", gone=self._watched.subject)])
        return self._news_of_nodes(dict.fromkeys(("node_head", "node_state", "node_drift", "node_facts"), context))

    def _news_of_nodes(self, parts: dict[str, dict[str, Any]]) -> News:
        """Nodes beat without a note, so their parts are read at every tick, and sent when they have another text."""
        written = {name: self._part(name, **context) for name, context in parts.items()}
        fragments = [text for name, text in written.items() if self._sent_parts.get(name) != _without_token(text)]
        self._sent_parts = {name: _without_token(text) for name, text in written.items()}
        return News(fragments=fragments)

    def _announced(self, changes: list[Change]) -> list[str]:
        """Return the line that is read aloud, for changes of sites when they are few."""
        of_sites = [change for change in changes if change.site_slug]
        if not of_sites or len(of_sites) > ANNOUNCED_MAX:
            return []
        return [self._part("announce", changes=of_sites)]

    def _part(self, name: str, **context: Any) -> str:
        """Render a part so that it replaces the one on the page. The request gives its forms their CSRF token."""
        return render_to_string(f"{PARTS}{name}.html", {**context, "pushed": True}, self._request)


def _without_token(text: str) -> str:
    """Return a part as it is compared: its forms' CSRF token is masked anew each time."""
    return _CSRF_TOKEN.sub("", text)
