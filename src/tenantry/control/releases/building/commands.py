"""Run a command of a build: as the project's user, in a clean environment, with a time limit and a log."""

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, cast

from tenantry.control.releases.building.context import LOG_TAIL_LINES, Cancellation, StepFailed
from tenantry.spec.users import control_uid

LOG_LIMIT_BYTES = 20_000_000  # of one command; a build that prints without end must not fill the disk
STOP_GRACE_SECONDS = 3.0
POLL_SECONDS = 0.2  # how late a cancellation or an exit with an inherited pipe may be noticed
LISTINGS_MAX = 20  # of processes to be killed; what is left then is stuck in the kernel
QUIET_LISTINGS = 3  # that find nobody: one may look between a process that has forked and its child
LISTING_PAUSE_SECONDS = 0.01
KILL_SECONDS = 0.5  # what it kills may stop it
PROCESSES_MAX = 1024  # and threads, of one project's or site's user at a time
DISK_FULL = "The disk is full. Free some space (old releases and backups take most) and build again."


@dataclass(frozen=True, slots=True)
class Owner:
    """The user that a project's code runs as. None: whoever runs the platform."""

    uid: int | None = None
    gid: int | None = None
    groups: tuple[int, ...] = ()


@dataclass(slots=True)
class BuildLog:
    """The log of one build: a file that `tenantry release log` follows, and its last lines in memory."""

    path: Path
    group: int | None = None  # who may read it besides the platform: control, which shows it
    _file: BinaryIO = field(init=False)
    _tail: deque[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("wb", buffering=0)
        if self.group is not None:
            os.chown(self._file.fileno(), -1, self.group)
        os.chmod(self._file.fileno(), 0o640)  # noqa: PTH101 - a descriptor
        self._tail = deque(maxlen=LOG_TAIL_LINES)

    def write(self, data: bytes) -> None:
        self._file.write(data)
        for line in data.splitlines():
            self._tail.append(line[:2000])

    def say(self, text: str) -> None:
        self.write(text.encode("utf-8", "replace") + b"\n")

    @property
    def tail(self) -> str:
        # NUL is the one character that PostgreSQL's text refuses.
        return b"\n".join(self._tail).decode("utf-8", "replace").replace("\0", "")

    def close(self) -> None:
        self._file.close()


@dataclass(frozen=True, slots=True)
class Command:
    """A command line with all that it may see."""

    argv: Sequence[str]
    cwd: Path
    environment: Mapping[str, str]
    seconds: float
    quiet: bool = False  # the output is an answer for us, not for the log


@dataclass(frozen=True, slots=True)
class Runner:
    """Runs commands for one build."""

    owner: Owner
    log: BuildLog
    cancelled: Cancellation

    def run(self, command: Command, failure: str) -> str:
        """Return the standard output and error of `command`; raises `StepFailed` when it fails.

        The message begins with `failure` and ends with the last line printed, which is where Python, uv and git say
        what was wrong. The command's whole process group is gone when this returns.
        """
        code, output = self.attempt(command)
        if code == 0:
            return output
        raise StepFailed(explain(failure, output))

    def attempt(self, command: Command) -> tuple[int, str]:
        """Return the exit code and the output; `StepFailed` for a time limit, a cancellation or a missing program."""
        if self.cancelled.is_set():
            raise StepFailed("The build was cancelled.")
        if not command.quiet:
            self.log.say("$ " + " ".join("…" if "\n" in word else word for word in command.argv))
        try:
            process = subprocess.Popen(
                [*_limits(self.owner), *command.argv],
                cwd=command.cwd,
                env=dict(command.environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                umask=0o027,
                user=self.owner.uid,
                group=self.owner.gid,
                extra_groups=None if self.owner.uid is None else list(self.owner.groups),
            )
        except OSError as error:
            raise StepFailed(f"{command.argv[0]} could not be started: {error.strerror}.") from error
        stream = cast(BinaryIO, process.stdout)
        try:
            return self._collect(process, stream, command)
        finally:
            stop_group(process)
            stream.close()

    def _collect(self, process: "subprocess.Popen[bytes]", stream: BinaryIO, command: Command) -> tuple[int, str]:
        deadline = time.monotonic() + command.seconds
        kept = bytearray()
        written = 0
        os.set_blocking(stream.fileno(), False)
        with selectors.DefaultSelector() as selector:
            selector.register(stream, selectors.EVENT_READ)
            while True:
                ended = process.poll() is not None
                selector.select(0 if ended else POLL_SECONDS)
                chunk = _read(stream)
                if chunk:
                    kept += chunk
                    del kept[:-1_000_000]
                    if not command.quiet and written < LOG_LIMIT_BYTES:
                        self.log.write(chunk)
                        written += len(chunk)
                elif ended:
                    # A grandchild may hold the pipe open for ever: the end of the command is what counts.
                    return process.returncode, kept.decode("utf-8", "replace")
                elif chunk == b"":
                    selector.unregister(stream)
                    return _wait(process, deadline, self.cancelled), kept.decode("utf-8", "replace")
                if self.cancelled.is_set():
                    raise StepFailed("The build was cancelled.")
                if time.monotonic() > deadline:
                    raise StepFailed(f"{Path(command.argv[0]).name} did not end within {command.seconds:.0f} s.")


def _limits(owner: Owner) -> list[str]:
    """What stands before a command of another user: no set-user-ID program works, and a fork bomb ends."""
    if owner.uid is None:
        return []
    return ["/usr/bin/prlimit", f"--nproc={PROCESSES_MAX}", "--core=0", "/usr/bin/setpriv", "--no-new-privs"]


def _read(stream: BinaryIO) -> bytes | None:
    """Return what can be read now, b"" at the end, None when there is nothing yet."""
    try:
        return os.read(stream.fileno(), 65_536)
    except BlockingIOError:
        return None


def _wait(process: "subprocess.Popen[bytes]", deadline: float, cancelled: Cancellation) -> int:
    while time.monotonic() < deadline and not cancelled.is_set():
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(POLL_SECONDS)
    raise StepFailed("The build was cancelled." if cancelled.is_set() else "The command closed its output and hung.")


def stop_group(process: "subprocess.Popen[bytes]") -> None:
    """End the process and all of its group; returns when the process is reaped."""
    if process.poll() is None:
        _signal_group(process.pid, signal.SIGTERM)
        try:
            process.wait(STOP_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            pass
    _signal_group(process.pid, signal.SIGKILL)
    process.wait()


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def end_processes_of(uid: int | None) -> None:
    """Kill every process of a project's or a site's user: its code may have left one that daemonised.

    Projects and sites have users of their own, so nobody else is hit. Nothing is done where they have none.
    Returns when none was found `QUIET_LISTINGS` times in a row, at the latest after `LISTINGS_MAX` listings.
    """
    if uid is None or uid == 0:
        return
    quiet = 0
    for _ in range(LISTINGS_MAX):
        _kill_as(uid)
        pids = [pid for pid in _processes() if _runs_as(pid, uid)]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        quiet = 0 if pids else quiet + 1
        if quiet == QUIET_LISTINGS:
            return
        time.sleep(LISTING_PAUSE_SECONDS)


def _kill_as(uid: int) -> None:
    """Have the kernel kill all that runs as `uid` in one act, which no fork slips through.

    Only that user may ask for it without asking for more; its processes may end or stop the one that asks.
    """
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(
            ["/bin/sh", "-c", "kill -KILL -1"],
            cwd="/",
            env={},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=KILL_SECONDS,
            check=False,
            user=uid,
            group=uid,
            extra_groups=[],
        )


def control_group(uid_base: int | None) -> int | None:
    """The group of control's web processes, which run as U + 1."""
    return None if uid_base is None else control_uid(uid_base)


def _processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _runs_as(pid: int, uid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    return fields.get("State", "Z")[0] != "Z" and str(uid) in fields.get("Uid", "").split()


def explain(failure: str, output: str) -> str:
    """Return one message: `failure`, and the line of `output` that says why."""
    if "No space left on device" in output or "Disk quota exceeded" in output:
        return DISK_FULL
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    # git explains itself after the line that matters; Python and uv end with it.
    fatal = [line.removeprefix("fatal: ") for line in lines if line.startswith("fatal: ")]
    words = (fatal or [line.removeprefix("error: ") for line in lines] or ["it printed nothing"])[-1]
    return f"{failure}: {words[:500]}"
