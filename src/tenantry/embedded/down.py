"""Stopping: everything that this home started, and nothing else. Data stays.

1. supervisord is asked to stop the processes, users before what they use: agent, jobs, control; nginx; emperor; stores.
2. supervisord is told to end.
3. What still lives and proves to be the home's (`processes`) is ended: orphans of a supervisord that was killed.
4. The control groups of its sites are removed: they are the only thing of a home outside of it.

Interrupted anywhere, doing it again goes on where it stopped.
"""

import os
import signal
import subprocess
import time
from argparse import Namespace
from datetime import timedelta
from pathlib import Path

from tenantry.embedded.components import STOP_ORDER
from tenantry.embedded.config import Config, load_config
from tenantry.embedded.errors import ComponentFailed, HomeUnusable
from tenantry.embedded.home import Home
from tenantry.embedded.lock import hold_lock
from tenantry.embedded.network import answers
from tenantry.embedded.postgres import data_directory
from tenantry.embedded.processes import end_processes, find_processes, find_supervisor, forget_supervisor, read_process
from tenantry.embedded.progress import Step, View
from tenantry.embedded.signals import Interruption
from tenantry.embedded.supervision import Supervisor

# Longer than any process's stopwaitsecs: after that supervisord has killed it.
_STOP_LIMIT = timedelta(seconds=25)
_END_LIMIT = timedelta(seconds=30)
# PostgreSQL writes its last checkpoint in this time; killed before, it would recover at the next start.
_POLITE_SECONDS = 15.0
_CLEAN_SECONDS = 30
_STOPPED = {"STOPPED", "EXITED", "FATAL", "UNKNOWN"}


def down(options: Namespace, interruption: Interruption) -> int:
    """Stop the platform of `options.home`; return 0, also when nothing ran."""
    root = options.home.expanduser().resolve()
    home = Home(root)
    if not home.config.exists():
        print(f"There is no platform in {root}.")
        return 0
    if home.config.stat().st_uid != os.geteuid():
        raise HomeUnusable(f"The platform in {root} was started by another user. Run this as that user.")
    config = load_config(home)
    with View(f"Stopping {root}") as view, hold_lock(home, interruption, view.note):
        # From here on a Ctrl-C would only leave it half stopped.
        interruption.ignored = True
        if find_supervisor(home) is None and not find_processes(home, config):
            view.note("Nothing was running.")
        else:
            stop_platform(home, config, view)
            view.note("Stopped. The data stays; bin/up brings everything back.")
    return 0


def stop_platform(home: Home, config: Config | None, view: View, supervisor: Supervisor | None = None) -> None:
    """Stop everything of the home. The caller holds the home's lock. Raises `ComponentFailed` when something stays."""
    patient = Interruption()
    supervisor = supervisor or (Supervisor(home) if find_supervisor(home) else None)
    if supervisor is not None and supervisor.alive:
        if answers(home.supervisor_socket):
            _stop_in_order(supervisor, view, patient)
        _end_supervisor(home, supervisor, view, patient)
    left = end_processes(lambda: find_processes(home, config), _POLITE_SECONDS)
    if left:
        pids = ", ".join(str(process.pid) for process in left)
        raise ComponentFailed("processes", f"These processes do not end: {pids}. End them by hand and try again.")
    home.supervisor_socket.unlink(missing_ok=True)
    forget_supervisor(home)
    _remove_groups(home, view)


def _remove_groups(home: Home, view: View) -> None:
    """Have the node remove its control groups. One that stays is harmless, and used again at the next start."""
    configuration = home.secrets / "agent.json"
    if os.geteuid() != 0 or not configuration.exists():
        return
    command = [str(home.python), "-m", "tenantry.node", "clean", "--config", str(configuration)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_CLEAN_SECONDS, check=False)
    if done.returncode != 0:
        view.note(done.stderr.strip()[-500:])


def clear_remains(home: Home, config: Config | None, view: View) -> None:
    """Before a start: end orphans, and remove what a crash or a reboot left and would stop a server from starting."""
    if find_processes(home, config):
        view.note("Ending what an earlier run left behind.")
        stop_platform(home, config, view)
        view.note("")
    data = data_directory(home)
    sockets = home.root / "postgres" / "sock"
    for lock in (data / "postmaster.pid", *sockets.glob(".s.PGSQL.*.lock")):
        # After a reboot the pid in it may be another program's, which PostgreSQL would take for its own.
        if lock.exists() and not _works_in(lock, data):
            lock.unlink()


def _stop_in_order(supervisor: Supervisor, view: View, patient: Interruption) -> None:
    for group in STOP_ORDER:
        states = supervisor.states()
        running = [name for name in group if name in states and states[name].name not in _STOPPED]
        for name in running:
            view.show(name, Step.WORKING, "stopping")
            supervisor.stop(name)
        for _ in patient.poll(_STOP_LIMIT):
            states = supervisor.states()
            for name in list(running):
                if name not in states or states[name].name in _STOPPED:
                    running.remove(name)
                    view.show(name, Step.STOPPED)
            if not running:
                break


def _end_supervisor(home: Home, supervisor: Supervisor, view: View, patient: Interruption) -> None:
    pid = find_supervisor(home)
    supervisor.shut_down()
    if pid is not None and not answers(home.supervisor_socket):
        _signal(pid, signal.SIGTERM)
    for _ in patient.poll(_END_LIMIT):
        if not supervisor.alive:
            return
    if pid is not None:
        _signal(pid, signal.SIGKILL)
        end = time.monotonic() + 5
        while supervisor.alive and time.monotonic() < end:
            time.sleep(0.05)


def _signal(pid: int, number: signal.Signals) -> None:
    if read_process(pid):
        os.kill(pid, number)


def _works_in(lock: Path, data: Path) -> bool:
    """Whether the process named in PostgreSQL's lock file works in the data directory, as its server does."""
    try:
        pid = abs(int(lock.read_text().split()[0]))
        return Path(f"/proc/{pid}/cwd").readlink() == data
    except (OSError, ValueError, IndexError):
        return False
