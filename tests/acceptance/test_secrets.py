"""Passwords and keys are sealed in PostgreSQL and appear in no log, no process list and no world-readable file."""

import json
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def secrets(platform: Any) -> dict[str, str]:
    """Every secret of the site alpha, and the platform's own."""
    names = ("SECRET_KEY", "PGPASSWORD", "REDIS_URL")
    code = f"import json, os; print('@' + json.dumps({{n: os.environ[n] for n in {names}}}))"
    printed = platform.tenantry("site", "manage", "alpha", "shell", "-c", code)
    found: dict[str, str] = json.loads(printed.partition("@")[2].splitlines()[0])
    found["cache password"] = found.pop("REDIS_URL").split(":", 2)[2].split("@")[0]
    kept = json.loads((platform.home / "secrets/postgres.json").read_text())["passwords"]
    found |= {f"role {role}": password for role, password in kept.items()}
    found["platform key"] = (platform.home / "secrets/platform.key").read_text().strip()
    found["administrator"] = (platform.home / "secrets/admin-password").read_text().strip()
    found["token"] = json.loads((platform.home / "client.json").read_text())["token"]
    assert all(len(value) >= 12 for value in found.values())
    return found


def test_a_dump_of_the_control_database_holds_none(platform: Any, secrets: dict[str, str]) -> None:
    typed = "typed-by-a-person-8a1f"
    platform.create("sealed", "demo", "--env", f"API_KEY={typed}")
    secret = json.loads((platform.home / "secrets/postgres.json").read_text())
    binary = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_dump"), reverse=True)), Path("pg_dump"))
    dump = subprocess.run(
        [str(binary), "-h", secret["host"], "-p", str(secret["port"]), "-U", secret["user"], "tenantry"],
        env={"PGPASSWORD": secret["passwords"][secret["user"]], "PATH": "/usr/bin:/bin"},
        text=True,
        capture_output=True,
        timeout=60,
        check=True,
    ).stdout
    assert "sealed.localhost" in dump, "the dump has the platform's rows"
    assert [name for name, value in {**secrets, "typed": typed}.items() if value in dump] == []
    platform.delete("sealed")


def test_no_log_holds_one(platform: Any, secrets: dict[str, str]) -> None:
    logs = [path for path in (platform.home / "logs").rglob("*") if path.is_file()]
    assert logs
    found = [
        (str(path.relative_to(platform.home)), name)
        for path in logs
        for name, value in secrets.items()
        if value.encode() in path.read_bytes()
    ]
    assert found == []


def test_no_command_line_holds_one(platform: Any, secrets: dict[str, str]) -> None:
    found = [(argv, name) for argv in platform.processes().values() for name, value in secrets.items() if value in argv]
    assert found == []


def test_no_file_that_others_may_read_holds_one(platform: Any, secrets: dict[str, str], root: None) -> None:
    values = {name: value.encode() for name, value in secrets.items()}
    found = []
    for part in (
        "config.json",
        "client.json",
        "etc",
        "run",
        "state",
        "secrets",
        "redis",
        "releases/demo-1/release.json",
    ):
        start = platform.home / part
        for path in [start] if start.is_file() else start.rglob("*"):
            mode = path.lstat().st_mode
            if stat.S_ISREG(mode) and mode & 0o004 and path.stat().st_size < 1_000_000:
                content = path.read_bytes()
                found += [(str(path), name) for name, value in values.items() if value in content]
    assert found == []


def test_the_api_shows_names_of_variables_and_no_values(platform: Any, secrets: dict[str, str]) -> None:
    platform.create("quiet", "demo", "--env", "API_KEY=never-shown-51c2")
    with platform.api() as api:
        texts = [api.get(path).text for path in ("/sites/quiet", "/sites", "/changes?limit=500", "/projects", "/nodes")]
    assert "API_KEY" in texts[0]
    everything = "\n".join(texts)
    assert "never-shown-51c2" not in everything
    assert [name for name, value in secrets.items() if value in everything] == []
    platform.delete("quiet")
