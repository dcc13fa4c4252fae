"""What templates need beyond Django: addresses of files and sites, and times that the page keeps current."""

from collections.abc import Mapping
from datetime import datetime
from urllib.parse import urlsplit

from django import template
from django.conf import settings
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from tenantry.control.config import ControlConfig
from tenantry.control.dashboard.assets import asset_url

register = template.Library()

UNSAID_PORTS = (0, 80, 443)
DIGEST_SHOWN = 8  # hexadecimal digits


@register.simple_tag
def asset(name: str) -> str:
    """The address of a file of the dashboard."""
    return asset_url(name)


@register.filter
def site_url(hostname: str) -> str:
    """The address at which a visitor reaches a hostname: the scheme of control's own, the node's port."""
    config: ControlConfig = settings.TENANTRY
    scheme = urlsplit(config.control_url).scheme or "http"
    return (
        f"{scheme}://{hostname}/" if config.http_port in UNSAID_PORTS else f"{scheme}://{hostname}:{config.http_port}/"
    )


@register.filter
def digest(text: str) -> str:
    """The beginning of a digest, without the name of its kind: enough to compare by eye."""
    return text.rpartition(":")[2][:DIGEST_SHOWN]


@register.filter
def limits(values: Mapping[str, int]) -> str:
    """A site's limits in words; those that are none are left out."""
    parts = [
        f"{values['request_seconds']} s a request",
        f"{values['processes_max']} processes" if values["processes_max"] else "",
        f"{values['memory_mb']} MB of memory" if values["memory_mb"] else "",
        f"{values['disk_mb']} MB of disk" if values["disk_mb"] else "",
    ]
    return ", ".join(part for part in parts if part)


@register.filter
def ago(moment: datetime | None) -> SafeString | str:
    """A time as «4 min ago», with the exact one beside it; app.js counts on from there."""
    if moment is None:
        return "never"
    exact = timezone.localtime(moment)
    return format_html(
        '<time datetime="{}" title="{} UTC" data-ago>{}</time>',
        exact.isoformat(timespec="milliseconds"),
        exact.strftime("%Y-%m-%d %H:%M:%S"),
        how_long_ago((timezone.now() - moment).total_seconds()),
    )


def how_long_ago(seconds: float) -> str:
    """Return the age in words. app.js has the same rule."""
    if seconds < 5:
        return "now"
    for limit, unit_seconds, unit in ((60, 1, "s"), (3600, 60, "min"), (86400, 3600, "h")):
        if seconds < limit:
            return f"{int(seconds // unit_seconds)} {unit} ago"
    return f"{int(seconds // 86400)} d ago"
