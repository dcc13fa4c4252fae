"""uv, and the virtualenvs it makes from uv.lock.

uv.lock names no package registry (docs/decisions/0003-index-neutral-lock.md): what is installed comes, with its hash
checked, from whichever registry uv is configured for. So the lock is exported to a list of exact versions and hashes,
and that is installed.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from tenantry.embedded.errors import CommandFailed, HomeUnusable, ToolMissing
from tenantry.embedded.files import read_json, write_json
from tenantry.embedded.home import Home
from tenantry.embedded.signals import Interruption, run_command

CHECKOUT = Path(__file__).resolve().parent.parent
OLDEST_UV = (0, 9)
# A first set-up over a slow line downloads about 100 MB.
_LIMIT = timedelta(minutes=20)
_STAMP = "tenantry-stamp.json"


def find_uv(home: Home | None = None) -> Path | None:
    """Return a uv that is new enough, None when there is none on this machine."""
    places = [
        shutil.which("uv"),
        home and home.venv / "bin" / "uv",
        CHECKOUT / ".venv" / "bin" / "uv",
        _bootstrap(home) / "bin" / "uv",
    ]
    for place in places:
        if place and os.access(place, os.X_OK) and _uv_version(Path(place)) >= OLDEST_UV:
            return Path(place)
    return None


def need_uv(interruption: Interruption, home: Home | None = None) -> Path:
    """Return a uv, fetching the one of uv.lock with pip into a private virtualenv when there is none."""
    found = find_uv(home)
    if found:
        return found
    place = _bootstrap(home)
    version, hashes = _locked_uv()
    print(f"Fetching uv {version}", flush=True)
    shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    run_command(
        interruption, [sys.executable, "-m", "venv", str(place)], what="Making a virtualenv for uv", limit=_LIMIT
    )
    requirement = place / "requirements.txt"
    requirement.write_text(f"uv=={version} " + " ".join(f"--hash={digest}" for digest in hashes) + "\n")
    pip = [
        str(place / "bin" / "python"),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-input",
        "--disable-pip-version-check",
    ]
    run_command(
        interruption,
        [*pip, "--only-binary", ":all:", "--require-hashes", "-r", str(requirement)],
        what="Installing uv with pip",
        limit=_LIMIT,
    )
    return place / "bin" / "uv"


def make_platform_environment(interruption: Interruption, home: Home) -> Path:
    """Make or renew <home>/venv and the django-tenantry wheel, and return the wheel. Quick when nothing changed."""
    wanted = {
        "code": _fingerprint([CHECKOUT / "src", CHECKOUT / "library" / "src"], [".", "library"]),
        "python": str(choose_python()),
    }
    kept = read_json(home.stamp) or {}
    wheel = next(iter(sorted(home.wheels.glob("django_tenantry-*.whl"))), None)
    if {key: kept.get(key) for key in wanted} == wanted and wheel and home.command.exists():
        return wheel
    uv = need_uv(interruption, home)
    home.stamp.unlink(missing_ok=True)
    print(f"Making the platform's virtualenv ({home.venv})", flush=True)
    _install(interruption, uv, home.venv, wanted["python"], ["--no-dev", "--no-editable"], renew=bool(kept))
    wheel = _build_wheel(interruption, uv, home)
    write_json(home.stamp, wanted)
    return wheel


def make_development_environment(interruption: Interruption) -> Path:
    """Make or renew <checkout>/.venv with everything the tests and checks need; return its interpreter."""
    venv = CHECKOUT / ".venv"
    wanted = {"code": _fingerprint([], [".", "library"])}
    kept = read_json(venv / _STAMP) or {}
    if kept != wanted:
        uv = need_uv(interruption)
        (venv / _STAMP).unlink(missing_ok=True)
        print(f"Making the development virtualenv ({venv})", flush=True)
        _install(interruption, uv, venv, str(choose_python()), [], renew=bool(kept))
        write_json(venv / _STAMP, wanted)
    return venv / "bin" / "python"


def choose_python() -> Path:
    """Return the interpreter for virtualenvs. As root it must be one that other users may run, as the servers do."""
    running = Path(sys.executable)
    if os.geteuid() != 0 or _others_may_run(running):
        return running
    for place in ("/usr/bin", "/usr/local/bin"):
        for name in ("python3", *(f"python3.{minor}" for minor in range(20, 10, -1))):
            candidate = Path(place) / name
            if candidate.exists() and _others_may_run(candidate) and _python_version(candidate) >= (3, 11):
                return candidate
    raise ToolMissing(
        f"The platform's servers run as users of their own, who may not run {running.resolve()}. "
        "Install the distribution's python3 (3.11 or newer), or run bin/up as an ordinary user."
    )


@contextlib.contextmanager
def locked_requirements(interruption: Interruption, uv: Path, arguments: list[str]) -> Iterator[Path]:
    """Yield a file with uv.lock's exact versions and hashes for `arguments` of `uv export`."""
    with tempfile.TemporaryDirectory(prefix="tenantry-") as scratch:
        path = Path(scratch) / "requirements.txt"
        command = [str(uv), "export", "--quiet", "--frozen", "--no-header", "--output-file", str(path), *arguments]
        run_command(
            interruption, command, what="Reading uv.lock", limit=_LIMIT, directory=CHECKOUT, environment=_environment()
        )
        yield path


def _install(
    interruption: Interruption, uv: Path, venv: Path, python: str, arguments: list[str], *, renew: bool
) -> None:
    """Install uv.lock's packages into `venv`. Without `renew` it is made anew, whatever is there.

    Renew only what an earlier run finished: uv takes a package for installed once its metadata is there, and after a
    Ctrl-C in the middle its modules may not be.
    """
    if not renew or _base_of(venv) != _base_of_interpreter(Path(python)):
        command = [str(uv), "venv", "--quiet", "--clear", "--no-project", "--python", python, str(venv)]
        run_command(interruption, command, what=f"Making {venv}", limit=_LIMIT, environment=_environment())
    # uv makes its lock for everybody, and a site's code that holds it would stop every renewal.
    lock = venv / ".lock"
    lock.unlink(missing_ok=True)
    lock.touch(mode=0o600)
    with locked_requirements(interruption, uv, arguments) as requirements:
        command = [str(uv), "pip", "sync", "--quiet", "--python", str(venv / "bin" / "python"), str(requirements)]
        run_command(
            interruption,
            command,
            what=f"Installing into {venv}",
            limit=_LIMIT,
            directory=CHECKOUT,
            environment=_environment(),
        )


def _build_wheel(interruption: Interruption, uv: Path, home: Home) -> Path:
    for old in home.wheels.glob("*.whl"):
        old.unlink()
    command = [str(uv), "build", "--quiet", "--wheel", "--out-dir", str(home.wheels), str(CHECKOUT / "library")]
    run_command(
        interruption, command, what="Building the django-tenantry wheel", limit=_LIMIT, environment=_environment()
    )
    built = sorted(home.wheels.glob("django_tenantry-*.whl"))
    if not built:
        raise CommandFailed(f"Building the django-tenantry wheel left no wheel in {home.wheels}.")
    return built[0]


def _environment() -> dict[str, str]:
    """Return the environment for uv: the person's, without what would point it to another virtualenv or project."""
    leave_out = (
        "VIRTUAL_ENV",
        "UV_PROJECT_ENVIRONMENT",
        "UV_PROJECT",
        "UV_PYTHON",
        "UV_FROZEN",
        "UV_LOCKED",
        "PYTHONPATH",
    )
    kept = {name: value for name, value in os.environ.items() if name not in leave_out}
    # The machine's own certificates: where a proxy re-signs traffic, or a mirror is private, uv's built-in list fails.
    return {"UV_SYSTEM_CERTS": "true"} | kept


def _fingerprint(trees: list[Path], projects: list[str]) -> str:
    """Return a digest of the lock, the project files, and the names, sizes and times of everything under `trees`."""
    digest = hashlib.sha256((CHECKOUT / "uv.lock").read_bytes())
    for project in projects:
        digest.update((CHECKOUT / project / "pyproject.toml").read_bytes())
    for tree in trees:
        for directory, names, files in os.walk(tree):
            names[:] = sorted(name for name in names if name != "__pycache__")
            for name in sorted(files):
                found = (Path(directory) / name).stat()
                digest.update(f"{directory}/{name} {found.st_size} {found.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _bootstrap(home: Home | None) -> Path:
    """Return where a fetched uv lives: the user's cache, or the home where there is no such place."""
    cache = os.environ.get("XDG_CACHE_HOME")
    base = Path(cache) if cache and Path(cache).is_absolute() else Path.home() / ".cache"
    nearest = next(path for path in (base, *base.parents) if path.exists())
    if home and not os.access(nearest, os.W_OK):
        return home.root / "bootstrap"
    return base / "tenantry" / "bootstrap"


def _locked_uv() -> tuple[str, list[str]]:
    lock = tomllib.loads((CHECKOUT / "uv.lock").read_text())
    for package in lock["package"]:
        if package["name"] == "uv":
            return package["version"], [wheel["hash"] for wheel in package["wheels"]]
    raise HomeUnusable("uv.lock does not name uv; the checkout is damaged.")


def _uv_version(uv: Path) -> tuple[int, ...]:
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        answer = subprocess.run([uv, "--version"], capture_output=True, text=True, timeout=20, check=False).stdout
        if match := re.match(r"uv (\d+)\.(\d+)", answer):
            return int(match[1]), int(match[2])
    return (0, 0)


def _python_version(python: Path) -> tuple[int, ...]:
    code = "import json, sys; print(json.dumps(sys.version_info[:2]))"
    with contextlib.suppress(OSError, subprocess.TimeoutExpired, ValueError):
        answer = subprocess.run(
            [python, "-I", "-c", code], capture_output=True, text=True, timeout=20, check=False
        ).stdout
        return tuple(json.loads(answer))
    return (0, 0)


def _others_may_run(program: Path) -> bool:
    real = program.resolve()
    return all(path.stat().st_mode & stat.S_IXOTH for path in (real, *real.parents))


def _base_of(venv: Path) -> Path | None:
    """Return the real interpreter behind a virtualenv, None when it is missing or broken."""
    python = venv / "bin" / "python"
    return python.resolve() if python.exists() and (venv / "pyvenv.cfg").exists() else None


def _base_of_interpreter(python: Path) -> Path:
    return python.resolve()
