"""Where nginx connects for a site: to the generation, or to standby, that one of two links in its directory points at.

`app.sock` leads to a socket that speaks uWSGI's protocol, `app.http` to one that speaks HTTP. The flag `engine.http`
says which of them counts: raising or lowering it is the switch between the protocols, one step, after everything else
is in place. The link that does not count stays while its generation finishes its requests, and goes with it.
While a site sleeps, the link that counts leads to standby, and `serving` says which generation a visitor wakes.
"""

import os
import stat
import time
from dataclasses import dataclass
from pathlib import Path

from tenantry.node.effects.files import read_link, remove, set_link, write_file
from tenantry.node.layout import WAKE_HTTP_TARGET, WAKE_TARGET, parse_socket, socket_name
from tenantry.node.render.engine import Protocol

_LINKS = {Protocol.HTTP: "app.http", Protocol.UWSGI: "app.sock"}
LINK_NAMES = frozenset(_LINKS.values())
FLAG_NAME = "engine.http"
FLAG_MODE = 0o644
WAKE_TARGETS = {Protocol.HTTP: WAKE_HTTP_TARGET, Protocol.UWSGI: WAKE_TARGET}


@dataclass(frozen=True, slots=True)
class Upstream:
    """The link that counts, and the generation that visitors get there, `asleep` when they wake it; None: no one's."""

    path: Path
    protocol: Protocol
    asleep: bool
    generation: int | None

    @property
    def age_seconds(self) -> float:
        """Since when it points there; without end when it is gone."""
        try:
            return time.time() - os.lstat(self.path).st_mtime
        except OSError:
            return float("inf")


def link_path(directory: Path, protocol: Protocol) -> Path:
    """Return the link for generations that speak `protocol`."""
    return directory / _LINKS[protocol]


def flag_path(directory: Path) -> Path:
    """Return the flag by which nginx knows that `app.http` counts. It tests for a file: a socket is none to it."""
    return directory / FLAG_NAME


def read_upstream(directory: Path) -> Upstream:
    """Return where nginx connects."""
    protocol = Protocol.HTTP if _is_file(flag_path(directory)) else Protocol.UWSGI
    path = link_path(directory, protocol)
    target = read_link(path)
    asleep = target == WAKE_TARGETS[protocol]
    return Upstream(path, protocol, asleep, parse_socket(read_link(directory / "serving") if asleep else target))


def lead_to(directory: Path, generation: int, protocol: Protocol) -> None:
    """Have nginx connect to `generation` from the next request on."""
    _switch(directory, protocol, socket_name(generation))


def lead_to_standby(directory: Path, protocol: Protocol) -> None:
    """Have nginx connect to standby from the next request on, which wakes a generation that speaks `protocol`."""
    _switch(directory, protocol, WAKE_TARGETS[protocol])


def _switch(directory: Path, protocol: Protocol, target: str) -> None:
    set_link(link_path(directory, protocol), target)
    if protocol is Protocol.HTTP:
        write_file(flag_path(directory), b"", mode=FLAG_MODE)
    else:
        remove(flag_path(directory))
    for other, name in _LINKS.items():
        if other is not protocol and read_link(directory / name) == WAKE_TARGETS[other]:
            remove(directory / name)  # what it would wake does not speak like that any more


def forget_generation(directory: Path, generation: int) -> None:
    """Remove the link to a generation that is gone, unless it is the one that counts."""
    counts = read_upstream(directory).path
    for name in LINK_NAMES:
        path = directory / name
        if path != counts and read_link(path) == socket_name(generation):
            remove(path)


def _is_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False
