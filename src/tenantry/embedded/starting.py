"""Starting processes under supervisord and waiting until each does its work: what a platform and a node share."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path

from tenantry.embedded.components import nginx_is_outdated
from tenantry.embedded.config import Config
from tenantry.embedded.errors import ComponentFailed
from tenantry.embedded.files import read_json, tail, write_file, write_json
from tenantry.embedded.home import Home
from tenantry.embedded.progress import Step, View
from tenantry.embedded.signals import Interruption, run_command
from tenantry.embedded.supervision import Program, State, Supervisor, render_supervisor, start_supervisor

# PostgreSQL may have to replay its log after a crash.
_READY_LIMIT = timedelta(minutes=2)
_COMMAND_LIMIT = timedelta(minutes=5)
# A process that died this often while starting will not come.
_DEATHS = 3

Missing = Callable[[str, State, float], str | None]


class Start:
    """One way up of one home. `supervisor` is set once there is something to stop."""

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
        self._nginx_differs = False  # its configuration on disk, from what it was before this way up

    def run(self, *, demo: bool) -> list[str]:
        """Do the steps; return URLs of sites."""
        raise NotImplementedError

    @property
    def _applied_file(self) -> Path:
        return self._home.etc / "applied.json"

    def _supervise(self, programs: Sequence[Program]) -> bool:
        """Start supervisord unless it runs; return whether it was started."""
        if self.supervisor is None:
            self.supervisor = start_supervisor(self._home, programs, self._interruption)
            return True
        wanted, path = render_supervisor(self._home, programs), self._home.etc / "supervisord.conf"
        known = set(self.supervisor.states())
        fresh = [program.name for program in programs if known and program.name not in known]
        kept = [program for program in programs if program.name not in fresh]
        if path.read_text() != render_supervisor(self._home, kept):
            self._view.note("Some processes are now started differently: tenantry down and up again takes that over.")
        if fresh:
            # A supervisord of a release that did not know these programs.
            write_file(path, wanted, 0o600)
            self.supervisor.take_up(fresh)
        return False

    def _prepare_node(self) -> None:
        """Write the node's own files."""
        configuration = self._home.etc / "nginx.conf"
        before = configuration.read_bytes() if configuration.exists() else None
        self._python("node prepare", {}, "tenantry.node", "prepare", "--config", str(self._home.secrets / "agent.json"))
        self._nginx_differs = before != configuration.read_bytes()

    def _python(self, what: str, environment: Mapping[str, str], *arguments: str) -> None:
        run_command(
            self._interruption,
            [str(self._home.python), "-m", *arguments],
            what=what,
            limit=_COMMAND_LIMIT,
            environment={**os.environ, **environment, "LC_ALL": "C.UTF-8"},
            directory=self._home.root,
        )

    def _end(self, names: Sequence[str], reason: str) -> None:
        """Stop processes, to be started anew."""
        supervisor = self._running_supervisor()
        for name in names:
            self._view.show(name, Step.WORKING, f"restarting: {reason}")
            supervisor.stop(name)
        for _ in self._interruption.poll(timedelta(seconds=30)):
            states = supervisor.states()
            if all(states[name].name not in ("RUNNING", "STARTING", "STOPPING") for name in names if name in states):
                return

    def _renew(self, names: Sequence[str]) -> None:
        """Have processes start their program anew under their own id. Those that do not run start with it anyway."""
        for name in names:
            self._running_supervisor().hang_up(name)

    def _renew_nginx(self) -> None:
        """Put another nginx in the place of the one that runs, if its program or configuration is another one now."""
        if self._nginx_differs or nginx_is_outdated(self._home):
            self._renew(("nginx",))

    def _bring(self, names: Sequence[str], missing_of: Missing) -> None:
        """Start processes and wait until each does its work, as `missing_of` (name, state, since) tells.

        Raises `ComponentFailed` with the end of its log.
        """
        supervisor = self._running_supervisor()
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
                self._check_alive(name, state, deaths[name], offsets[name])
                if state.name not in ("RUNNING", "STARTING"):
                    continue
                missing = missing_of(name, state, since[name])
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

    def _check_alive(self, name: str, state: State, deaths: set[int], offset: int) -> None:
        """Note the death of a process that is being started in `deaths`; raises when it will not come."""
        if state.name in ("BACKOFF", "EXITED", "FATAL"):
            deaths.add(state.since)
        if state.name == "FATAL" or len(deaths) >= _DEATHS:
            self._fail(name, f"{name} does not start: {state.message}.", offset)

    def _fail(self, name: str, message: str, offset: int) -> None:
        self._view.show(name, Step.FAILED, message)
        path = self._log(name)
        raise ComponentFailed(name, message, tail(path, since=offset), str(path))

    def _log(self, name: str) -> Path:
        return self._home.log("nginx.start" if name == "nginx" else name)

    def _running_supervisor(self) -> Supervisor:
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
