"""`prepare`: the directories and the files that are written once. Idempotent; equal bytes are not written again.

The agent restores the same directories and files when they change. What they depend on beside the configuration (the
limit on open files, the interpreter) is noted, so that an agent started under other limits expects no other file.
"""

import contextlib
import json
import resource
import sys
from dataclasses import dataclass
from pathlib import Path

from tenantry.node import vassal
from tenantry.node.config import Config
from tenantry.node.effects.files import is_directory, make_directory, remove_stale, write_file
from tenantry.node.errors import ConfigError
from tenantry.node.layout import Layout
from tenantry.node.probes import entries
from tenantry.node.render.nginx import NginxSettings, render_nginx
from tenantry.node.render.uwsgi import render_emperor

SHEBANG_MAX = 255  # the kernel cuts a longer first line off
OPEN_FILES_MAX = 65_536


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What the written files depend on beside the configuration."""

    open_files: int
    python: str


@dataclass(frozen=True, slots=True)
class FixedFile:
    """A file that is the same for as long as the configuration is."""

    path: Path
    content: bytes
    mode: int = 0o644


def prepare(config: Config) -> None:
    """Make everything that nginx, the emperor and the agent need before they start."""
    layout = config.layout
    for shared in (layout.home, layout.etc, layout.run, layout.home / "logs", layout.home / "data"):
        shared.mkdir(mode=0o755, exist_ok=True)
    (layout.home / "releases").mkdir(mode=0o755, exist_ok=True)
    for directory, mode in own_directories(layout).items():
        make_directory(directory, mode)
    remove_leftovers(layout)
    circumstances = Circumstances(_open_files(), sys.executable)
    noted = json.dumps({"open_files": circumstances.open_files, "python": circumstances.python}).encode()
    write_file(_note(layout), noted, mode=0o600, durable=True)
    for file in fixed_files(config, circumstances):
        write_file(file.path, file.content, mode=file.mode, durable=True)


def remove_leftovers(layout: Layout) -> None:
    """Remove what writes left that were cut off by kill -9. For the start: nobody else may be writing."""
    for directory in [*own_directories(layout), *(layout.sites / name for name in entries(layout.sites))]:
        if is_directory(directory):
            remove_stale(directory)


def own_directories(layout: Layout) -> dict[Path, int]:
    """Return the directories that the agent alone writes to, with their modes."""
    # Searchable, not listable: a site's user learns no names of its neighbours.
    searched = (
        layout.hosts,
        layout.sites,
        layout.vassals,
        layout.modes,
        layout.site_logs,
        layout.long,
        layout.full,
        layout.nginx_temporary,
    )
    own = (layout.state, layout.state / "sites", layout.written, layout.wake_failures)
    return {layout.etc: 0o755, layout.run: 0o755} | dict.fromkeys(searched, 0o711) | dict.fromkeys(own, 0o700)


def fixed_files(config: Config, circumstances: Circumstances) -> list[FixedFile]:
    """Return the files of `etc/` as they must read."""
    layout = config.layout
    settings = NginxSettings(config.bind, config.http_port, _worker_group(config), circumstances.open_files)
    return [
        FixedFile(layout.nginx_conf, render_nginx(layout, settings).encode()),
        FixedFile(layout.etc / "emperor.ini", render_emperor(layout).encode()),
        FixedFile(layout.etc / "vassal", wrapper_script(circumstances.python), 0o755),
    ]


def noted_circumstances(layout: Layout) -> Circumstances:
    """Return what `prepare` noted; this process's own where the note is missing or damaged."""
    own = Circumstances(_open_files(), sys.executable)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        note = json.loads(_note(layout).read_bytes())
        return Circumstances(min(max(int(note["open_files"]), 64), OPEN_FILES_MAX), str(note["python"]))
    return own


def wrapper_script(python: str = sys.executable) -> bytes:
    """Return the emperor's wrapper, to be run by this interpreter without its site-packages or environment."""
    shebang = f"#!{python} -IS\n"
    if len(shebang) > SHEBANG_MAX or " " in python:
        raise ConfigError(f"the interpreter's path cannot stand in a script's first line: {python}")
    return shebang.encode() + Path(vassal.__file__).read_bytes()


def _note(layout: Layout) -> Path:
    return layout.state / "prepared.json"


def _worker_group(config: Config) -> str | None:
    return config.nginx_group if config.uid_base is not None else None


def _open_files() -> int:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return OPEN_FILES_MAX if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES_MAX)
