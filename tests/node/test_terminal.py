"""A command that runs as a site cannot type on the terminal of the person who started it."""

import os
import pty
import select
import sys

import pytest

# Runs with a terminal of its own: tries to type «x» on it, then says what the kernel answered.
SCRIPT = """
import ctypes, fcntl, os, sys, termios
if sys.argv[1] == "forbidden":
    from tenantry.node import vassal
    from tenantry.node.effects.terminal import forbid_typing
    vassal.forbid_new_privileges()
    forbid_typing()
    assert os.get_terminal_size(0), "all else works"
try:
    fcntl.ioctl(0, termios.TIOCSTI, b"x")
    print("typed")
except OSError as error:
    print("refused", error.errno)
"""


def run_on_a_terminal(mode: str) -> str:
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", SCRIPT, mode])
    output = b""
    try:
        while select.select([terminal], [], [], 20)[0]:
            chunk = os.read(terminal, 4096)
            if not chunk:
                break
            output += chunk
    except OSError:
        pass  # Linux's way to say that the other end is closed
    finally:
        os.close(terminal)
        os.waitpid(pid, 0)
    return output.decode()


def test_typing_on_the_terminal_is_refused() -> None:
    assert "refused 1" in run_on_a_terminal("forbidden")


def test_without_the_guard_it_would_work_here() -> None:
    answer = run_on_a_terminal("allowed")
    if "refused" in answer:
        pytest.skip("this kernel lets nobody type on a terminal")
    assert "typed" in answer
