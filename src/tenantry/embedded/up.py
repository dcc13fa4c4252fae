"""Starting: from whatever is there to a platform that serves. Safe to repeat; every step looks before it acts.

1. the home: checks, layout, configuration, secrets          an interruption leaves files that the next up uses
2. supervisord, in a session of its own                      from here on an interruption stops everything
3. the stores (PostgreSQL, Redis), roles and database        each by a real probe: SQL, PING
4. migrations, the administrator, the node's files           skipped when the code is what it was
5. control, jobs, nginx, the emperor, the agent              /readyz, heartbeats, sockets that answer
6. the demo                                                  through the REST API

Invariant: when `up` that started supervisord leaves with an error or a signal, nothing of the home runs any more.
"""

import os
import time
from argparse import Namespace
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from tenantry.embedded.components import CODE, SERVERS, STORES, Platform, make_programs, probe
from tenantry.embedded.config import Config, check_ports, choose_config, load_config, save_config
from tenantry.embedded.credentials import NODE_ROLE, keep_credentials, write_reader_files
from tenantry.embedded.demo import host_demo
from tenantry.embedded.down import clear_remains, stop_platform
from tenantry.embedded.errors import ComponentFailed, EmbeddedError, HomeUnusable, Interrupted
from tenantry.embedded.files import read_json, tail, write_json
from tenantry.embedded.home import Home, check_home, create_home, make_layout
from tenantry.embedded.lock import hold_lock
from tenantry.embedded.network import answers
from tenantry.embedded.postgres import prepare_database, prepare_postgres
from tenantry.embedded.processes import find_processes, find_supervisor
from tenantry.embedded.progress import Step, View
from tenantry.embedded.redis import prepare_redis
from tenantry.embedded.signals import Interruption, run_command
from tenantry.embedded.status import follow, print_summary
from tenantry.embedded.supervision import Program, Supervisor, render_supervisor, start_supervisor

# PostgreSQL may have to replay its log after a crash.
_READY_LIMIT = timedelta(minutes=2)
_MIGRATE_LIMIT = timedelta(minutes=5)
# A process that died this often while starting will not come.
_DEATHS = 3


def up(options: Namespace, interruption: Interruption) -> int:
    """Bring the platform up; return the exit code. In the foreground this lasts until Ctrl-C or `tenantry down`."""
    os.umask(0o022)
    home = check_home(options.home)
    if find_supervisor(home) is None and not find_processes(home, load_config(home)):
        check_ports(choose_config(home, options))
    create_home(home)
    with View(f"Tenantry in {home.root}") as view, hold_lock(home, interruption, view.note):
        running = _running(home)
        if running is None:
            clear_remains(home, load_config(home), view)
        config = _agree(home, options, running is not None)
        start = _Start(home, config, view, interruption, running)
        try:
            urls = start.run(demo=not options.no_demo)
        except (EmbeddedError, Interrupted, OSError) as error:
            if running is None and start.supervisor is not None:
                interruption.ignored = True
                view.note("Stopping what was started.")
                stop_platform(home, config, view, start.supervisor)
                interruption.ignored = isinstance(error, Interrupted)
            raise
    print_summary(home, config, urls, running=running is not None, detach=options.detach)
    if options.detach or running is not None or start.supervisor is None:
        return 0
    return follow(home, config, start.supervisor, interruption)


def _running(home: Home) -> Supervisor | None:
    """Return the home's supervisord when it lives and answers."""
    return Supervisor(home) if find_supervisor(home) and answers(home.supervisor_socket) else None


def _agree(home: Home, options: Namespace, running: bool) -> Config:
    """Return the configuration for this up; raises when it cannot be had (ports taken, another one runs)."""
    config = choose_config(home, options)
    kept = load_config(home)
    if not running:
        check_ports(config)
    elif kept and (kept.bind, kept.http_port, kept.control_port) != (
        config.bind,
        config.http_port,
        config.control_port,
    ):
        raise HomeUnusable(
            f"The platform runs already, on port {kept.http_port} with its dashboard on port {kept.control_port}. "
            "To change that, stop it first: tenantry down"
        )
    return config


class _Start:
    """One way up. `supervisor` is set once there is something to stop."""

    def __init__(
        self, home: Home, config: Config, view: View, interruption: Interruption, running: Supervisor | None
    ) -> None:
        self.supervisor = running
        self._home = home
        self._config = config
        self._view = view
        self._interruption = interruption
        self._code = str((read_json(home.stamp) or {}).get("code", ""))
        self._applied = read_json(self._applied_file) or {}

    @property
    def _applied_file(self) -> Path:
        return self._home.etc / "applied.json"

    def run(self, *, demo: bool) -> list[str]:
        """Do the steps; return the demo sites' URLs."""
        self._view.add(*STORES, "database", *SERVERS)
        make_layout(self._home, self._config.uid_base)
        save_config(self._home, self._config)
        platform, programs = self._prepare()
        fresh = self.supervisor is None
        if self.supervisor is None:
            self.supervisor = start_supervisor(self._home, programs, self._interruption)
        elif (self._home.etc / "supervisord.conf").read_text() != render_supervisor(self._home, programs):
            self._view.note("Some processes are now started differently: tenantry down and up again takes that over.")
        self._bring(platform, STORES)
        changed = self._set_up(platform)
        if changed and not fresh:
            self._end(CODE)
        self._bring(platform, SERVERS)
        urls = host_demo(platform, self._view, self._interruption, made_before=self._has("demo")) if demo else []
        if demo:
            self._note_applied("demo", "made")
        return urls

    def _prepare(self) -> tuple[Platform, Sequence[Program]]:
        credentials = keep_credentials(self._home)
        if self.supervisor is None:
            self._view.show("postgres", Step.WORKING, "preparing")
        programs = prepare_postgres(self._home, credentials, self._interruption)
        prepare_redis(self._home, self._config, credentials, running=self.supervisor is not None)
        write_reader_files(self._home, self._config, credentials, str(programs))
        platform = Platform(self._home, self._config, credentials, programs)
        return platform, make_programs(platform)

    def _set_up(self, platform: Platform) -> bool:
        """Roles, migrations, the administrator, the node's files; return whether the code is not what it was."""
        changed = not self._code or self._applied.get("code") != self._code or not self._home.client.exists()
        self._view.show("database", Step.WORKING, "roles")
        prepare_database(self._home, platform.credentials)
        if changed:
            self._view.show("database", Step.WORKING, "migrating")
            self._control("migrate", "--no-input", "--verbosity", "1")
        if changed or self._applied.get("url") != self._config.control_url:
            self._view.show("database", Step.WORKING, "administrator and node")
            self._control(
                *("setup_platform", "--node-name", self._config.node, "--node-role", NODE_ROLE),
                *("--admin-password-file", str(self._home.admin_password), "--client-file", str(self._home.client)),
                *("--url", self._config.control_url),
            )
        self._view.show("database", Step.WORKING, "the node's files")
        self._python("node prepare", {}, "tenantry.node", "prepare", "--config", str(self._home.secrets / "agent.json"))
        self._note_applied("url", self._config.control_url)
        self._note_applied("code", self._code)
        self._view.show("database", Step.READY)
        return changed

    def _control(self, *arguments: str) -> None:
        environment = {"TENANTRY_CONTROL_CONFIG": str(self._home.secrets / "control.json")}
        self._python(arguments[0], environment, "tenantry.control", *arguments)

    def _python(self, what: str, environment: dict[str, str], *arguments: str) -> None:
        run_command(
            self._interruption,
            [str(self._home.python), "-m", *arguments],
            what=what,
            limit=_MIGRATE_LIMIT,
            environment={**os.environ, **environment, "LC_ALL": "C.UTF-8"},
            directory=self._home.root,
        )

    def _end(self, names: Sequence[str]) -> None:
        """Stop processes whose code changed."""
        supervisor = self._supervisor()
        for name in names:
            self._view.show(name, Step.WORKING, "restarting: the code changed")
            supervisor.stop(name)
        for _ in self._interruption.poll(timedelta(seconds=30)):
            states = supervisor.states()
            if all(states[name].name not in ("RUNNING", "STARTING", "STOPPING") for name in names if name in states):
                return

    def _bring(self, platform: Platform, names: Sequence[str]) -> None:
        """Start processes and wait until each does its work. Raises `ComponentFailed` with the end of its log."""
        supervisor = self._supervisor()
        begun = time.time()
        states = supervisor.states()
        since: dict[str, float] = {}
        offsets = {name: _size(self._log(name)) for name in names}
        for name in names:
            runs = name in states and states[name].name == "RUNNING"
            since[name] = 0.0 if runs else begun
            if not runs:
                self._view.show(name, Step.WORKING, "starting")
                supervisor.start(name)
        deaths: dict[str, set[int]] = {name: set() for name in names}
        waiting = dict.fromkeys(names, "starting")
        for _ in self._interruption.poll(_READY_LIMIT):
            states = supervisor.states()
            for name in list(waiting):
                state = states.get(name)
                if state is None:
                    continue
                if state.name in ("BACKOFF", "EXITED", "FATAL"):
                    deaths[name].add(state.since)
                if state.name == "FATAL" or len(deaths[name]) >= _DEATHS:
                    self._fail(name, f"{name} does not start: {state.message}.", offsets[name])
                if state.name not in ("RUNNING", "STARTING"):
                    continue
                missing = probe(platform, name, state, since[name])
                if missing is None:
                    del waiting[name]
                    self._view.show(name, Step.READY)
                else:
                    waiting[name] = missing
            if not waiting:
                return
            if not supervisor.alive:
                raise ComponentFailed("supervisord", "supervisord ended.", tail(self._home.log("supervisord")))
        name, missing = next(iter(waiting.items()))
        limit = _READY_LIMIT.seconds
        self._fail(name, f"{name} was not ready within {limit} s: {missing}.", offsets[name])

    def _fail(self, name: str, message: str, offset: int) -> None:
        self._view.show(name, Step.FAILED, message)
        path = self._log(name)
        raise ComponentFailed(name, message, tail(path, since=offset), str(path))

    def _log(self, name: str) -> Path:
        return self._home.log("nginx.start" if name == "nginx" else name)

    def _supervisor(self) -> Supervisor:
        if self.supervisor is None:
            raise ComponentFailed("supervisord", "supervisord was not started.")
        return self.supervisor

    def _has(self, key: str) -> bool:
        return key in self._applied

    def _note_applied(self, key: str, value: str) -> None:
        self._applied = {**self._applied, key: value}
        write_json(self._applied_file, self._applied)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
