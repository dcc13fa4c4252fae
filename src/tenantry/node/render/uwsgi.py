"""PURE: the emperor's ini and one vassal's ini."""

from tenantry.node.layout import Layout
from tenantry.spec.names import Slug

LISTENING_FD = 3  # where the wrapper leaves the listening socket
STOP_SECONDS = 10  # a worker that has not ended this long after it was told to is killed
# The body is taken before the application runs: one that answers without reading it (a refused upload) would reset
# the connection, and nginx would say 502 instead of passing the answer on. Above this it waits in the site's TMPDIR.
BODY_IN_MEMORY_BYTES = 65_536
BUFFER_BYTES = 65_535  # one request's variables; nginx lets at most 4 headers of 8 kB through


def render_emperor(layout: Layout) -> str:
    """Return emperor.ini. The scan every 5 s is the fallback: the agent wakes the emperor through its stats socket."""
    return f"""\
[uwsgi]
strict = true
emperor = {layout.vassals}
emperor-wrapper = {layout.etc}/vassal
emperor-stats-server = {layout.emperor_socket}
emperor-freq = 5
emperor-throttle = 1000
emperor-max-throttle = 30000
umask = 077
die-on-term = true
"""


def render_vassal(slug: Slug, generation: int, *, processes: int, threads: int, backlog: int) -> str:
    """Return the ini of one generation. Which application it loads is told by the environment (TENANTRY_WSGI)."""
    return f"""\
[uwsgi]
strict = true
socket = fd://{LISTENING_FD:d}
module = django_tenantry.wsgi:application
master = true
processes = {processes:d}
threads = {threads:d}
enable-threads = true
lazy-apps = true
single-interpreter = true
need-app = true
die-on-term = true
exit-on-reload = true
listen = {backlog:d}
buffer-size = {BUFFER_BYTES:d}
post-buffering = {BODY_IN_MEMORY_BYTES:d}
worker-reload-mercy = {STOP_SECONDS:d}
reload-mercy = {STOP_SECONDS:d}
disable-logging = true
ignore-sigpipe = true
ignore-write-errors = true
disable-write-exception = true
procname-prefix-spaced = {slug}.{generation:d}
"""
