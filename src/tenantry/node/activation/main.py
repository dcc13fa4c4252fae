"""Runs nginx, one after the other: each new one is started beside the one before, which ends when the new one answers.

1. the socket · 2. nginx, waited for until its workers take connections · 3. whoever else of nginx has the socket is
asked to finish and end. From then on
- HUP: this program and nginx are started anew (1 to 3): another binary, another nginx.conf, other code of this program;
- the master dies: a new one is started; the workers it left serve meanwhile, and end as in 3;
- TERM, INT, QUIT: everything ends.
Invariant: an nginx that answers is never ended before another one answers, except on purpose. Interrupted anywhere, by
kill -9 too, the next program finds the socket in the hands of whoever still has it and goes on at 2.
"""

import argparse
import contextlib
import ctypes
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tenantry.node.activation.listener import hand_on, holders, nginx_processes, open_listener, title

logger = logging.getLogger("tenantry.node.activation")

READY_SECONDS = 10.0
FINISH_SECONDS = 40.0  # nginx itself ends requests that are under way after 30 s
STOP_SECONDS = 3.0  # for requests under way when everything ends; supervisord kills after 6 s
STEP_SECONDS = 0.01
RETRY_SECONDS = (0.1, 0.5, 1.0, 2.0, 5.0)  # between attempts to replace a master that died
TICK_SECONDS = 1.0
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
_SIGNALS = (*_ENDING, signal.SIGHUP, signal.SIGCHLD)
_MASTER, _WORKER = b"nginx: master process ", b"nginx: worker process"
_PR_SET_CHILD_SUBREAPER = 36


class Activation:
    """One socket, the nginx that serves on it, and those on their way out."""

    def __init__(self, nginx: str, home: Path, address: str, port: int) -> None:
        self._nginx = nginx
        self._home = home
        self._listener = open_listener(address, port, home)
        self._master: int | None = None
        self._leaving: dict[int, float] = {}  # until when each may finish its requests
        self._failures = 0
        self._retry_at = 0.0

    def run(self) -> int:
        """Serve until asked to end; returns the exit code. Does not return after HUP."""
        if not self._replace() and not self._adopt():
            self._stop()
            return 1
        while True:
            caught = signal.sigtimedwait(_SIGNALS, TICK_SECONDS if not self._failures else RETRY_SECONDS[0])
            number = None if caught is None else caught.si_signo
            if number in _ENDING:
                self._stop()
                return 0
            if number == signal.SIGHUP:
                self._become_new()
            self._reap()
            self._look()

    def _replace(self) -> bool:
        """Start an nginx beside whatever serves, and have that end once the new one answers; returns whether it did."""
        pid = self._spawn()
        if not self._is_ready(pid):
            logger.error("the new nginx (%d) does not come up; see logs/nginx.log", pid)
            self._end(pid)
            return False
        self._master = pid
        self._note_master()
        until = time.monotonic() + FINISH_SECONDS
        for other in holders(self._listener):
            if other != pid and _parent(other) != pid:
                _signal(other, signal.SIGQUIT)
                self._leaving.setdefault(other, until)
        logger.info("nginx %d serves; %d processes of former ones finish", pid, len(self._leaving))
        return True

    def _adopt(self) -> bool:
        """Keep whatever of nginx serves already, workers without a master too; returns whether anything does."""
        serving = holders(self._listener)
        self._master = next((pid for pid in serving if title(pid).startswith(_MASTER)), None)
        self._note_master()
        return bool(serving)

    def _spawn(self) -> int:
        self._listener.set_inheritable(True)
        environment = {**os.environ, "NGINX": f"{self._listener.fileno()};"}
        arguments = ["-e", f"{self._home}/logs/nginx.log", "-c", f"{self._home}/etc/nginx.conf"]
        # Without this program's blocked signals.
        return os.posix_spawn(self._nginx, [self._nginx, *arguments], environment, setsigmask=())

    def _is_ready(self, pid: int) -> bool:
        """Wait until a worker of the master takes connections; False when the master ends or takes too long."""
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(ChildProcessError):
                if os.waitpid(pid, os.WNOHANG)[0] == pid:
                    return False
            if any(title(child).startswith(_WORKER) for child in _children(pid)):
                return True
            time.sleep(STEP_SECONDS)
        return False

    def _look(self) -> None:
        """Replace a master that is gone; end whoever has had its time."""
        now = time.monotonic()
        for pid, until in list(self._leaving.items()):
            if not title(pid).startswith(b"nginx: "):
                del self._leaving[pid]
            elif now > until:
                _signal(pid, signal.SIGKILL)
        if self._master is not None and title(self._master).startswith(_MASTER):
            return
        if now < self._retry_at:
            return
        logger.warning("nginx's master %s is gone", self._master or "")
        self._master = None
        if self._replace():
            self._failures = 0
            return
        self._retry_at = time.monotonic() + RETRY_SECONDS[min(self._failures, len(RETRY_SECONDS) - 1)]
        self._failures += 1

    def _reap(self) -> None:
        """Take note of children that ended. A master that ends removes the file with its successor's id."""
        reaped = False
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                reaped = True
        if reaped:
            self._note_master()

    def _note_master(self) -> None:
        """Write run/nginx.pid, as nginx does once when it starts."""
        path = self._home / "run" / "nginx.pid"
        content = f"{self._master}\n"
        with contextlib.suppress(OSError):
            if self._master is None or path.read_text() == content:
                return
        staged = path.with_name(f".{path.name}.{os.getpid()}.new")
        try:
            staged.write_text(content)
            staged.rename(path)
        except OSError as error:  # a full disk; the agent knows the master by its title as well
            logger.warning("run/nginx.pid cannot be written: %s", error.strerror)

    def _stop(self) -> None:
        """End every nginx on the socket: requests under way have some seconds."""
        left = {*holders(self._listener), *self._leaving, *_children(os.getpid())}
        self._listener.close()
        for number, seconds in ((signal.SIGQUIT, STOP_SECONDS), (signal.SIGTERM, 1.0), (signal.SIGKILL, 1.0)):
            for pid in left:
                _signal(pid, number)
            deadline = time.monotonic() + seconds
            while left and time.monotonic() < deadline:
                self._reap_quietly()
                left = {pid for pid in left if title(pid).startswith(b"nginx: ")}
                time.sleep(STEP_SECONDS)

    def _reap_quietly(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass

    def _end(self, pid: int) -> None:
        """End an nginx that never answered."""
        for child in (pid, *_children(pid)):
            _signal(child, signal.SIGKILL)
        self._reap()

    def _become_new(self) -> None:
        """Start this program anew under its process's id: it then replaces nginx."""
        environment = hand_on(self._listener)
        try:
            os.execve(sys.executable, [sys.executable, "-m", "tenantry.node.activation", *sys.argv[1:]], environment)  # noqa: S606
        except OSError as error:
            logger.error("the program cannot be started anew: %s", error)  # noqa: TRY400
            self._replace()


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:  # gone, or a kernel that does not list them
        return [other for other in nginx_processes() if _parent(other) == pid]


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tenantry.node.activation", description="Hold the listening socket, and run nginx on it."
    )
    parser.add_argument("--nginx", required=True, metavar="PROGRAM")
    parser.add_argument("--home", required=True, type=Path)
    parser.add_argument("--address", required=True)
    parser.add_argument("--port", required=True, type=int)
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # Waited for, not handled: nothing is ever interrupted in the middle.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    # Workers whose master was killed become children of this process: it learns of their end.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        return Activation(options.nginx, options.home, options.address, options.port).run()
    except OSError as error:
        print(f"nginx: {error.strerror or error}", file=sys.stderr)
        return 1
