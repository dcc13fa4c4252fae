"""Ctrl-C at any moment: signals set a flag, and everything that waits looks at it.

No exception is ever thrown into the middle of a statement, so whatever was started is known and can be stopped.
"""

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from types import FrameType

from tenantry.embedded.errors import CommandFailed, Interrupted

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_POLL_SECONDS = 0.05
_OUTPUT_LINES = 15


class Interruption:
    """Whether a person asked to stop. `check` raises `Interrupted`; call it wherever leaving is safe."""

    def __init__(self) -> None:
        self.asked = False
        self.ignored = False

    def listen(self) -> None:
        """Take over SIGINT, SIGTERM and SIGHUP, and let those arrive that were held back over the exec."""
        for number in _SIGNALS:
            signal.signal(number, self._note)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)

    def check(self) -> None:
        """Raise `Interrupted` once a signal has come."""
        if self.asked and not self.ignored:
            raise Interrupted

    def sleep(self, seconds: float) -> None:
        """Sleep, in slices, so that a signal is noticed."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.check()
            time.sleep(min(left, _POLL_SECONDS))
        self.check()

    def poll(self, limit: timedelta, every_seconds: float = _POLL_SECONDS) -> Iterator[float]:
        """Yield the seconds gone, again and again until `limit`; raises `Interrupted` in between."""
        begun = time.monotonic()
        while (gone := time.monotonic() - begun) < limit.total_seconds():
            self.check()
            yield gone
            self.sleep(every_seconds)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True


def run_command(
    interruption: Interruption,
    argv: Sequence[str],
    *,
    what: str,
    limit: timedelta,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
) -> str:
    """Run `argv` in its own session and return its output (stdout and stderr together).

    Raises `CommandFailed` (with the end of the output) when it fails or passes `limit`, and `Interrupted` when a signal
    came. In every case its whole process group has ended when this returns.
    """
    with subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=None if environment is None else dict(environment),
        cwd=directory,
        start_new_session=True,
    ) as process:
        try:
            output, code = _collect(interruption, process, limit)
        finally:
            _end_group(process)
    text = output.decode(errors="replace")
    if code is None:
        raise CommandFailed(f"{what} did not finish within {limit.total_seconds():.0f} s.", _end_of(text))
    if code != 0:
        raise CommandFailed(f"{what} failed with exit code {code}.", _end_of(text))
    return text


def _collect(
    interruption: Interruption, process: subprocess.Popen[bytes], limit: timedelta
) -> tuple[bytes, int | None]:
    """Return the output and exit code; the code is None when the limit passed."""
    end = time.monotonic() + limit.total_seconds()
    while True:
        interruption.check()
        try:
            output, _ = process.communicate(timeout=_POLL_SECONDS)
        except subprocess.TimeoutExpired as waiting:
            if time.monotonic() > end:
                return waiting.output or b"", None
        else:
            return output, process.returncode


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End what is left of the process's group: politely for 3 s, then with SIGKILL."""
    if process.poll() is not None and not _group_exists(process.pid):
        return
    for number, seconds in ((signal.SIGTERM, 3.0), (signal.SIGKILL, 3.0)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        end = time.monotonic() + seconds
        while time.monotonic() < end and (process.poll() is None or _group_exists(process.pid)):
            time.sleep(0.02)


def _group_exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _end_of(text: str) -> str:
    return "\n".join(text.rstrip().splitlines()[-_OUTPUT_LINES:])
