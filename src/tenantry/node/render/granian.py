"""PURE: granian's part of a vassal: an ASGI application, over HTTP."""

from tenantry.node.render.engine import STOP_SECONDS, EngineDriver, Protocol, queue_length
from tenantry.spec.sites import SiteSpec


def _argv(python: str, ini: str) -> list[str]:
    return [python, "-m", "django_tenantry.asgi_server", ini]


def _ini(spec: SiteSpec, generation: int, backlog: int) -> str:
    backlog = min(queue_length(spec.processes, spec.limits), backlog)
    return f"""\
[granian]
workers = {spec.processes:d}
threads = {spec.threads:d}
backlog = {backlog:d}
stop-seconds = {STOP_SECONDS:d}
request-seconds = {spec.limits.request_seconds:d}
"""


DRIVER = EngineDriver(Protocol.HTTP, _argv, _ini)
