"""The form of a site's mode: what it shows."""

from datetime import UTC
from typing import Any

from tenantry.control.sites.queries import SiteView

MODES = (
    ("live", "live: everything"),
    ("read_only", "read_only: pages, but nothing can be changed"),
    ("maintenance", "maintenance: a page that says so"),
    ("paused", "paused: a page that says so, until somebody ends it"),
)


def mode_form(found: SiteView) -> dict[str, Any]:
    """Return what the form shows of a site as it is."""
    until = found.mode_options.until
    typed = {
        "mode": found.mode,
        "message": found.mode_options.message,
        "until": "" if until is None else f"{until.astimezone(UTC):%Y-%m-%d %H:%M:%S}",
    }
    return {"modes": MODES, "mode_typed": typed, "mode_errors": {}, "mode_error": ""}
