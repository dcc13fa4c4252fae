"""Steps venv and install: the release's own virtualenv, with what the project asks for and what the platform needs."""

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tenantry.control.releases.building.commands import DISK_FULL, Command, Runner, explain
from tenantry.control.releases.building.context import StepFailed
from tenantry.control.releases.building.inspection import read_pyproject
from tenantry.spec.sites import Engine

REQUIREMENTS = (
    "requirements.txt",
    "requirements/production.txt",
    "requirements/prod.txt",
    "requirements-prod.txt",
    "requirements/base.txt",
)
OLDEST_DJANGO = (4, 2)
# The server inside a site's process: a requirement of its own, or an extra of the library, which knows its version.
_SERVERS = {Engine.UWSGI: "pyuwsgi>=2.0.30"}
_EXTRAS = {Engine.GRANIAN: ("asgi",)}

# The package index and the way to the network, as the operator chose them. Nothing else is handed on.
_NETWORK = re.compile(
    r"(?:SSL_CERT_FILE|SSL_CERT_DIR|(?:https?|all|no)_proxy|"
    r"UV_(?:DEFAULT_INDEX|INDEX|INDEX_URL|EXTRA_INDEX_URL|INDEX_STRATEGY|NO_INDEX|OFFLINE|HTTP_TIMEOUT|"
    r"NATIVE_TLS|SYSTEM_CERTS|INSECURE_HOST))\Z",
    re.IGNORECASE,
)
_UNREACHABLE = re.compile(
    r"dns error|error sending request|Connection refused|Failed to fetch|Network is unreachable|network connectivity "
    r"is disabled|operation timed out",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Installation:
    """Where to install from and to."""

    uv: Path
    source: Path
    folder: str
    venv: Path
    cache: Path
    scratch: Path
    wheel: Path | None
    seconds: float
    engine: Engine = Engine.UWSGI

    @property
    def python(self) -> Path:
        return self.venv / "bin" / "python"


def installer_environment(plan: Installation) -> dict[str, str]:
    """The environment of uv: its cache beside the releases (hard links need one file system), no configuration."""
    links = {"UV_FIND_LINKS": str(plan.wheel.parent)} if plan.wheel else {}
    network = {name: value for name, value in os.environ.items() if _NETWORK.match(name)}
    return (
        {"UV_SYSTEM_CERTS": "true"}  # the machine's own: a proxy may re-sign, a mirror may be private
        | network
        | links
        | {
            "HOME": str(plan.scratch),
            "LANG": "C.UTF-8",
            "PATH": f"{plan.venv}/bin:/usr/local/bin:/usr/bin:/bin",
            "TMPDIR": str(plan.scratch),
            "UV_CACHE_DIR": str(plan.cache),
            "UV_LINK_MODE": "hardlink",
            "UV_NO_CONFIG": "1",
            "UV_NO_PROGRESS": "1",
            "UV_PROJECT_ENVIRONMENT": str(plan.venv),
            "UV_PYTHON_DOWNLOADS": "never",
            "VIRTUAL_ENV": str(plan.venv),
        }
    )


def make_venv(plan: Installation, interpreter: Path, runner: Runner) -> None:
    """Make an empty virtualenv on `interpreter`; its scripts find it beside themselves, also in another node's home."""
    argv = (str(plan.uv), "venv", "--quiet", "--allow-existing", "--no-project", "--relocatable")
    where = ("--python", str(interpreter), str(plan.venv))
    command = Command((*argv, *where), plan.source, installer_environment(plan), plan.seconds)
    runner.run(command, "The virtualenv could not be made")


def install(plan: Installation, runner: Runner) -> list[str]:
    """Install the project's dependencies, then django-tenantry, the server and a PostgreSQL driver; returns warnings.

    The first of these decides: uv.lock, [project] or [tool.poetry] of pyproject.toml, a requirements file.
    """
    warnings: list[str] = []
    dependencies = _dependencies(plan)
    if dependencies is None:
        warnings.append(
            "The project names no dependencies (uv.lock, pyproject.toml or requirements.txt); "
            "the newest Django is installed. Add a requirements.txt to choose."
        )
    else:
        _uv(plan, runner, *dependencies)
    _uv(plan, runner, "pip", "install", *_platform_packages(plan))
    if not _has_driver(plan, runner):
        _uv(plan, runner, "pip", "install", "psycopg[binary]")
    return warnings


def _platform_packages(plan: Installation) -> tuple[str, ...]:
    servers = [server for engine, server in _SERVERS.items() if engine is plan.engine]
    if plan.wheel is None:
        return ("django", *servers)
    extras = ",".join(["redis", *_EXTRAS.get(plan.engine, ())])
    return (f"django-tenantry[{extras}] @ {plan.wheel.as_uri()}", *servers)


def _dependencies(plan: Installation) -> tuple[str, ...] | None:
    """The uv command that installs what the project asks for."""
    places = list(dict.fromkeys((plan.source / plan.folder, plan.source)))
    for place in places:
        if (place / "uv.lock").is_file():
            sync = ("sync", "--frozen", "--no-dev", "--no-editable", "--inexact", "--project", str(place))
            return (*sync, "--python", str(plan.python))
    for place in places:
        if _declares_dependencies(place):
            return ("pip", "install", "--requirements", str(place / "pyproject.toml"))
    for place in places:
        for name in REQUIREMENTS:
            if (place / name).is_file():
                return ("pip", "install", "--requirements", str(place / name))
    return None


def _declares_dependencies(place: Path) -> bool:
    tables = read_pyproject(place)
    project = tables.get("project", {})
    dynamic = project.get("dynamic", [])
    return (
        "dependencies" in project
        or (isinstance(dynamic, list) and "dependencies" in dynamic)
        or "poetry" in tables.get("tool", {})
    )


def _uv(plan: Installation, runner: Runner, *argv: str) -> None:
    environment: Mapping[str, str] = installer_environment(plan)
    # Relative paths in a requirements file are meant from its own directory's place in the project.
    command = Command((str(plan.uv), *argv), plan.source / plan.folder, environment, plan.seconds)
    code, output = runner.attempt(command)
    if code == 0:
        return
    if _UNREACHABLE.search(output):
        raise StepFailed(
            "The package index could not be reached. Check the network (proxies: HTTPS_PROXY; an index of your own: "
            f"UV_DEFAULT_INDEX) and build again. {_reason(output)}"
        )
    message = explain("Installing the dependencies failed", output)
    raise StepFailed(message if message == DISK_FULL else f"Installing the dependencies failed: {_reason(output)}")


def _reason(output: str) -> str:
    """uv's own words: from its cross mark or «error:» on, on one line."""
    lines = [line.strip() for line in output.splitlines()]
    marked = [index for index, line in enumerate(lines) if line.startswith(("×", "error:"))]
    words = lines[marked[0] :] if marked else lines[-1:]
    text = " ".join(line.lstrip("×│╰─▶├└┬ ") for line in words if line)
    return text.removeprefix("error: ")[:600]


def _has_driver(plan: Installation, runner: Runner) -> bool:
    # Imported, not only looked for: psycopg without its binary part fails on a machine without libpq.
    script = "import importlib\ntry:\n    import psycopg\nexcept ImportError:\n    import psycopg2\n"
    argv = (str(plan.python), "-I", "-c", script)
    code, _ = runner.attempt(Command(argv, plan.scratch, installer_environment(plan), 60, quiet=True))
    return code == 0


def copy_wheel(wheel: Path, scratch: Path) -> Path:
    """Copy the library's wheel to where the project's user can read it."""
    directory = scratch / "wheels"
    directory.mkdir(mode=0o755)
    copy = directory / wheel.name
    shutil.copyfile(wheel, copy)
    copy.chmod(0o644)
    return copy
