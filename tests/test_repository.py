"""What must hold for the repository as a whole: nothing of one machine in it, scripts that run, a licence."""

import os
import re
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = ("up", "join", "test", "lint", "bench", "lock", "sync")
# Put together here, so that this file does not hold what it looks for.
REGISTRY_HOSTS = ("pypi" + ".org", "python" + "hosted.org", "registry.npm" + "js.org", "crates" + ".io")
# Where this repository lies on the machine at hand is no business of any file in it.
MACHINE_PATHS = re.compile(
    rb"(?<![\w.-])/(?:wor" + rb"k/|tmp/(?!tenantry)[a-z]+/home/)|" + re.escape(os.fsencode(ROOT)) + b"/"
)


def tracked_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False, timeout=30)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    names = [name for name in listed.stdout.decode().split("\0") if name]
    return [ROOT / name for name in names if (ROOT / name).is_file()]


def test_no_file_names_a_package_registry() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {host}"
        for path in tracked_files()
        for host in REGISTRY_HOSTS
        if host.encode() in path.read_bytes()
    ]
    assert found == []


def test_no_file_names_a_path_of_the_machine_it_was_written_on() -> None:
    found = []
    for path in tracked_files():
        if path.suffix in (".png", ".jpg", ".woff2", ".ico"):
            continue
        for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
            if MACHINE_PATHS.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line[:120]!r}")
    assert found == []


def test_the_lock_is_neutral_and_complete() -> None:
    lock = tomllib.loads((ROOT / "uv.lock").read_text())
    packages = [package for package in lock["package"] if "registry" in package["source"]]
    assert {package["source"]["registry"] for package in packages} == {"https://index.invalid/simple"}
    for package in packages:
        files = [*package.get("wheels", []), *([package["sdist"]] if "sdist" in package else [])]
        assert files, package["name"]
        for file in files:
            assert file["url"].startswith("https://files.invalid/packages/"), file["url"]
            assert file["hash"].startswith("sha256:"), file["url"]


def test_the_lock_knows_every_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    names = {re.split(r"[\[<>=!~ ;]", requirement, maxsplit=1)[0].lower() for requirement in wanted}
    locked = {package["name"] for package in tomllib.loads((ROOT / "uv.lock").read_text())["package"]}
    assert names - locked == set(), "run bin/lock"


@pytest.mark.parametrize("path", [*(f"bin/{name}" for name in SCRIPTS), ".ci/run"])
def test_scripts_are_executable(path: str) -> None:
    assert stat.S_IMODE((ROOT / path).stat().st_mode) & 0o111 == 0o111
    assert (ROOT / path).read_text().startswith("#!/usr/bin/env ")


def test_the_scripts_need_nothing_but_python() -> None:
    """Under -I -S neither the virtualenv nor anything else installed can be imported."""
    code = "import sys; sys.path.insert(0, 'bin'); import _setup; print('imported')"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-B", "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("imported\n", "")


def test_old_pythons_can_read_the_first_lines() -> None:
    """What runs before the version is checked uses nothing newer than Python 3.6."""
    import ast

    for name in (*SCRIPTS, "_python.py"):
        ast.parse((ROOT / "bin" / name).read_text(), feature_version=(3, 6))
    code = (
        "import sys; sys.version_info = (3, 9, 2); sys.path.insert(0, 'bin'); import _python; _python.require_python()"
    )
    done = subprocess.run(
        [sys.executable, "-B", "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PATH": "/nonexistent"},
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Tenantry needs Python 3.11 or newer; this is 3.9.")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nonsense"], "unrecognized arguments: --nonsense"),
        (["--http-port", "99999"], "--http-port"),
        (["--hom", "x"], "unrecognized arguments"),
    ],
)
def test_wrong_usage_is_refused_before_anything_is_installed(arguments: list[str], message: str) -> None:
    done = subprocess.run(
        [ROOT / "bin" / "up", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 2
    assert message in done.stderr


def test_the_licence_is_there() -> None:
    assert "BSD 3-Clause" in (ROOT / "LICENSE").read_text()
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["license"] == "BSD-3-Clause"
    assert (ROOT / "library" / "LICENSE").exists()


def test_every_suite_of_the_bench_finds_what_it_uses() -> None:
    """What is measured seldom must not rot meanwhile."""
    names = [f"bench.{path.stem}" for path in (ROOT / "bench").glob("*.py") if not path.stem.startswith("__")]
    program = f"import importlib\nfor name in {names!r}: importlib.import_module(name)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
