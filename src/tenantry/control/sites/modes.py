"""Acts on sites' modes: one site's, many at once, a mode that ends by itself, links for those who are let in.

A mode and all that goes with it are one value: setting it replaces the former. A switch starts no process.
"""

import ipaddress
import secrets
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from tenantry.control.access.actors import JOBS, Actor, require_admin
from tenantry.control.changelog.services import ChangeType, act, append
from tenantry.control.database import database_now
from tenantry.control.deferral import defer
from tenantry.control.errors import Busy, Conflict, ControlError, InvalidInput, NotFound
from tenantry.control.fleet import secrets as node_secrets
from tenantry.control.sealing import sealer
from tenantry.control.sites.database_mode import follow_mode
from tenantry.control.sites.locking import locked_site
from tenantry.control.sites.models import Site, SiteStatus
from tenantry.control.validation import Parser, parse_number
from tenantry.spec.bypass import COOKIE, HOURS_MAX, PARAMETER, PATH, sign_bypass
from tenantry.spec.modes import MESSAGE_MAX, NETWORKS_MAX, PAGE_MAX, RETRY_AFTER_MAX, Network
from tenantry.spec.sites import Mode

UNTIL_MAX = timedelta(days=366)
SITES_MAX = 200  # of one request: it is answered within seconds, and what was done is told site by site
KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class ModeDetails:
    """What a person says of a mode. `networks` and `page` None: as they are."""

    message: str = ""
    retry_after_seconds: int | None = None
    until: datetime | None = None
    networks: Sequence[str] | None = ()
    page: str | None = field(default="", repr=False)


NO_DETAILS = ModeDetails()


@dataclass(frozen=True, slots=True)
class ModesOutcome:
    """What became of each site, by slug. `failed` has the reasons; the others are as was asked."""

    changed: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    failed: dict[str, ControlError] = field(default_factory=dict)
    revision: int = 0


@dataclass(frozen=True, slots=True)
class Bypass:
    """What lets a person into a site that is closed to others. The link gives the cookie."""

    url_path: str
    cookie: str
    expires_at: datetime


def set_mode(
    actor: Actor, slug: str, mode: str, details: ModeDetails = NO_DETAILS, *, expected_revision: int | None = None
) -> Site:
    """Change how the site answers its visitors: no new generation. What it has already is no change.

    With `until` a job makes it live again then, unless the mode is set again before. From read_only to live the mode
    changes when the database takes writes again (`sites.database_mode`).

    Raises `NotFound`, `InvalidInput`, `Conflict`, and `RevisionMismatch` unless its revision is the expected one.
    """
    require_admin(actor)
    options = _parse(mode, details)
    with act():
        site = locked_site(slug, expected_revision)
        _apply(actor, site, mode, details, options)
    return site


def set_modes(actor: Actor, slugs: Sequence[str], mode: str, details: ModeDetails = NO_DETAILS) -> ModesOutcome:
    """Set the mode of many sites: each is an act of its own, and one that fails keeps none of the others.

    Raises `InvalidInput` before anything was done.
    """
    require_admin(actor)
    options = _parse(mode, details)
    if not 1 <= len(slugs) <= SITES_MAX:
        raise InvalidInput.of("sites", f"1 to {SITES_MAX} sites at once, not {len(slugs)}.")
    outcome, revision = ModesOutcome(), 0
    for slug in dict.fromkeys(slugs):
        try:
            with act():
                site = locked_site(slug)
                changed = _apply(actor, site, mode, details, options)
        except (NotFound, Conflict, Busy) as error:
            outcome.failed[slug] = error
            continue
        (outcome.changed if changed else outcome.unchanged).append(slug)
        revision = max(revision, site.revision)
    return ModesOutcome(outcome.changed, outcome.unchanged, outcome.failed, revision)


def end_mode(site_number: int, until: datetime) -> None:
    """The time of a mode is over: the site is live again. Nothing when its mode was set again since."""
    with act():
        site = Site.objects.select_for_update(of=("self",)).select_related("project").filter(number=site_number).first()
        if site is None or site.status == SiteStatus.DELETING or site.mode_until != until:
            return
        _apply(JOBS, site, Mode.LIVE.value, NO_DETAILS, {})


def make_bypass(actor: Actor, slug: str, *, hours: int) -> Bypass:
    """Sign a cookie that lets its bearer into the site for some hours, in whatever mode it is.

    Raises `NotFound`, `InvalidInput`, and `Conflict` for a site without a hostname.
    """
    require_admin(actor)
    parse_number(hours, 1, HOURS_MAX, field="hours")
    with act():
        site = locked_site(slug)
        if not site.hostnames.exists():
            raise Conflict(f"The site «{slug}» has no hostname yet; add one first: tenantry hostname add {slug} NAME")
        key = _bypass_key(site)
        expires_at = (database_now() + timedelta(hours=hours)).replace(microsecond=0)
        append(
            ChangeType.SITE_BYPASS,
            actor=actor.name,
            site=slug,
            project=site.project.name,
            metadata={"hours": hours, "expires_at": expires_at.isoformat()},
        )
    token = sign_bypass(key, slug, int(expires_at.timestamp()))
    return Bypass(f"{PATH}?{PARAMETER}={token}", f"{COOKIE}={token}", expires_at)


def revoke_bypass(actor: Actor, slug: str) -> Site:
    """Give the site a new key: no link and no cookie made before lets anybody in once its nodes have it.

    Raises `NotFound` and `Conflict`.
    """
    require_admin(actor)
    with act():
        site = locked_site(slug)
        _renew_bypass_key(site)
        site.revision = append(
            ChangeType.SITE_BYPASS, actor=actor.name, site=slug, project=site.project.name, metadata={"revoked": True}
        )
    return site


def new_bypass_key() -> str:
    """Return a key for a site's bypass cookies. The site itself never gets it."""
    return secrets.token_urlsafe(KEY_BYTES)


def _apply(actor: Actor, site: Site, mode: str, details: ModeDetails, parsed: Mapping[str, Any]) -> bool:
    """Make the locked site what was asked; returns whether anything is different now."""
    if follow_mode(site, mode, actor.name):
        return True
    merged = dict(parsed)
    if mode != Mode.LIVE:
        for name in ("networks", "page"):
            merged.setdefault(name, site.mode_options.get(name))
    options = {name: value for name, value in merged.items() if value not in ("", [], None)}
    wanted = (mode, options, details.until)
    if (site.mode, site.mode_options, site.mode_until) == wanted:
        return False
    metadata: dict[str, Any] = {"mode": mode, "before": site.mode}
    metadata |= {name: value for name, value in options.items() if name != "page"}
    if "page" in options:
        metadata["page"] = True
    site.mode, site.mode_options, site.mode_until = wanted
    site.save(update_fields=["mode", "mode_options", "mode_until"])
    if mode != Mode.LIVE:
        _bypass_key(site)
    if details.until is not None:
        metadata["until"] = details.until.isoformat()
        # A lock of its own: a job that waits for its time must hold up no other of the site.
        lock = f"end-mode-{site.number}-{details.until.timestamp()}"
        defer(
            "end_mode",
            lock=lock,
            schedule_at=details.until,
            site_number=site.number,
            until=details.until.isoformat(),
        )
    site.revision = append(
        ChangeType.SITE_MODE, actor=actor.name, site=site.slug, project=site.project.name, metadata=metadata
    )
    return True


def _bypass_key(site: Site) -> str:
    """Return the locked site's key. A site that is older than such keys gets one, and its nodes too."""
    key = sealer().unseal(site.sealed).get("bypass_key")
    return str(key) if key else _renew_bypass_key(site)


def _renew_bypass_key(site: Site) -> str:
    box, key = sealer(), new_bypass_key()
    document = box.unseal(site.sealed)
    site.sealed = box.seal({**document, "bypass_key": key})
    site.save(update_fields=["sealed"])
    if site.status == SiteStatus.READY:
        node_secrets.reseal_site(site)
    return key


def _parse(mode: str, details: ModeDetails) -> dict[str, Any]:
    """Return the options as they are stored; what is to stay as it is, is left out."""
    parser = Parser()
    if mode not in set(Mode):
        raise InvalidInput.of("mode", f"A site's mode is {', '.join(Mode)}, not «{mode[:60]}».")
    if mode == Mode.LIVE:
        for name in ("message", "retry_after_seconds", "until", "networks", "page"):
            if getattr(details, name) not in (None, "", (), []):
                parser.refuse(name, "A live site has none of this; choose another mode, or leave it out.")
        parser.check()
        return {}
    _check_text(parser, "message", details.message)
    if len(details.message) > MESSAGE_MAX:
        parser.refuse("message", f"At most {MESSAGE_MAX} characters, not {len(details.message)}.")
    if details.retry_after_seconds is not None:
        parser.take(parse_number, details.retry_after_seconds, 0, RETRY_AFTER_MAX, field="retry_after_seconds")
    _check_until(parser, details.until)
    options: dict[str, Any] = {"message": details.message, "retry_after_seconds": details.retry_after_seconds}
    if details.networks is not None:
        options["networks"] = [str(network) for network in _parse_networks(parser, details.networks)]
    if details.page is not None:
        _check_text(parser, "page", details.page)
        size = len(details.page.encode("utf-8", "replace"))
        if size > PAGE_MAX:
            parser.refuse("page", f"A page has at most {PAGE_MAX // 1024} KiB; this one has {size:,} bytes.")
        options["page"] = details.page
    parser.check()
    return options


def _check_text(parser: Parser, name: str, text: str) -> None:
    bad = next((character for character in text if unicodedata.category(character) in ("Cc", "Cs")
                and character not in "\n\r\t"), None)  # fmt: skip
    if bad is not None:
        parser.refuse(name, f"This text has the character U+{ord(bad):04X}, which no page can show.")


def _check_until(parser: Parser, until: datetime | None) -> None:
    if until is None:
        return
    if until.tzinfo is None or until.utcoffset() is None:
        parser.refuse("until", "The time needs an offset from UTC, for example 2030-01-31T18:00:00+01:00.")
        return
    now = database_now()
    if until <= now:
        parser.refuse("until", f"This time is over; it is {now:%Y-%m-%d %H:%M:%S} UTC.")
    elif until > now + UNTIL_MAX:
        parser.refuse("until", f"At most {UNTIL_MAX.days} days from now.")


def _parse_networks(parser: Parser, texts: Sequence[str]) -> list[Network]:
    if len(texts) > NETWORKS_MAX:
        parser.refuse("networks", f"At most {NETWORKS_MAX} networks, not {len(texts)}.")
        return []
    found = []
    for text in texts:
        try:
            found.append(ipaddress.ip_network(text.strip()))
        except ValueError as error:
            parser.refuse("networks", f"«{text[:60]}» is no network such as 192.0.2.0/24 or 2001:db8::1 ({error}).")
    return sorted(set(found), key=lambda network: (network.version, network))
