"""Ctrl-C at many moments of a first `bin/up`: nothing runs afterwards, and the next one is not hindered."""

import contextlib
import random
import signal
import socket
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest

from tenantry.embedded.config import load_config
from tenantry.embedded.errors import CommandFailed, Interrupted
from tenantry.embedded.home import Home
from tenantry.embedded.processes import find_processes
from tenantry.embedded.signals import Interruption, run_command

ROOT = Path(__file__).parents[2]
# From the checks over uv, initdb and migrations to the servers; later moments are the acceptance tests'.
MOMENTS_SECONDS = (0.0, 0.3, 1.0, 2.5, 6.0)


def free_port() -> int:
    """Return a port that is free together with the next one, outside of those that the kernel hands out by itself."""
    while True:
        port = random.randrange(20_000, 32_000, 2)
        with socket.socket() as one, socket.socket() as next_one, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            next_one.bind(("127.0.0.1", port + 1))
            return port


def answers_signals(pid: int) -> bool:
    """Whether the process has a handler for SIGTERM; Python by itself has none."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) >> (signal.SIGTERM - 1) & 1)
    return False


def processes_that_mention(root: Path) -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            text = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
        except OSError:
            continue
        if str(root).encode() in text:
            found.append(f"{entry.name} {text[:200]!r}")
    return found


@pytest.mark.timeout(200)
def test_ctrl_c_at_many_moments_of_the_first_up(place: Path) -> None:
    root = place / "home"
    for moment in MOMENTS_SECONDS:
        command = [ROOT / "bin" / "up", "--no-demo", "--home", root, "--http-port", str(free_port())]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
        # Before that the interpreter itself is starting, and nothing of ours is.
        while not answers_signals(process.pid):
            assert process.poll() is None
            time.sleep(0.01)
        # A time, not a state: whatever is going on then must be undone.
        time.sleep(moment)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
        assert process.returncode in (0, 130), output.decode()
        assert b"Traceback" not in output, output.decode()
        assert processes_that_mention(root) == [], f"after {moment} s"
        if root.exists():
            assert find_processes(Home(root), load_config(Home(root))) == []


def test_a_command_is_ended_with_everything_it_started(place: Path) -> None:
    interruption = Interruption()
    marker = f"60{time.monotonic_ns() % 10**6}"
    command = ["sh", "-c", f"sleep {marker} & sleep {marker}"]
    with pytest.raises(CommandFailed, match=r"slowly did not finish within 1 s"):
        run_command(interruption, command, what="slowly", limit=timedelta(seconds=1))
    interruption.asked = True
    with pytest.raises(Interrupted):
        run_command(interruption, command, what="slowly", limit=timedelta(seconds=60))
    running = [entry.read_bytes() for entry in Path("/proc").glob("[0-9]*/cmdline") if entry.exists()]
    assert not [line for line in running if marker.encode() in line]


def test_a_failed_command_shows_the_end_of_its_output() -> None:
    with pytest.raises(CommandFailed, match="counting failed with exit code 3") as caught:
        run_command(Interruption(), ["sh", "-c", "seq 1 100; exit 3"], what="counting", limit=timedelta(seconds=30))
    assert caught.value.output.splitlines()[0] == "86"
    assert caught.value.output.splitlines()[-1] == "100"


def test_a_signal_held_back_over_the_exec_is_answered() -> None:
    """`bin/up` blocks SIGINT before its exec; the new program must see one that came meanwhile."""
    code = (
        "import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT]); "
        "os.kill(os.getpid(), signal.SIGINT); "
        "os.execv(sys.executable, [sys.executable, '-c', "
        "'from tenantry.embedded.signals import Interruption; i = Interruption(); i.listen(); print(i.asked)'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "True\n"
