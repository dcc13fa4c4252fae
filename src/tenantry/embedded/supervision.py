"""supervisord: its configuration, starting it in a session of its own, and asking it over its unix socket."""

import contextlib
import http.client
import os
import resource
import shlex
import signal
import socket
import subprocess
import xmlrpc.client
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from tenantry.embedded.errors import ComponentFailed, Interrupted
from tenantry.embedded.files import tail, write_file
from tenantry.embedded.home import Home
from tenantry.embedded.network import answers
from tenantry.embedded.processes import MARK, find_supervisor, record_supervisor
from tenantry.embedded.signals import Interruption

_START_LIMIT = timedelta(seconds=20)
_CALL_SECONDS = 10
_WANTED_FILES = 65_536
# What a person's shell sets for other programs, and what would lead ours astray.
_LEFT_OUT = ("VIRTUAL_ENV", "NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "TMUX", "COLUMNS", "LINES")
_LEFT_OUT_PREFIXES = ("PYTHON", "TENANTRY_", "DJANGO_", "PG", "UWSGI_", "SUPERVISOR_", "GRANIAN_")


@dataclass(frozen=True, slots=True)
class Program:
    """A process that supervisord keeps. `as_group`: signals go to its whole process group."""

    name: str
    argv: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    stop_signal: str = "TERM"
    stop_wait_seconds: int = 10
    as_group: bool = False
    log: str | None = None  # the name of its log when another writes <name>.log


@dataclass(frozen=True, slots=True)
class State:
    """What supervisord says of a process. `name` is one of its words: RUNNING, STARTING, BACKOFF, EXITED, FATAL, …"""

    name: str
    pid: int
    since: int
    message: str


def render_supervisor(home: Home, programs: Sequence[Program]) -> str:
    """Return supervisord.conf. Nothing starts by itself: `up` starts each when what it needs is there."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    files = _WANTED_FILES if hard == resource.RLIM_INFINITY else min(hard, _WANTED_FILES)
    sections = [
        _section("unix_http_server", {"file": str(home.supervisor_socket), "chmod": "0600"}),
        _section(
            "supervisord",
            {
                "logfile": str(home.log("supervisord")),
                "logfile_maxbytes": "5MB",
                "logfile_backups": "2",
                "pidfile": str(home.run / "supervisord.pid"),
                "directory": str(home.root),
                "umask": "022",
                "minfds": str(files),
                "silent": "true",
                **({"user": "root"} if os.geteuid() == 0 else {}),
            },
        ),
        _section(
            "rpcinterface:supervisor",
            {"supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"},
        ),
        *(_program(home, program) for program in programs),
    ]
    return "\n".join(sections)


def start_supervisor(home: Home, programs: Sequence[Program], interruption: Interruption) -> "Supervisor":
    """Start supervisord detached from this terminal; it starts nothing yet.

    Raises `ComponentFailed` when it does not answer, and leaves none behind then, nor when interrupted.
    """
    configuration = home.etc / "supervisord.conf"
    write_file(configuration, render_supervisor(home, programs), 0o600)
    home.supervisor_socket.unlink(missing_ok=True)
    errors = home.log("supervisord.start")
    with errors.open("wb") as output:
        process = subprocess.Popen(
            [str(home.python), "-m", "supervisor.supervisord", "--nodaemon", "-c", str(configuration)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=home.root,
            env=_environment(home),
            start_new_session=True,
        )
    record_supervisor(home, process.pid)
    try:
        for _ in interruption.poll(_START_LIMIT):
            if answers(home.supervisor_socket):
                return Supervisor(home, process)
            if process.poll() is not None:
                break
    except Interrupted:
        _end(process)
        raise
    _end(process)
    text = tail(errors) or tail(home.log("supervisord"))
    raise ComponentFailed("supervisord", "supervisord did not start.", text, str(home.log("supervisord")))


class Supervisor:
    """A running supervisord."""

    def __init__(self, home: Home, process: "subprocess.Popen[bytes] | None" = None) -> None:
        self._home = home
        self._process = process

    @property
    def alive(self) -> bool:
        """Whether the process exists (an own child that ended is reaped)."""
        if self._process is not None:
            return self._process.poll() is None
        return find_supervisor(self._home) is not None

    def states(self) -> dict[str, State]:
        """Return each process's state; empty when supervisord does not answer."""
        try:
            with self._proxy() as server:
                rows: Any = server.supervisor.getAllProcessInfo()
        except (OSError, http.client.HTTPException, xmlrpc.client.Error):
            return {}
        return {
            row["name"]: State(
                row["statename"], int(row["pid"]), int(row["start"]), str(row["spawnerr"] or row["description"])
            )
            for row in rows
        }

    def start(self, name: str) -> None:
        """Begin to start a process; one that runs stays as it is. The outcome shows in `states`."""
        self._call("startProcess", name, False)

    def stop(self, name: str) -> None:
        """Begin to stop a process."""
        self._call("stopProcess", name, False)

    def hang_up(self, name: str) -> None:
        """Send a process SIGHUP; one that does not run is left alone."""
        self._call("signalProcess", name, "HUP")

    def take_up(self, names: Sequence[str]) -> None:
        """Read supervisord.conf again and keep these programs too. What runs stays as it is."""
        try:
            with self._proxy() as server:
                server.supervisor.reloadConfig()
        except (OSError, http.client.HTTPException, xmlrpc.client.Error) as error:
            raise ComponentFailed(
                "supervisord", f"supervisord does not read its configuration again: {error}"
            ) from error
        for name in names:
            self._call("addProcessGroup", name)

    def shut_down(self) -> None:
        """Ask supervisord to stop what it keeps, and itself."""
        with contextlib.suppress(OSError, http.client.HTTPException, xmlrpc.client.Error), self._proxy() as server:
            server.supervisor.shutdown()

    def _call(self, method: str, *arguments: Any) -> None:
        # An answer such as "already started" or "not running" is no failure: `states` is what counts.
        with contextlib.suppress(OSError, http.client.HTTPException, xmlrpc.client.Error), self._proxy() as server:
            getattr(server.supervisor, method)(*arguments)

    def _proxy(self) -> xmlrpc.client.ServerProxy:
        return xmlrpc.client.ServerProxy("http://unix/RPC2", _UnixTransport(self._home.supervisor_socket))


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_CALL_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_CALL_SECONDS)
        try:
            self.sock.connect(str(self._path))
        except OSError:
            self.close()
            raise


class _UnixTransport(xmlrpc.client.Transport):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        connection = _UnixConnection(self._path)
        self._connection = (host, connection)  # what `close` closes
        return connection


def _program(home: Home, program: Program) -> str:
    group = "true" if program.as_group else "false"
    return _section(
        f"program:{program.name}",
        {
            "command": shlex.join(program.argv),
            "environment": ",".join(f'{name}="{value}"' for name, value in program.environment.items()),
            "directory": str(home.root),
            "autostart": "false",
            "autorestart": "true",
            "startsecs": "1",
            # Each try waits a second longer: this goes on for more than an hour before supervisord gives up.
            "startretries": "100",
            "stopsignal": program.stop_signal,
            "stopwaitsecs": str(program.stop_wait_seconds),
            "stopasgroup": group,
            # What is killed in the end is killed with its children.
            "killasgroup": "true",
            "redirect_stderr": "true",
            "stdout_logfile": str(home.log(program.log or program.name)),
            "stdout_logfile_maxbytes": "10MB",
            "stdout_logfile_backups": "3",
        },
    )


def _section(name: str, values: Mapping[str, str]) -> str:
    # supervisord expands %(…)s in values.
    lines = [f"{key} = {value.replace('%', '%%')}" for key, value in values.items() if value]
    return "\n".join([f"[{name}]", *lines, ""])


def _environment(home: Home) -> dict[str, str]:
    """Return the person's environment (proxies, package indexes) without what is not meant for servers."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in _LEFT_OUT and not name.startswith(_LEFT_OUT_PREFIXES)
    }
    path = kept.get("PATH", os.defpath)
    return {
        **kept,
        MARK: str(home.root),
        "PATH": f"{home.venv / 'bin'}:{path}:/usr/local/sbin:/usr/sbin:/sbin",
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",
    }


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a supervisord that was just started: it kept nothing yet."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            continue
        return
