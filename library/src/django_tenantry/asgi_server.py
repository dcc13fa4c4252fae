"""The server inside an ASGI site's processes: granian, on the socket that the platform bound.

    python -m django_tenantry.asgi_server /…/run/vassals/<slug>.<generation>.ini

The launcher takes the listening socket as descriptor 3 and starts workers, each of which loads the site's application
(`django_tenantry.asgi`) by itself, and may ask the others (`asgi_workers`). It does what the emperor expects of a
process it started: it says when it is loyal, and it ends when it is told to or the emperor is gone. granian can bind a
path but not take a socket over: that step of its server is replaced here, and workers are told their numbers, which is
why its version is pinned.

When the process has to end: 1 the workers are told through a pipe, and close what would be cut off (`ending`) ·
2 they stop accepting and finish their requests · 3 after `stop-seconds` the rest is killed. A launcher that is killed
closes the pipe, too, so no worker is left behind. A worker that has grown is replaced by one that is started first,
and hears of its end by a signal. A worker that ends before any of them had loaded the application ends
the process: the same would happen to the next one. Later ones are replaced.
"""

import configparser
import functools
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django_tenantry.asgi_workers import Workers
from django_tenantry.ending import STOP_FD_VARIABLE

LISTENING_FD = 3
EMPEROR_VARIABLE = "UWSGI_EMPEROR_FD"
LOYAL = b"\x11"  # what uWSGI's emperor calls a process that started well: it is not put on its blacklist when it ends
GROWN_STEP_SECONDS, GROWN_STEPS = 20, 2  # how often, in a row, a worker is seen to be too large: a start costs, too
REQUESTS_MAX = 1000  # and websockets, of one worker at a time: each takes a descriptor


@dataclass(frozen=True)
class Plan:
    """What the platform wrote for one generation. `name` is `<slug>.<generation>`.

    A worker that is seen to have more than `worker_mb` of memory is replaced; 0: none is.
    """

    name: str
    workers: int
    threads: int
    backlog: int
    stop_seconds: int
    request_seconds: int
    worker_mb: int


def read_plan(path: Path) -> Plan:
    """Return the plan in the ini at `path`; KeyError or ValueError when it is not whole."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(path.read_text(), str(path))
    section = parser["granian"]
    return Plan(
        path.stem,
        workers=int(section["workers"]),
        threads=int(section["threads"]),
        backlog=int(section["backlog"]),
        stop_seconds=int(section["stop-seconds"]),
        request_seconds=int(section["request-seconds"]),
        worker_mb=int(section.get("worker-mb", "0")),
    )


class Pipes:
    """How launcher and workers tell each other: `stop` ends when the launcher ends, `loaded` gets a byte per worker."""

    def __init__(self) -> None:
        self._stop, self._stopping = os.pipe()
        self._loaded, self._loading = os.pipe()

    def become_worker(self) -> None:
        """In a worker: keep its own ends alone, and let the application know where to look."""
        os.close(self._stopping)
        os.close(self._loaded)
        os.environ[STOP_FD_VARIABLE] = str(self._stop)

    def say_loaded(self) -> None:
        """In a worker: the application is loaded."""
        os.write(self._loading, b"+")
        os.close(self._loading)

    def wait_loaded(self) -> None:
        """In the launcher: return when one worker has loaded the application."""
        os.read(self._loaded, 1)

    def stop_workers(self) -> None:
        """In the launcher: all workers have to end."""
        os.close(self._stopping)


class Launcher:
    """The process that the emperor started."""

    def __init__(self, plan: Plan, emperor: "int | None") -> None:
        self._plan = plan
        self._emperor = emperor
        self._pipes = Pipes()
        self._workers = Workers(plan.workers)
        self._server = make_server(plan, self._pipes.stop_workers)
        self._is_loaded = False

    def serve(self) -> None:
        """Serve until told to end; returns when all workers are gone, SystemExit 1 when they keep ending."""
        self._server.on_startup(self._begin)
        try:
            self._server.serve(target_loader=self._load, wrap_loader=False)
        except SystemExit:
            why = "its workers keep ending" if self._is_loaded else "a worker ended before it had loaded the site"
            print(f"{self._plan.name}: {why}", file=sys.stderr)
            raise

    def _load(self, index: int) -> Callable[..., Any]:
        """In the worker with this number."""
        self._pipes.become_worker()
        self._workers.become(index)
        if self._emperor is not None:
            os.close(self._emperor)
        from django_tenantry.asgi import application

        application.join(self._workers)
        self._pipes.say_loaded()
        return application

    def _begin(self) -> None:
        threading.Thread(target=self._wait_loaded, daemon=True).start()
        if self._emperor is not None:
            threading.Thread(target=self._obey, args=(self._emperor,), daemon=True).start()

    def _wait_loaded(self) -> None:
        self._pipes.wait_loaded()
        self._is_loaded = True
        self._server.respawn_failed_workers = True
        if self._emperor is not None:
            os.write(self._emperor, LOYAL)

    def _obey(self, emperor: int) -> None:
        """End when the emperor says so. «Reload», too: it starts another one then, through its wrapper."""
        try:
            os.read(emperor, 1)
        except ConnectionError:
            pass  # the emperor is gone
        os.kill(os.getpid(), signal.SIGTERM)


def make_server(plan: Plan, stop_workers: Callable[[], None]) -> Any:
    """Return granian's server, to be given the socket that is open already; `stop_workers` is called before it ends."""
    from granian._granian import SocketHolder
    from granian.constants import HTTPModes, Interfaces
    from granian.log import LogLevels
    from granian.server.mp import MPServer

    base: Any = MPServer
    holder: Any = SocketHolder

    class Server(base):  # type: ignore[misc]
        def _init_shared_socket(self) -> None:
            self._ssp = self._sso = None
            self._shd = holder(LISTENING_FD, True, plan.backlog)
            self._sfd = LISTENING_FD

        def _spawn_worker(self, idx: int, target: Any, callback_loader: Callable[[int], Any]) -> Any:
            return super()._spawn_worker(idx, target, functools.partial(callback_loader, idx))

        def _stop_workers(self) -> None:
            stop_workers()
            super()._stop_workers()

    return Server(
        target=plan.name,
        interface=Interfaces.ASGI,
        http=HTTPModes.http1,
        workers=plan.workers,
        backlog=plan.backlog,
        backpressure=REQUESTS_MAX,
        workers_kill_timeout=plan.stop_seconds,
        workers_max_rss=plan.worker_mb or None,
        rss_sample_interval=GROWN_STEP_SECONDS,
        rss_samples=GROWN_STEPS,
        log_level=LogLevels.error,
    )


def main(arguments: "list[str]") -> None:
    """Serve the generation whose ini is the only argument."""
    if len(arguments) != 1:
        raise SystemExit("usage: python -m django_tenantry.asgi_server INI")
    emperor = os.environ.pop(EMPEROR_VARIABLE, None)
    plan = read_plan(Path(arguments[0]))
    os.environ["TENANTRY_THREADS"] = str(plan.threads)
    os.environ["TENANTRY_REQUEST_SECONDS"] = str(plan.request_seconds)
    multiprocessing.set_start_method("fork")
    Launcher(plan, None if emperor is None else int(emperor)).serve()


if __name__ == "__main__":
    main(sys.argv[1:])
