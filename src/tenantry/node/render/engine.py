"""PURE: what a node must know of an engine, whichever it is."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from tenantry.spec.limits import DEFAULT_LIMITS, Limits
from tenantry.spec.sites import SiteSpec

LISTENING_FD = 3  # where the wrapper leaves the listening socket
STOP_SECONDS = 10  # a worker that has not ended this long after it was told to is killed
# Who finds the queue full is told at once to come again; a longer queue only makes everybody wait longer.
QUEUE_PER_WORKER = 128
QUEUE_MAX = 1024


class Protocol(StrEnum):
    """What is spoken on a generation's socket."""

    UWSGI = "uwsgi"
    HTTP = "http"


@dataclass(frozen=True, slots=True)
class EngineDriver:
    """How one engine is run. The emperor starts it through the wrapper, and its ini's name says which generation it is.

    `argv` takes the release's interpreter and the path of the ini. `ini` takes site, generation and the longest queue
    that the kernel allows; only integers and slugs reach it.
    """

    protocol: Protocol
    argv: Callable[[str, str], list[str]]
    ini: Callable[[SiteSpec, int, int], str]


def queue_length(processes: int, limits: Limits = DEFAULT_LIMITS) -> int:
    """Return how many connections may wait for a site's workers; those of a site that may grow have room to."""
    return min(QUEUE_PER_WORKER * max(processes, limits.processes_max), QUEUE_MAX)
