"""What belongs to a site on the disk: where, with which mode and owner. Reads and writes nothing."""

import os
import stat
from pathlib import Path

from tenantry.node.config import Config
from tenantry.node.integrity import Place
from tenantry.node.layout import Layout, parse_vassal
from tenantry.node.planner import FLAGS, FORMER, PROCESS, STANDBY
from tenantry.node.upstream import FLAG_NAME, LINK_NAMES
from tenantry.node.vassal import ACTIVITY
from tenantry.spec.errors import UserIdsExhausted
from tenantry.spec.names import Slug
from tenantry.spec.sites import SiteSpec

RESTART = "restart"  # a person's to touch
DOCUMENT_MODE = 0o600
VASSAL_MODE = 0o644
FLAG_MODE = 0o644
PROCESS_MODE_MODE = 0o644
LOG_MODE = 0o640


def site_places(config: Config, nginx_gid: int | None, spec: SiteSpec) -> list[Place]:
    """Return the site's directories and its log, with their modes and owners."""
    layout = config.layout
    try:
        owner = config.owner(spec.number, spec.project_number)
    except UserIdsExhausted:
        return []  # never made, so nothing of it can be wrong; starting it says why
    uid, gid = (owner.uid, owner.gid) if owner else (None, None)
    data = layout.data(spec.slug)
    return [
        Place("directory", str(layout.site(spec.slug)), stat.S_IFDIR, 0o750, os.geteuid(), nginx_gid),
        Place("data", str(data), stat.S_IFDIR, 0o711, os.geteuid(), os.getegid()),
        Place("data", str(data / "media"), stat.S_IFDIR, 0o2750, uid, nginx_gid),
        Place("data", str(data / "home"), stat.S_IFDIR, 0o700, uid, gid),
        Place("data", str(data / "tmp"), stat.S_IFDIR, 0o700, uid, gid),
        Place("log", str(layout.log(spec.slug)), stat.S_IFREG, LOG_MODE, uid, config.control_gid()),
    ]


def mode_files(layout: Layout, slug: Slug) -> list[tuple[str, Path, int]]:
    """Return the documents of a site's mode: reader, path, file mode. What the process reads is no secret, the other
    holds the key of those who are let through."""
    return [
        (STANDBY, layout.mode(slug), DOCUMENT_MODE),
        (PROCESS, layout.process_mode(slug), PROCESS_MODE_MODE),
    ]


def parse_entry(name: str) -> int | None:
    """Return the generation an entry `site.<n>.json`, `vassal.<n>.ini` or `<n>.sock` belongs to."""
    for prefix, suffix in (("site.", ".json"), ("vassal.", ".ini"), ("", ".sock")):
        number = name.removeprefix(prefix).removesuffix(suffix)
        if name == f"{prefix}{number}{suffix}" and number.isdecimal() and number.isascii():
            return int(number)
    return None


def generation_in(name: str) -> int | None:
    """Return the generation an ini, a document or a socket is of."""
    vassal = parse_vassal(name)
    return vassal[1] if vassal else parse_entry(name)


def is_own(name: str) -> bool:
    links = {"serving", "idle", "static", FORMER, "media", *LINK_NAMES}
    return (
        name in links | {FLAG_NAME}
        or name in (ACTIVITY, RESTART, "mode.json")
        or name in {f"mode.{flag}" for flag in FLAGS}
    )
