"""The servers found on this machine. Standard library only."""

import re
import shutil
import subprocess
from pathlib import Path

from tenantry.embedded.errors import ToolMissing

MIN_POSTGRES = 15
# Where Debian and PostgreSQL's own packages put what is not on PATH.
_POSTGRES_PLACES = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql@*/bin")
# An ordinary user's PATH often lacks them.
_SERVER_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def find_program(name: str) -> Path | None:
    """Return the path of a program, looking into the administrator's directories too."""
    found = shutil.which(name) or shutil.which(name, path=_SERVER_PATH)
    return Path(found) if found else None


def need_program(name: str, package: str) -> Path:
    """Return the path of a program; `ToolMissing` names the package that has it."""
    found = find_program(name)
    if found is None:
        raise ToolMissing(f"{name} is not installed. Run bin/up, which installs it, or: apt-get install {package}")
    return found


def postgres_versions() -> dict[int, Path]:
    """Return the PostgreSQL servers found: major version to the directory of its programs."""
    places = [path for pattern in _POSTGRES_PLACES for path in sorted(Path("/").glob(pattern.lstrip("/")))]
    on_path = shutil.which("postgres")
    if on_path:
        places.append(Path(on_path).resolve().parent)
    found: dict[int, Path] = {}
    for place in places:
        major = _major(place / "postgres")
        if major is not None and (place / "initdb").exists():
            found.setdefault(major, place)
    return found


def need_postgres(major: int | None = None) -> tuple[int, Path]:
    """Return the newest PostgreSQL, or the one of `major`: (major version, directory of its programs).

    Raises `ToolMissing` when there is none, or only older ones than `MIN_POSTGRES`.
    """
    found = postgres_versions()
    if major is not None:
        if major in found:
            return major, found[major]
        raise ToolMissing(
            f"The home's databases were made by PostgreSQL {major}, which is not installed "
            f"(found: {_list(found)}). Install it: apt-get install postgresql-{major}"
        )
    fitting = [version for version in found if version >= MIN_POSTGRES]
    if not fitting:
        raise ToolMissing(old_postgres_message(_list(found)))
    newest = max(fitting)
    return newest, found[newest]


def old_postgres_message(found: str) -> str:
    """Return what to tell a person whose PostgreSQL is missing or too old."""
    return (
        f"PostgreSQL {MIN_POSTGRES} or newer is needed (found: {found}). Install the package postgresql of Debian 12, "
        "Ubuntu 24.04 or later, or a newer one from the PostgreSQL project's own apt repository "
        "(package postgresql-common, /usr/share/postgresql-common/pgdg/apt.postgresql.org.sh)."
    )


def _major(server: Path) -> int | None:
    if not server.is_file():
        return None
    try:
        answer = subprocess.run([server, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"\) (\d+)", answer)
    return int(match[1]) if match else None


def _list(found: dict[int, Path]) -> str:
    return ", ".join(str(version) for version in sorted(found)) or "none"
