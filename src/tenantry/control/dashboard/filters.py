"""What a person asked the list of sites for, read from the address and written back into one. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from urllib.parse import urlencode

STATUSES = ("provisioning", "ready", "failed", "deleting")
TEXT_MAX = 253  # the longest hostname
PAGE_MAX = 100_000


@dataclass(frozen=True, slots=True)
class SiteFilter:
    """Empty values filter nothing. Pages count from 1."""

    q: str = ""
    project: str = ""
    status: str = ""
    page: int = 1

    @classmethod
    def parse(cls, query: Mapping[str, str]) -> "SiteFilter":
        """Read a query string. What makes no sense is left out: an address typed by hand is never an error."""
        page = query.get("page", "")
        status = query.get("status", "")
        return cls(
            q=query.get("q", "").replace("\0", "").strip().lower()[:TEXT_MAX],
            project=query.get("project", "").replace("\0", "")[:TEXT_MAX],
            status=status if status in STATUSES else "",
            page=min(max(int(page), 1), PAGE_MAX) if page.isascii() and page.isdigit() and len(page) < 9 else 1,
        )

    @property
    def filtered(self) -> bool:
        return bool(self.q or self.project or self.status)

    def with_status(self, status: str) -> "SiteFilter":
        return replace(self, status=status, page=1)

    def with_page(self, page: int) -> "SiteFilter":
        return replace(self, page=page)

    def query(self) -> str:
        """Return the query string, with its question mark, or «?» when nothing is asked for."""
        asked = {"q": self.q, "project": self.project, "status": self.status}
        if self.page > 1:
            asked["page"] = str(self.page)
        return "?" + urlencode({name: value for name, value in asked.items() if value})
