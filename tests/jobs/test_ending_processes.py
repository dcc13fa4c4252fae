"""Ending what a tenant's code left running, also what does its best not to be found."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tenantry.control.releases.building.commands import _processes, _runs_as, end_processes_of

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root ends processes of other users")

# Each process lives for about a millisecond: it forks a child in a session of its own, and exits.
FORKING = """
import os, sys, time
end = time.monotonic() + 30
while time.monotonic() < end:
    if os.fork():
        os._exit(0)
    os.setsid()
    os.utime(sys.argv[1])
"""


@pytest.fixture
def uid(uid_base: int | None) -> Iterator[int]:
    assert uid_base is not None
    uid = uid_base + 10_099
    yield uid
    end_processes_of(uid)


def start_forking(uid: int, sign: Path) -> None:
    sign.touch()
    os.chown(sign, uid, uid)
    argv = [sys.executable, "-I", "-S", "-c", FORKING, str(sign)]
    subprocess.run(argv, cwd="/", user=uid, group=uid, extra_groups=[], check=True, timeout=10)


def test_no_process_slips_through_by_forking_and_exiting(home: Path, uid: int) -> None:
    for attempt in range(5):
        signs = [home / f"sign-{attempt}-{number}" for number in range(3)]
        for sign in signs:
            start_forking(uid, sign)
        before = [sign.stat().st_mtime_ns for sign in signs]
        time.sleep(0.1)
        assert all(sign.stat().st_mtime_ns > then for sign, then in zip(signs, before, strict=True)), "they live"
        end_processes_of(uid)
        after = [sign.stat().st_mtime_ns for sign in signs]
        time.sleep(0.2)
        assert [sign.stat().st_mtime_ns for sign in signs] == after
        assert [pid for pid in _processes() if _runs_as(pid, uid)] == []


def test_a_process_that_kills_whatever_its_user_starts_is_ended(uid: int) -> None:
    hostile = "trap '' TERM HUP; echo; while :; do kill -STOP -1; done"
    with subprocess.Popen(
        ["/bin/sh", "-c", hostile], cwd="/", user=uid, group=uid, extra_groups=[], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        end_processes_of(uid)
        assert process.wait(5) == -9


def test_nothing_is_killed_where_tenants_have_no_user_of_their_own() -> None:
    with subprocess.Popen(["sleep", "30"]) as process:
        for nobody in (None, 0):
            end_processes_of(nobody)
        assert process.poll() is None
        process.kill()
