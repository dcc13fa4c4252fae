"""What was chosen at the first up and is kept since: ports, the node's name, the user ids. Standard library."""

import hashlib
import os
import re
import socket
from argparse import Namespace
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from tenantry.embedded.errors import HomeUnusable
from tenantry.embedded.files import read_json, write_json
from tenantry.embedded.home import Home
from tenantry.embedded.network import check_address, check_port
from tenantry.embedded.options import DEFAULT_HTTP_PORT, NO_ADDRESS
from tenantry.spec.users import RANGE_SIZE, SMALL_BASE, range_size

VERSION = 1
PLATFORM = "platform"
NODE = "node"
POSTGRES_PORT = 5432
REDIS_TLS_PORT = 6380
# One range for each home. systemd's list of uid ranges leaves 1,879,048,192 to 2,147,483,647 to nobody.
_FIRST_UID = 1_879_100_000
_RANGES = (2_147_483_647 - _FIRST_UID) // RANGE_SIZE


@dataclass(frozen=True, slots=True)
class Config:
    """`<home>/config.json`. `uid_base` is None when the platform runs as one ordinary user.

    `role` is PLATFORM, or NODE for a home that joined the platform at `platform_url`. `cluster_address` is where a
    platform's PostgreSQL, Redis and gateway can be reached by other machines; None: by none. `old_seals`: the home is
    from before nodes had keys of their own, and its node may remember documents sealed with the platform's.
    """

    version: int
    bind: str
    http_port: int
    control_port: int
    uid_base: int | None
    node: str
    demo_source: str | None = None
    library_wheel: str | None = None
    role: str = PLATFORM
    cluster_address: str | None = None
    postgres_port: int = POSTGRES_PORT
    redis_port: int = REDIS_TLS_PORT
    with_control: bool = False
    platform_url: str | None = None
    old_seals: bool = False

    @property
    def shares_uids(self) -> bool:
        """Whether another home on the machine may have sites under the same user ids: other nodes' ids are ours."""
        return self.role == NODE or self.cluster_address is not None or self.uid_base == SMALL_BASE

    @property
    def gateway_url(self) -> str | None:
        """Where the API and the dashboard answer to other machines, None when they do not."""
        return f"https://{self.cluster_address}:{self.control_port}" if self.cluster_address else None

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
    chosen: dict[str, Any] = {**_chosen_ports(kept, options), **_chosen_cluster(kept, options)}
    if options.bind:
        chosen["bind"] = options.bind
    if options.demo:
        chosen["demo_source"] = str(options.demo.resolve())
    if options.wheel:
        chosen["library_wheel"] = str(options.wheel.resolve())
    remembers = (home.root / "state" / "head.json").exists()
    if kept and kept.role == PLATFORM and remembers and not (home.secrets / "node.key").exists():
        chosen["old_seals"] = True
    return replace(kept or _first_config(home), **chosen)


def _first_config(home: Home) -> Config:
    """Return the defaults of a platform's first up."""
    port = DEFAULT_HTTP_PORT
    return Config(VERSION, "127.0.0.1", port, _control_port(port), choose_uid_base(home.root), node_name())


def _chosen_ports(kept: Config | None, options: Namespace) -> dict[str, Any]:
    http_port = options.http_port or (kept.http_port if kept else DEFAULT_HTTP_PORT)
    control_port = options.control_port or (
        kept.control_port if kept and kept.http_port == http_port else _control_port(http_port)
    )
    if control_port == http_port:
        raise HomeUnusable(f"--http-port and --control-port are both {http_port}. Choose two different ports.")
    return {"http_port": http_port, "control_port": control_port}


def _chosen_cluster(kept: Config | None, options: Namespace) -> dict[str, Any]:
    given = {
        "cluster_address": options.cluster_address,
        "postgres_port": options.cluster_postgres_port,
        "redis_port": options.cluster_redis_port,
    }
    chosen = {key: value for key, value in given.items() if value is not None}
    if chosen and kept and kept.role == NODE:
        raise HomeUnusable(
            f"This home is the node {kept.node} of {kept.platform_url}. Only the platform's home has --cluster options."
        )
    if chosen.get("cluster_address") == NO_ADDRESS:
        chosen["cluster_address"] = None
    return chosen


def choose_node_config(home: Home, options: Namespace) -> Config:
    """Return what a home that is to join with `options` runs with; the user ids are the platform's answer's affair."""
    kept = load_config(home)
    return Config(
        version=VERSION,
        bind=options.bind or (kept.bind if kept else "127.0.0.1"),
        **_chosen_ports(kept, options),
        uid_base=None,
        node=options.name or (kept.node if kept else node_name()),
        role=NODE,
        with_control=options.control,
        platform_url=options.url,
    )


def node_uid_base(home: Home, platforms: int | None) -> int | None:
    """Return the first user id of a node's sites: the platform's, so that files on a shared disk have one owner.

    A node that runs as an ordinary user has none; one whose platform has none chooses its own, and so does a container
    that lacks the platform's ids.
    """
    if os.geteuid() != 0:
        return None
    if platforms is not None and _maps_all(platforms):
        return platforms
    return choose_uid_base(home.root)


def save_config(home: Home, config: Config) -> None:
    """Keep `config` for the next up."""
    write_json(home.config, asdict(config))


def check_ports(config: Config) -> None:
    """Raise `PortTaken` when one of the home's ports cannot be had, `HomeUnusable` when an address is not ours."""
    check_port(config.bind, config.http_port, "--http-port", "the sites")
    if config.role == PLATFORM or config.with_control:
        check_port("127.0.0.1", config.control_port, "--control-port", "the dashboard and the API")
    if config.cluster_address is not None:
        check_address(config.cluster_address)
        for port, option, purpose in (
            (config.control_port, "--control-port", "the nodes' way to the API"),
            (config.postgres_port, "--cluster-postgres-port", "the nodes' way to PostgreSQL"),
            (config.redis_port, "--cluster-redis-port", "the nodes' way to Redis"),
        ):
            check_port(config.cluster_address, port, option, purpose)
        if config.bind in (config.cluster_address, "0.0.0.0"):  # noqa: S104  compared, not bound
            _check_apart(config)


def _check_apart(config: Config) -> None:
    """nginx and the servers share an address: their ports must differ."""
    ports = [config.http_port, config.control_port, config.postgres_port, config.redis_port]
    if len(set(ports)) < len(ports):
        raise HomeUnusable(f"Two of the ports {ports} on {config.cluster_address} are the same. Choose another one.")


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
    if _maps_all(base):
        return base
    if _maps_all(SMALL_BASE):
        return SMALL_BASE
    raise HomeUnusable(
        "This container maps too few user ids to give each site its own. "
        "Run as an ordinary user (all sites share it), or map 65,536 ids into the container."
    )


def _control_port(http_port: int) -> int:
    """Return the control port beside `http_port`. Sites on a privileged port do not make the dashboard want one."""
    return http_port + 1 if 1024 <= http_port < 65535 else 8081


def _maps_all(base: int) -> bool:
    """Whether the range from `base` exists here, for users and for groups."""
    maps = [Path(f"/proc/self/{kind}_map").read_text() for kind in ("uid", "gid")]
    return all(_is_mapped(text, base, range_size(base)) for text in maps)


def _is_mapped(text: str, first: int, count: int) -> bool:
    """Whether ids first … first + count - 1 exist under a /proc/<pid>/uid_map."""
    for line in text.splitlines():
        inside, _, length = (int(word) for word in line.split())
        if inside <= first and first + count <= inside + length:
            return True
    return False
