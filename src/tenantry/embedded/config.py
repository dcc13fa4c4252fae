"""What was chosen at the first up and is kept since: ports, the node's name, the user ids. Standard library."""

import hashlib
import os
import re
import socket
from argparse import Namespace
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from tenantry.embedded.errors import HomeUnusable
from tenantry.embedded.files import read_json, write_json
from tenantry.embedded.home import Home
from tenantry.embedded.network import check_port
from tenantry.embedded.options import DEFAULT_HTTP_PORT
from tenantry.spec.users import RANGE_SIZE, SMALL_BASE, range_size

VERSION = 1
# One range for each home. systemd's list of uid ranges leaves 1,879,048,192 to 2,147,483,647 to nobody.
_FIRST_UID = 1_879_100_000
_RANGES = (2_147_483_647 - _FIRST_UID) // RANGE_SIZE


@dataclass(frozen=True, slots=True)
class Config:
    """`<home>/config.json`. `uid_base` is None when the platform runs as one ordinary user."""

    version: int
    bind: str
    http_port: int
    control_port: int
    uid_base: int | None
    node: str
    demo_source: str | None = None
    library_wheel: str | None = None

    @property
    def control_url(self) -> str:
        """Where the API and the dashboard answer on this machine."""
        return f"http://127.0.0.1:{self.control_port}"


def load_config(home: Home) -> Config | None:
    """Return the home's configuration, None before the first up; `HomeUnusable` when it is not one of this version."""
    document = read_json(home.config)
    if document is None:
        if home.config.exists():
            raise HomeUnusable(f"{home.config} is damaged (not a JSON object). Restore it from a copy.")
        return None
    if document.get("version") != VERSION:
        raise HomeUnusable(
            f"{home.config} has version {document.get('version')!r}; this program knows version {VERSION}. "
            "Use the program that made the home, or another --home."
        )
    known = {field.name for field in fields(Config)}
    try:
        return Config(**{key: value for key, value in document.items() if key in known})
    except TypeError as error:
        raise HomeUnusable(f"{home.config} is damaged: {error}. Restore it from a copy.") from error


def choose_config(home: Home, options: Namespace) -> Config:
    """Return what an up with `options` runs with: options over what is kept over defaults. Writes nothing."""
    kept = load_config(home)
    http_port = options.http_port or (kept.http_port if kept else DEFAULT_HTTP_PORT)
    control_port = options.control_port or (
        kept.control_port if kept and kept.http_port == http_port else _control_port(http_port)
    )
    if control_port == http_port:
        raise HomeUnusable(f"--http-port and --control-port are both {http_port}. Choose two different ports.")
    return Config(
        version=VERSION,
        bind=options.bind or (kept.bind if kept else "127.0.0.1"),
        http_port=http_port,
        control_port=control_port,
        uid_base=kept.uid_base if kept else choose_uid_base(home.root),
        node=kept.node if kept else node_name(),
        demo_source=str(options.demo.resolve()) if options.demo else (kept.demo_source if kept else None),
        library_wheel=str(options.wheel.resolve()) if options.wheel else (kept.library_wheel if kept else None),
    )


def save_config(home: Home, config: Config) -> None:
    """Keep `config` for the next up."""
    write_json(home.config, asdict(config))


def check_ports(config: Config) -> None:
    """Raise `PortTaken` when one of the platform's two ports cannot be had."""
    check_port(config.bind, config.http_port, "--http-port", "the sites")
    check_port("127.0.0.1", config.control_port, "--control-port", "the dashboard and the API")


def node_name() -> str:
    """Return this machine's name as a node's name: lowercase letters, digits and dashes."""
    name = re.sub(r"[^a-z0-9]+", "-", socket.gethostname().split(".")[0].lower()).strip("-")
    return name[:40].strip("-") or "node"


def choose_uid_base(root: Path) -> int | None:
    """Return the first user id of the home's own range, None for an ordinary user (everything is that user).

    The range follows from the path, so two homes on one machine have different ones.
    """
    if os.geteuid() != 0:
        return None
    digest = hashlib.sha256(os.fsencode(root)).digest()
    base = _FIRST_UID + int.from_bytes(digest[:8], "big") % _RANGES * RANGE_SIZE
    maps = [Path(f"/proc/self/{kind}_map").read_text() for kind in ("uid", "gid")]
    if all(_is_mapped(text, base, range_size(base)) for text in maps):
        return base
    if all(_is_mapped(text, SMALL_BASE, range_size(SMALL_BASE)) for text in maps):
        return SMALL_BASE
    raise HomeUnusable(
        "This container maps too few user ids to give each site its own. "
        "Run as an ordinary user (all sites share it), or map 65,536 ids into the container."
    )


def _control_port(http_port: int) -> int:
    """Return the control port beside `http_port`. Sites on a privileged port do not make the dashboard want one."""
    return http_port + 1 if 1024 <= http_port < 65535 else 8081


def _is_mapped(text: str, first: int, count: int) -> bool:
    """Whether ids first … first + count - 1 exist under a /proc/<pid>/uid_map."""
    for line in text.splitlines():
        inside, _, length = (int(word) for word in line.split())
        if inside <= first and first + count <= inside + length:
            return True
    return False
