"""What a site's code may not reach, tried with the site's own user, role and passwords."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest

READER = """
import json, os, socket, stat, sys
answers = {}
for path in json.load(sys.stdin):
    try:
        if stat.S_ISDIR(os.stat(path).st_mode):
            os.listdir(path)
        elif stat.S_ISSOCK(os.stat(path).st_mode):
            with socket.socket(socket.AF_UNIX) as s:
                s.connect(path)
        else:
            open(path, "rb").read(1)
        answers[path] = "reached"
    except OSError as error:
        answers[path] = type(error).__name__
print(json.dumps(answers))
"""


def reach(platform: Any, slug: str, paths: list[Path]) -> dict[str, str]:
    """What the code of a site reaches: read, list or connect to each path, as the site's own process would."""
    uid, groups = identity(platform, slug)
    argv = ["setpriv", f"--reuid={uid}", f"--regid={uid}", f"--groups={groups}" if groups else "--clear-groups"]
    argv += ["--inh-caps=-all", "--", "/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable]
    done = subprocess.run(
        [*argv, "-c", READER],
        input=json.dumps([str(path) for path in paths]),
        env={"PATH": "/usr/bin:/bin"},
        cwd="/",
        text=True,
        capture_output=True,
        timeout=30,
        check=True,
    )
    answers: dict[str, str] = json.loads(done.stdout)
    return answers


def identity(platform: Any, slug: str) -> tuple[int, str]:
    """The user and the supplementary groups that the site's processes have, read from the kernel."""
    generation = platform.json("site", "show", slug)["generation"]
    pid = platform.pids(f"/{slug}.{generation}.ini")[0]
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
    )
    uids = set(status["Uid"].split())
    assert len(uids) == 1, "real, effective, saved and filesystem user are one"
    assert int(status["CapEff"], 16) == 0
    assert int(status["CapPrm"], 16) == 0
    uid = int(uids.pop())
    others = [group for group in status["Groups"].split() if int(group) != uid]
    return uid, ",".join(others)


def session(platform: Any, slug: str, database: str) -> psycopg.Connection[Any]:
    """A database session with the site's own role and password."""
    environment = site_environment(platform, slug)
    return psycopg.connect(
        host=environment["PGHOST"],
        port=int(environment["PGPORT"]),
        user=environment["PGUSER"],
        password=environment["PGPASSWORD"],
        dbname=database,
    )


def site_environment(platform: Any, slug: str) -> dict[str, str]:
    """The environment the site's code sees."""
    code = "import json, os; print('@' + json.dumps(dict(os.environ)))"
    printed = platform.tenantry("site", "manage", slug, "shell", "-c", code)
    environment: dict[str, str] = json.loads(printed.partition("@")[2].splitlines()[0])
    return environment


def test_every_site_runs_as_its_own_user_without_rights(platform: Any, root: None) -> None:
    uids = {slug: identity(platform, slug)[0] for slug in ("alpha", "beta", "gamma")}
    assert len(set(uids.values())) == 3
    assert 0 not in uids.values()


def test_a_site_reaches_its_own_files_and_no_others(platform: Any, root: None) -> None:
    home = platform.home
    serving = {slug: platform.json("site", "show", slug) for slug in ("alpha", "beta")}
    own = [home / "data/alpha/media", home / "releases" / serving["alpha"]["release"] / "src/manage.py"]
    beta = serving["beta"]["generation"]
    forbidden = [
        home / f"run/sites/beta/site.{beta}.json",
        home / f"run/sites/alpha/site.{serving['alpha']['generation']}.json",
        home / f"run/sites/beta/{beta}.sock",
        home / "run/sites/beta/app.sock",
        home / "data/beta",
        home / "data/beta/media",
        home / "secrets/control.json",
        home / "secrets/platform.key",
        # Who can open a lock can hold it, and with it every up, down and renewal.
        home / "lock",
        home / "venv/.lock",
        home / "secrets/admin-password",
        home / "client.json",
        home / "postgres/data",
        home / "redis/data",
        home / "redis/users.acl",
        home / "logs/control.log",
        home / "logs/sites/beta.log",
        home / "backups",
        home / "state",
        home / "run/supervisor.sock",
        home / "run/emperor.sock",
        home / "run/vassals",
    ]
    assert all(path.exists() for path in own)
    assert set(reach(platform, "alpha", own).values()) == {"reached"}
    answers = reach(platform, "alpha", forbidden)
    assert {path: answer for path, answer in answers.items() if answer == "reached"} == {}
    missing = [path for path, answer in answers.items() if answer == "FileNotFoundError"]
    assert not [path for path in missing if "/sites/" in path or "/data/" in path], "the test looks at real paths"


def test_a_site_cannot_read_another_projects_release(platform: Any, root: None, tmp_path: Path) -> None:
    release = platform.home / "releases" / platform.json("site", "show", "alpha")["release"]
    stranger = 1_234_567_890
    argv = [
        "setpriv",
        f"--reuid={stranger}",
        f"--regid={stranger}",
        "--clear-groups",
        "--",
        "cat",
        str(release / "src/manage.py"),
    ]
    assert subprocess.run(argv, capture_output=True, timeout=10, check=False).returncode != 0


def test_a_site_cannot_change_its_release(platform: Any, root: None) -> None:
    uid, groups = identity(platform, "alpha")
    release = platform.home / "releases" / platform.json("site", "show", "alpha")["release"]
    for path in (release, release / "src", release / "venv", release / "static"):
        argv = [
            "setpriv",
            f"--reuid={uid}",
            f"--regid={uid}",
            f"--groups={groups or uid}",
            "--",
            "touch",
            str(path / "x"),
        ]
        assert subprocess.run(argv, capture_output=True, timeout=10, check=False).returncode != 0
        assert not (path / "x").exists()


def test_a_sites_role_enters_its_own_database_only(platform: Any) -> None:
    numbers = {slug: platform.json("site", "show", slug)["number"] for slug in ("alpha", "beta")}
    with session(platform, "alpha", f"site_{numbers['alpha']}") as own:
        assert own.execute("SELECT 1").fetchone() == (1,)
        assert own.execute(
            "SELECT rolsuper, rolcreatedb, rolcreaterole FROM pg_roles WHERE rolname = current_user"
        ).fetchone() == (False, False, False)
    templates = []
    with platform.superuser() as postgres:
        templates = [row[0] for row in postgres.execute("SELECT datname FROM pg_database WHERE datname LIKE 'tpl%'")]
    assert templates
    for database in (f"site_{numbers['beta']}", "tenantry", "postgres", "template1", templates[0]):
        with pytest.raises(psycopg.OperationalError):
            session(platform, "alpha", database)


def test_a_sites_cache_user_sees_its_own_keys_only(platform: Any) -> None:
    import redis

    clients = {}
    for slug in ("alpha", "beta"):
        environment = site_environment(platform, slug)
        clients[slug] = redis.Redis.from_url(environment["REDIS_URL"])
        clients[slug].set(f"{slug}:mine", slug)
    assert clients["alpha"].get("alpha:mine") == b"alpha"
    refused = (redis.exceptions.NoPermissionError, redis.exceptions.ResponseError)
    for forbidden in (
        lambda c: c.get("beta:mine"),
        lambda c: c.set("beta:mine", "x"),
        lambda c: c.delete("beta:mine"),
        lambda c: c.keys("*"),
        lambda c: c.scan(),
        lambda c: c.randomkey(),
        lambda c: c.flushall(),
        lambda c: c.config_get("*"),
        lambda c: c.acl_list(),
        lambda c: c.publish("beta:x", "y"),
        lambda c: c.eval("return redis.call('get', 'beta:mine')", 0),
        lambda c: c.execute_command("DEBUG", "SLEEP", "0"),
        lambda c: c.execute_command("MONITOR"),
        lambda c: c.shutdown(nosave=True),
        lambda c: c.client_list(),
    ):
        with pytest.raises(refused):
            forbidden(clients["alpha"])
    assert clients["beta"].get("beta:mine") == b"beta"
    for client in clients.values():
        client.close()


def test_two_sites_have_different_secrets(platform: Any) -> None:
    one, other = site_environment(platform, "alpha"), site_environment(platform, "beta")
    for name in ("SECRET_KEY", "PGPASSWORD", "REDIS_URL", "PGUSER", "PGDATABASE", "MEDIA_ROOT", "HOME", "TMPDIR"):
        assert one[name] != other[name], name
    ours = {name for name in os.environ if name.startswith(("PYTEST", "GITHUB"))}
    assert not ours & set(one)
