"""`prepare`: the directories and the files that are written once. Idempotent; equal bytes are not written again."""

import resource
import sys
from pathlib import Path

from tenantry.node import vassal
from tenantry.node.config import Config
from tenantry.node.effects.files import make_directory, remove_stale, write_file
from tenantry.node.errors import ConfigError
from tenantry.node.render.nginx import NginxSettings, render_nginx
from tenantry.node.render.uwsgi import render_emperor

SHEBANG_MAX = 255  # the kernel cuts a longer first line off
OPEN_FILES_MAX = 65_536


def prepare(config: Config) -> None:
    """Make everything that nginx, the emperor and the agent need before they start."""
    layout = config.layout
    for shared in (layout.home, layout.etc, layout.run, layout.home / "logs", layout.home / "data"):
        shared.mkdir(mode=0o755, exist_ok=True)
    (layout.home / "releases").mkdir(mode=0o755, exist_ok=True)
    # Searchable, not listable: a site's user learns no names of its neighbours.
    for own in (layout.hosts, layout.sites, layout.vassals, layout.site_logs, layout.run / "nginx-tmp"):
        make_directory(own, 0o711)
    make_directory(layout.state, 0o700)
    make_directory(layout.state / "sites", 0o700)
    for directory in (layout.hosts, layout.sites, layout.vassals, layout.state / "sites"):
        remove_stale(directory)
    settings = NginxSettings(config.bind, config.http_port, _worker_group(config), _open_files())
    write_file(layout.etc / "nginx.conf", render_nginx(layout, settings).encode(), durable=True)
    write_file(layout.etc / "emperor.ini", render_emperor(layout).encode(), durable=True)
    write_file(layout.etc / "vassal", wrapper_script(), mode=0o755, durable=True)


def wrapper_script() -> bytes:
    """Return the emperor's wrapper, to be run by this interpreter without its site-packages or environment."""
    shebang = f"#!{sys.executable} -IS\n"
    if len(shebang) > SHEBANG_MAX or " " in sys.executable:
        raise ConfigError(f"the interpreter's path cannot stand in a script's first line: {sys.executable}")
    return shebang.encode() + Path(vassal.__file__).read_bytes()


def _worker_group(config: Config) -> str | None:
    return config.nginx_group if config.uid_base is not None else None


def _open_files() -> int:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return OPEN_FILES_MAX if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES_MAX)
