"""PURE: what one site may use, and how long it may go without visitors before it sleeps."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from tenantry.spec.errors import InvalidDocument


@dataclass(frozen=True, slots=True)
class Limits:
    """A site's limits. A missing key has the default, so that databases and memories of before are understood.

    `idle_seconds`: an on-demand site sleeps after this long without a request. `request_seconds`: a request that takes
    longer is ended. `processes_max`: workers grow with the load up to this; 0: as many as `processes`.
    `memory_mb`: of all the site's processes together; `disk_mb`: of its uploads and temporary files; 0: no limit.
    """

    idle_seconds: int = 300
    request_seconds: int = 60
    processes_max: int = 0
    memory_mb: int = 0
    disk_mb: int = 0

    @classmethod
    def from_document(cls, document: Any) -> "Limits":
        """Build from the key `limits` of `agent_v1.desired`; unknown keys are of a newer control and left out."""
        if document is None:
            return cls()
        if not isinstance(document, Mapping):
            raise InvalidDocument(f"limits must be an object, not {document!r:.100}")
        given = {field.name: document[field.name] for field in fields(cls) if document.get(field.name) is not None}
        for name, value in given.items():
            if not isinstance(value, int) or isinstance(value, bool) or not BOUNDS[name][0] <= value <= BOUNDS[name][1]:
                raise InvalidDocument(f"limits.{name} must be a number from {BOUNDS[name][0]} to {BOUNDS[name][1]}")
        return cls(**given)


DEFAULT_LIMITS = Limits()
# What people may say, as (least, most).
BOUNDS = {
    "idle_seconds": (1, 86_400),
    "request_seconds": (1, 3_600),
    "processes_max": (0, 64),
    "memory_mb": (0, 1_048_576),
    "disk_mb": (0, 104_857_600),
}
