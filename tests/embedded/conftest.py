"""Homes for tests: short paths (sockets), reachable for other users (servers are others), nothing left running."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tenantry.embedded.config import Config, load_config
from tenantry.embedded.errors import HomeUnusable
from tenantry.embedded.home import Home, make_layout
from tenantry.embedded.processes import end_processes, find_processes


@pytest.fixture
def place() -> Iterator[Path]:
    """A short, empty directory that every user may enter; whatever still runs in it afterwards is ended."""
    path = Path(tempfile.mkdtemp(prefix="tn", dir="/tmp")).resolve()
    path.chmod(0o755)
    yield path
    for root in (path, *path.glob("*")):
        if root.is_dir():
            home = Home(root)
            config = _config_of(home)
            end_processes(lambda home=home, config=config: find_processes(home, config), 2)
    shutil.rmtree(path, ignore_errors=True)


def _config_of(home: Home) -> Config | None:
    try:
        return load_config(home)
    except HomeUnusable:
        return None


@pytest.fixture
def home(place: Path) -> Home:
    """A home with its directories, whose virtualenv is the one the tests run in."""
    return make_home(place / "home")


def make_home(root: Path) -> Home:
    """Make a home at `root` for the servers that are no Python of ours."""
    root.mkdir()
    home = Home(root)
    make_layout(home, None)
    home.venv.symlink_to(Path(sys.prefix))
    return home


@pytest.fixture
def as_somebody() -> Iterator[None]:
    """Run the test as the user nobody when we are root: root may write anywhere."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    yield
    os.seteuid(0)
