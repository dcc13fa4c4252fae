"""PURE: the emperor's ini, and uWSGI's part of a vassal: a WSGI application, over uWSGI's own protocol."""

from tenantry.node.layout import Layout
from tenantry.node.render.engine import LISTENING_FD, STOP_SECONDS, EngineDriver, Protocol, queue_length
from tenantry.spec.limits import DEFAULT_LIMITS, Limits
from tenantry.spec.names import Slug
from tenantry.spec.sites import SiteSpec

# The body is taken before the application runs: one that answers without reading it (a refused upload) would reset
# the connection, and nginx would say 502 instead of passing the answer on. Above this it waits in the site's TMPDIR.
BODY_IN_MEMORY_BYTES = 65_536
OVERLOAD_SECONDS = 2  # how often uWSGI looks whether workers are busy; an idle one goes after ten times as long
BUFFER_BYTES = 65_535  # one request's variables; nginx lets at most 4 headers of 8 kB through
# A release that was built with a library that cannot do Python's last duties (`leaving`) has Python do them.
_RUN = (
    "import importlib.util, os, pyuwsgi, sys; library = importlib.util.find_spec('django_tenantry'); "
    "quick = library and os.path.exists(os.path.dirname(library.origin) + '/leaving.py'); "
    "pyuwsgi.run(sys.argv[1:] + ['--skip-atexit-teardown'] * bool(quick))"
)


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


def render_vassal(
    slug: Slug, generation: int, *, processes: int, threads: int, backlog: int, limits: Limits = DEFAULT_LIMITS
) -> str:
    """Return the ini of one generation. Which application it loads is told by the environment (TENANTRY_WSGI).

    `backlog` is the longest queue that the kernel allows.
    """
    workers = max(processes, limits.processes_max)
    backlog = min(queue_length(processes, limits), backlog)
    return f"""\
[uwsgi]
strict = true
socket = fd://{LISTENING_FD:d}
module = django_tenantry.wsgi:application
master = true
processes = {workers:d}
threads = {threads:d}
enable-threads = true
lazy-apps = true
single-interpreter = true
need-app = true
die-on-term = true
exit-on-reload = true
listen = {backlog:d}
harakiri = {limits.request_seconds:d}
socket-timeout = {limits.request_seconds:d}
buffer-size = {BUFFER_BYTES:d}
post-buffering = {BODY_IN_MEMORY_BYTES:d}
worker-reload-mercy = {STOP_SECONDS:d}
reload-mercy = {STOP_SECONDS:d}
disable-logging = true
ignore-sigpipe = true
ignore-write-errors = true
disable-write-exception = true
procname-prefix-spaced = {slug}.{generation:d}
{_growth(processes, workers)}{_memory(workers, limits.memory_mb)}"""


def _growth(processes: int, workers: int) -> str:
    """Workers come while those there are busy more than half of the time, and go again when they are not."""
    if workers == processes:
        return ""
    return f"""\
cheaper-algo = busyness
cheaper = {processes:d}
cheaper-initial = {processes:d}
cheaper-step = 1
cheaper-overload = {OVERLOAD_SECONDS:d}
"""


def _memory(workers: int, memory_mb: int) -> str:
    """A worker that has grown is replaced after its request; one that alone has more than the whole site may, at once.

    The limit itself is the kernel's (`vassal`, control groups). These keep a leak from ever reaching it.
    """
    if not memory_mb:
        return ""
    grown = memory_mb * 3 // 4 if workers == 1 else memory_mb // 2
    return f"""\
reload-on-rss = {max(grown, 1):d}
evil-reload-on-rss = {memory_mb:d}
"""


def render_unnoted_vassal(slug: Slug, generation: int, *, processes: int, threads: int, backlog: int) -> str:
    """Return the ini as agents wrote it before they noted what they write: it stays as it was then, word for word.

    What it started serves on; without this, taking over such a home would start each of its processes anew.
    `backlog` is the longest queue that the kernel allows.
    """
    return f"""\
[uwsgi]
strict = true
socket = fd://3
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
listen = {min(backlog, 1024):d}
buffer-size = 65535
post-buffering = 65536
worker-reload-mercy = 10
reload-mercy = 10
disable-logging = true
ignore-sigpipe = true
ignore-write-errors = true
disable-write-exception = true
procname-prefix-spaced = {slug}.{generation:d}
"""


def _argv(python: str, ini: str) -> list[str]:
    return [python, "-c", _RUN, "--ini", ini]


def _ini(spec: SiteSpec, generation: int, backlog: int) -> str:
    return render_vassal(
        spec.slug,
        generation,
        processes=spec.processes,
        threads=spec.threads,
        backlog=backlog,
        limits=spec.limits,
    )


DRIVER = EngineDriver(Protocol.UWSGI, _argv, _ini)
