"""PURE: what belongs to a site's mode: how it is explained to visitors, how long it lasts, whom it lets through."""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tenantry.spec.errors import InvalidDocument

MESSAGE_MAX = 2_000  # characters of text: it is escaped, never taken for markup
PAGE_MAX = 131_072  # characters of the site's own page
RETRY_AFTER_MAX = 31 * 86_400
NETWORKS_MAX = 100
RETRY_AFTER_SECONDS = 120

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class ModeOptions:
    """What goes with a mode. `page` is HTML of the site's own, in place of the platform's; empty: the platform's.

    `retry_after_seconds` None: until `until`, else two minutes. Visitors from `networks` get the site as if it
    were live.
    """

    message: str = ""
    retry_after_seconds: int | None = None
    until: datetime | None = None
    networks: tuple[Network, ...] = ()
    page: str = ""

    @classmethod
    def from_document(cls, document: Any) -> "ModeOptions":
        """Build from the key `mode_options` of `agent_v1.desired`; unknown keys are of a newer control and left out."""
        if document is None:
            return cls()
        if not isinstance(document, Mapping):
            raise InvalidDocument(f"mode_options must be an object, not {document!r:.100}")
        retry_after = document.get("retry_after_seconds")
        if retry_after is not None and (not isinstance(retry_after, int) or not 0 <= retry_after <= RETRY_AFTER_MAX):
            raise InvalidDocument(f"mode_options.retry_after_seconds must be a number from 0 to {RETRY_AFTER_MAX}")
        try:
            until = document.get("until")
            return cls(
                message=str(document.get("message") or "")[:MESSAGE_MAX],
                retry_after_seconds=retry_after,
                until=None if until is None else _aware(datetime.fromisoformat(until)),
                networks=tuple(ipaddress.ip_network(network) for network in document.get("networks") or ()),
                page=str(document.get("page") or "")[:PAGE_MAX],
            )
        except (ValueError, TypeError) as error:
            raise InvalidDocument(f"mode_options: {error}") from error


NO_OPTIONS = ModeOptions()


def _aware(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError("until needs an offset from UTC")
    return moment
