"""One up or down at a time, and nobody else who could hold it up."""

import os
import stat
from pathlib import Path

import pytest

from tenantry.embedded.home import Home
from tenantry.embedded.lock import hold_lock
from tenantry.embedded.signals import Interruption


@pytest.mark.parametrize("exists", [False, True])
def test_only_the_owner_can_open_the_lock(tmp_path: Path, exists: bool) -> None:
    """flock asks for no more than an open file: a site's code that can read it can hold it."""
    home = Home(tmp_path)
    if exists:
        home.lock.touch(mode=0o644)
    with hold_lock(home, Interruption(), print):
        assert stat.S_IMODE(os.stat(home.lock).st_mode) == 0o600
