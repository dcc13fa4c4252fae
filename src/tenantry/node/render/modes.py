"""PURE: the documents of a site's mode: what standby reads of it, and what the site's own process does.

The process's (`django_tenantry.modes` gives its form) has only what visitors are told anyway. Standby's says besides
whom to let through: the networks, and the key of signed cookies, which the site itself does not have: a tenant whose
site was paused cannot open it.
"""

from typing import Any

from tenantry.spec.sites import SiteSpec

VERSION = 1


def process_mode_document(spec: SiteSpec) -> dict[str, Any]:
    """Return what the site's process is told."""
    options = spec.mode_options
    return {
        "version": VERSION,
        "mode": spec.mode.value,
        "message": options.message,
        "retry_after_seconds": options.retry_after_seconds,
        "until": None if options.until is None else options.until.timestamp(),
        "page": options.page,
    }


def standby_mode_document(spec: SiteSpec, bypass_key: str | None) -> dict[str, Any]:
    """Return what standby is told. `bypass_key` None: no cookie lets anybody through."""
    networks = sorted(str(network) for network in spec.mode_options.networks)
    return {**process_mode_document(spec), "networks": networks, "bypass_key": bypass_key}
