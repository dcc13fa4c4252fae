"""The files that pages load: read once, served from memory under a path that changes with their content."""

import hashlib
import mimetypes
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from django.http import Http404, HttpRequest, HttpResponse
from django.urls import reverse
from django.views.decorators.http import require_safe

DIRECTORY = Path(__file__).parent / "assets"
SERVED = (
    "app.css",
    "app.js",
    "htmx.min.js",
    "htmx-ext-sse.min.js",
    "icon.svg",
    "plex-sans-400.woff2",
    "plex-sans-600.woff2",
    "plex-mono-400.woff2",
)
FOREVER = "public, max-age=31536000, immutable"
TYPES = {".woff2": "font/woff2", ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8"}


@dataclass(frozen=True)
class Assets:
    """Contents by name, and the version that names this set of files: a new release never meets an old copy."""

    contents: dict[str, bytes]
    version: str


@cache
def load_assets() -> Assets:
    """Read the files and compute their version."""
    contents = {name: (DIRECTORY / name).read_bytes() for name in SERVED}
    digest = hashlib.sha256()
    for name, content in sorted(contents.items()):
        digest.update(name.encode() + b"\0" + content)
    return Assets(contents, digest.hexdigest()[:12])


def asset_url(name: str) -> str:
    """Return the address of a file; raises KeyError for one that is not served."""
    assets = load_assets()
    if name not in assets.contents:
        raise KeyError(name)
    return reverse("dashboard:asset", args=[assets.version, name])


@require_safe
def asset(request: HttpRequest, version: str, name: str) -> HttpResponse:
    """Serve one file to anybody: the login page needs them. Another version's address gets today's file, uncached."""
    assets = load_assets()
    content = assets.contents.get(name)
    if content is None:
        raise Http404
    suffix = Path(name).suffix
    media_type = TYPES.get(suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"
    response = HttpResponse(content, content_type=media_type)
    response.headers["Cache-Control"] = FOREVER if version == assets.version else "no-store"
    return response
