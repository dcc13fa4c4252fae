"""PURE: granian's part of a vassal: an ASGI application, over HTTP."""

from tenantry.node.render.engine import STOP_SECONDS, EngineDriver, Protocol, queue_length
from tenantry.spec.sites import SiteSpec


def _argv(python: str, ini: str) -> list[str]:
    return [python, "-m", "django_tenantry.asgi_server", ini]


def _ini(spec: SiteSpec, generation: int, backlog: int) -> str:
    backlog = min(queue_length(spec.processes), backlog)
    return f"""\
[granian]
workers = {spec.processes:d}
threads = {spec.threads:d}
backlog = {backlog:d}
stop-seconds = {STOP_SECONDS:d}
request-seconds = {spec.limits.request_seconds:d}
{_memory(spec.limits.memory_mb)}"""


def _memory(memory_mb: int) -> str:
    """A worker that has grown is replaced by one that is started beside it: two of them have to fit.

    The limit itself is the kernel's (`vassal`, control groups). This keeps a leak from ever reaching it.
    """
    return f"worker-mb = {max(memory_mb // 2, 1):d}\n" if memory_mb else ""


DRIVER = EngineDriver(Protocol.HTTP, _argv, _ini)
