"""The duty «mode»: answers for a site that may not, lets in whom the site's mode lets in.

What is decided on comes from `mode.json` and from variables that nginx sets; of the visitor's headers only the signed
cookie is believed.
"""

import ipaddress
import json
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

from django_tenantry.modes import MAINTENANCE, ModeState, answer

from tenantry.node.integrity import Signature, sign
from tenantry.node.layout import Layout, is_slug
from tenantry.node.planner import FLAGS
from tenantry.node.standby.protocol import Answer, Request
from tenantry.spec.bypass import COOKIE, PARAMETER, PATH, verify_bypass
from tenantry.spec.modes import Network
from tenantry.spec.names import Slug

logger = logging.getLogger(__name__)

LET_THROUGH = Answer(200, {"X-Accel-Redirect": "@let_through"})
KNOWN_MAX = 256  # sites whose documents are kept in memory; one has up to half a megabyte


@dataclass(frozen=True, slots=True)
class SiteMode:
    """What `mode.json` says. The default is for a flag without a document that can be read: closed to everybody."""

    state: ModeState = ModeState(MAINTENANCE)  # noqa: RUF009 - frozen
    networks: tuple[Network, ...] = ()
    bypass_key: str | None = None

    @classmethod
    def from_document(cls, document: Any) -> "SiteMode":
        """`ValueError` or `TypeError` when it is none."""
        state = ModeState.from_document(document)
        networks = tuple(ipaddress.ip_network(str(network)) for network in document.get("networks") or ())
        key = document.get("bypass_key")
        return cls(state, networks, key if isinstance(key, str) and key else None)


class Modes:
    """Answers in place of sites in a mode."""

    def __init__(self, layout: Layout, clock: Callable[[], float] = time.time) -> None:
        self._layout = layout
        self._clock = clock
        self._known: OrderedDict[Slug, tuple[Signature, SiteMode]] = OrderedDict()

    async def answer(self, request: Request) -> Answer:
        """Return what the visitor gets, or that nginx is to ask the site."""
        name = request.get("TENANTRY_SITE")
        if not is_slug(name):
            raise ValueError(f"nginx names no site: {name!r:.100}")
        slug = Slug(name)
        mode = self._read(slug)
        if request.get("DOCUMENT_URI").removesuffix("/") == PATH:  # which nginx asks about whatever the site's mode
            return self._exchange(slug, mode, request)
        if mode is None:
            return LET_THROUGH
        if not mode.state.refuses(request.get("REQUEST_METHOD")) or self._may_pass(slug, mode, request):
            return LET_THROUGH
        said = answer(
            mode.state,
            accept=request.get("HTTP_ACCEPT"),
            requested_with=request.get("HTTP_X_REQUESTED_WITH"),
            now=self._clock(),
        )
        return Answer(said.status, said.headers, said.body)

    async def run(self) -> None:
        """Nothing to be done besides."""

    def _read(self, slug: Slug) -> SiteMode | None:
        """Return the site's mode; None when it is live again since nginx looked."""
        path = self._layout.mode(slug)
        signature = sign(str(path))
        known = self._known.pop(slug, None)
        if signature is None:
            flagged = any((self._layout.site(slug) / f"mode.{flag}").exists() for flag in FLAGS)
            return SiteMode() if flagged else None
        if known is None or known[0] != signature:
            try:
                known = (signature, SiteMode.from_document(json.loads(path.read_bytes())))
            except (OSError, ValueError, TypeError) as error:
                logger.warning("%s cannot be used: %r", path, error)
                return SiteMode()
        self._known[slug] = known
        if len(self._known) > KNOWN_MAX:
            self._known.popitem(last=False)
        return known[1]

    def _may_pass(self, slug: Slug, mode: SiteMode, request: Request) -> bool:
        if mode.networks:
            visitor = ipaddress.ip_address(request.get("REMOTE_ADDR"))
            mapped = visitor.ipv4_mapped if isinstance(visitor, ipaddress.IPv6Address) else None
            if any((mapped or visitor) in network for network in mode.networks):
                return True
        return any(self._expiry(slug, mode, token) for token in _cookies(request.get("HTTP_COOKIE")))

    def _expiry(self, slug: Slug, mode: SiteMode, token: str) -> int | None:
        return None if mode.bypass_key is None else verify_bypass(mode.bypass_key, slug, token, self._clock())

    def _exchange(self, slug: Slug, mode: SiteMode | None, request: Request) -> Answer:
        """Exchange the token of a link for a cookie, and lead to the site's first page; of a live one, lead there."""
        headers = {"Cache-Control": "no-store", "X-Robots-Tag": "noindex", "Referrer-Policy": "no-referrer"}
        if mode is None:
            return Answer(303, {**headers, "Location": "/"})
        token = parse_qs(request.get("QUERY_STRING")).get(PARAMETER, [""])[-1]
        expires = self._expiry(slug, mode, token)
        if expires is None:
            text = "This link is not valid, or has run out. Ask for a new one.\n"
            return Answer(403, {**headers, "Content-Type": "text/plain; charset=utf-8"}, text.encode())
        seconds = max(1, int(expires - self._clock()))
        secure = "; Secure" if request.get("REQUEST_SCHEME") == "https" else ""
        cookie = f"{COOKIE}={token}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}"
        return Answer(303, {**headers, "Location": "/", "Set-Cookie": cookie})


def _cookies(header: str) -> list[str]:
    """Return the values of the cookie in a request; a neighbour's domain may have set another one beside it."""
    pairs = (part.strip().partition("=") for part in header.split(";"))
    return [value for name, _, value in pairs if name == COOKIE]
