"""`up` and `down` become the embedded platform's program; `doctor` asks it what runs."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tenantry.cli import doctor


def become(tmp_path: Path, *words: str) -> tuple[int, list[str]]:
    """Run `words` with a stand-in for the interpreter; returns the exit code and what it was called with."""
    stand_in = tmp_path / "python"
    seen = tmp_path / "seen"
    stand_in.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {seen}\nexit 5\n')
    stand_in.chmod(0o755)
    code = f"import sys; sys.executable = {str(stand_in)!r}; from tenantry.cli.main import run; run(sys.argv[1:])"
    done = subprocess.run([sys.executable, "-c", code, *words], timeout=30, check=False)
    return done.returncode, seen.read_text().splitlines()


def test_up_and_down_become_the_platforms_program(tmp_path: Path) -> None:
    start = ["-P", "-m", "tenantry.embedded"]
    home = str(tmp_path / "home")
    assert become(tmp_path, "down", "--home", home) == (5, [*start, "down", "--home", home])
    words = ["up", "--home", home, "--http-port", "8090", "--bind", "0.0.0.0", "--detach", "--no-demo"]
    assert become(tmp_path, *words) == (5, [*start, *words])


def test_the_platforms_program_refuses_a_port_that_is_none(tmp_path: Path) -> None:
    words = ["up", "--home", str(tmp_path / "home"), "--http-port", "99999"]
    done = subprocess.run(
        [sys.executable, "-m", "tenantry.cli.main", *words], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "99999" in done.stderr
    assert not (tmp_path / "home").exists()


def test_down_where_nothing_is(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tenantry.cli.main", "down", "--home", str(tmp_path / "home")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stderr


def test_what_is_wrong_with_a_node_is_a_warning() -> None:
    node: Any = {
        "name": "n",
        "state": "ready",
        "last_contact": "2026-01-01T00:00:00Z",
        "sites": 3,
        "problems": ["reports MassRemovalRefused: 9 of 10 sites would go"],
        "notes": ["polls for changes."],
    }
    found = doctor.check_node(node)
    assert found.state == "warning"
    assert found.message.startswith("reports MassRemovalRefused: 9 of 10 sites would go; polls for changes; last")
    assert doctor.check_node({**node, "problems": []}).state == "warning"
    assert doctor.check_node({**node, "problems": [], "notes": []}).state == "ok"
    assert doctor.check_node({**node, "state": "silent"}).state == "failed"
    assert doctor.check_node({**node, "state": "joining"}).state == "failed"


def test_a_home_with_a_long_name_is_refused(tmp_path: Path) -> None:
    home = tmp_path / ("h" * 60)
    home.mkdir()
    assert doctor.check_home(home).state == "failed"
    assert doctor.check_home(tmp_path / "none").state == "warning"


def test_a_program_that_is_missing_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.devnull)
    monkeypatch.setattr(doctor, "SYSTEM_PROGRAMS", os.devnull)
    found = doctor.check_nginx()
    assert found.state == "failed"
    assert "apt-get install nginx-light" in found.advice
