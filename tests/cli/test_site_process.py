"""`site manage` and `site shell`: when this machine cannot run a site's program, and how one is started."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest


def test_a_machine_that_is_no_node_says_so_before_anything_is_recorded(cli: Any, stub: Any, tmp_path: Path) -> None:
    done = cli("site", "manage", "blog", "migrate")
    assert done.code == 1
    assert "not a node of the platform" in done.err
    assert "--home" in done.err
    assert stub.requests == []


def test_a_configuration_that_is_no_json(cli: Any, stub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENANTRY_HOME", str(tmp_path))
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "agent.json").write_text("{")
    done = cli("site", "shell", "blog")
    assert done.code == 1
    assert "bin/up" in done.err


AS_NOBODY = """
import os, sys
from pathlib import Path
from tenantry.cli.errors import CliError
from tenantry.cli.site_process import agent_configuration
# Everything is imported: from here on the interpreter's own files may be out of reach.
os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    agent_configuration(Path(os.environ["TENANTRY_HOME"]))
except CliError as error:
    sys.exit("\\n".join(error.lines()))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody without rights")
def test_missing_rights_say_who_may() -> None:
    """As a user who may enter the home but not read the agent's secrets."""
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        home.chmod(0o755)
        (home / "secrets").mkdir(mode=0o711)
        (home / "secrets" / "agent.json").write_text("{}")
        (home / "secrets" / "agent.json").chmod(0o600)
        done = subprocess.run(
            [sys.executable, "-c", AS_NOBODY],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
            env={**os.environ, "TENANTRY_HOME": name},
        )
    assert done.returncode == 1
    assert "may not run programs as a site" in done.stderr
    assert "sudo" in done.stderr


def test_the_act_is_recorded_and_the_program_replaces_this_one(stub: Any, tmp_path: Path) -> None:
    """A stand-in for the interpreter shows what it is called with; its exit code is the command's."""
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "agent.json").write_text("{}")
    seen = tmp_path / "seen"
    stand_in = tmp_path / "python"
    stand_in.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {seen}\ncat\nexit 7\n')
    stand_in.chmod(0o755)
    stub.answer("POST", "/api/v1/sites/blog/commands", 201, {})
    code = (
        f"import sys; sys.executable = {str(stand_in)!r}; from tenantry.cli.main import run;"
        " sys.exit(run(['site', 'manage', 'blog', 'shell', '-c', 'print(1)', '--plan', '--home', 'x', '--', 'y']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input="typed",
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={**os.environ, "TENANTRY_HOME": str(tmp_path)},
    )
    assert (done.returncode, done.stdout, done.stderr) == (7, "typed", "")
    argv = ["manage.py", "shell", "-c", "print(1)", "--plan", "--home", "x", "--", "y"]
    config = str(tmp_path / "secrets" / "agent.json")
    assert seen.read_text().splitlines() == [
        "-P",
        "-m",
        "tenantry.node",
        "exec",
        "--config",
        config,
        "blog",
        "--",
        *argv,
    ]
    [(method, path, _, body)] = stub.requests
    assert (method, path, json.loads(body)) == ("POST", "/api/v1/sites/blog/commands", {"argv": argv})


@pytest.mark.parametrize("words", [("blog", "migrate"), ("blog", "--", "migrate")])
def test_a_site_that_does_not_exist_runs_nothing(
    cli: Any, stub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.setenv("TENANTRY_HOME", str(tmp_path))
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "agent.json").write_text("{}")
    stub.answer("POST", "/api/v1/sites/blog/commands", 404, {"detail": "There is no site «blog»."})
    done = cli("site", "manage", *words)
    assert (done.code, done.err) == (1, "error: There is no site «blog».\n")
    assert json.loads(stub.requests[0][3]) == {"argv": ["manage.py", "migrate"]}
