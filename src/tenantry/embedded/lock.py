"""One `up` or `down` at a time for each home. Standard library only."""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from tenantry.embedded.errors import HomeUnusable
from tenantry.embedded.home import Home
from tenantry.embedded.signals import Interruption

# The slowest legitimate holder is a first up that downloads everything over a slow line.
WAIT_LIMIT = timedelta(minutes=10)


@contextmanager
def hold_lock(home: Home, interruption: Interruption, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the home's lock, waiting for another `up` or `down` to finish. It ends with this process at the latest."""
    descriptor = os.open(home.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        # Whoever can open it can hold it: a site's code would stop every up and down.
        os.fchmod(descriptor, 0o600)
        _acquire(home, descriptor, interruption, say)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _acquire(home: Home, descriptor: int, interruption: Interruption, say: Callable[[str], None]) -> None:
    told = False
    for _ in interruption.poll(WAIT_LIMIT):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not told:
                holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip()
                # Empty in the moment between locking and writing.
                which = f" (pid {holder})" if holder else ""
                say(f"Another up or down of {home.root} is at work{which}; waiting for it.")
                told = True
        else:
            return
    raise HomeUnusable(
        f"Another up or down of {home.root} has been at work for 10 minutes. Look for it, end it, try again."
    )
