"""The Pythons of this machine: found, asked what they are, made reachable for users who own nothing.

Builds choose one for a release; a node finds the same version for a release that was built elsewhere.
"""

import contextlib
import errno
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

OLDEST = (3, 10)  # the oldest Python that django-tenantry and the runtime support
PROBE_SECONDS = 10

_NAME = re.compile(r"python3(?:\.\d+)?\Z")
_PROBE = (
    "import json,os,sys;"
    "print(json.dumps([list(sys.version_info[:3]),sys.version_info.releaselevel,"
    "os.path.realpath(getattr(sys,'_base_executable',None) or sys.executable),sys.base_prefix,"
    "sys.implementation.name]))"
)
# What the standard library does not need to run a project: a copied interpreter is a third of its size without.
_LEFT_OUT = frozenset({"idlelib", "test", "tests", "site-packages", "share"})


class NotReachable(Exception):
    """An interpreter lies where other users cannot reach it, and its copy does not start. The message is for people."""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A CPython on this machine, outside of any virtualenv."""

    version: tuple[int, int, int]
    path: Path
    prefix: Path

    @property
    def version_text(self) -> str:
        return ".".join(map(str, self.version))


def find_interpreters() -> list[Interpreter]:
    """Return every CPython >= 3.10 found on PATH, in /usr/bin, /usr/local/bin, pyenv's and uv's directories.

    Newest first; one entry for each executable, however many names it has.
    """
    found: dict[Path, Interpreter] = {}
    seen: set[str] = set()
    for candidate in _candidates():
        real = os.path.realpath(candidate)
        if real in seen:
            continue
        seen.add(real)
        interpreter = probe(candidate)
        if interpreter is not None:
            found.setdefault(interpreter.path, interpreter)
    return sorted(found.values(), key=lambda one: one.version, reverse=True)


def _candidates() -> Iterable[Path]:
    yield Path(sys.executable)
    homes = {Path.home(), Path(os.environ.get("HOME", "/"))}
    pyenv = Path(os.environ["PYENV_ROOT"]) if "PYENV_ROOT" in os.environ else None
    directories = [Path(part) for part in os.get_exec_path() if part.startswith("/")]
    directories += [Path("/usr/bin"), Path("/usr/local/bin")]
    for base in [pyenv, *(home / ".pyenv" for home in homes)]:
        if base is not None:
            directories += _listed(base / "versions", "*/bin")
    for home in homes:
        directories += _listed(home / ".local/share/uv/python", "*/bin")
    for directory in dict.fromkeys(directories):
        if directory.name == "shims":  # pyenv's: scripts that stand for the real ones, found above
            continue
        yield from (path for path in _listed(directory, "python3*") if _NAME.match(path.name))


def _listed(directory: Path, pattern: str) -> list[Path]:
    try:
        return sorted(directory.glob(pattern))
    except OSError:
        return []


def probe(path: Path, uid: int | None = None) -> Interpreter | None:
    """Ask an executable what it is, as user `uid`; None when it is no released CPython >= 3.10 or does not answer."""
    try:
        answer = subprocess.run(
            [str(path), "-I", "-S", "-c", _PROBE],
            capture_output=True,
            timeout=PROBE_SECONDS,
            check=True,
            env={},
            cwd="/",
            user=uid,
            group=uid,
            extra_groups=None if uid is None else [],
        )
        version, level, executable, prefix, implementation = json.loads(answer.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    if implementation != "cpython" or level != "final" or tuple(version[:2]) < OLDEST:
        return None
    if not Path(executable).is_file():
        return None
    return Interpreter((version[0], version[1], version[2]), Path(executable), Path(prefix))


def reachable_by_others(path: Path) -> bool:
    """True when a user who owns nothing can execute `path`: every directory on the way lets others pass."""
    real = Path(os.path.realpath(path))
    try:
        if not real.stat().st_mode & stat.S_IXOTH:
            return False
        return all(parent.stat().st_mode & stat.S_IXOTH for parent in real.parents)
    except OSError:
        return False


def make_reachable(interpreter: Interpreter, home: Path, uid: int) -> Interpreter:
    """Return an interpreter that user `uid` can execute: this one, or its copy in `<home>/pythons/<version>`.

    The copy is made of hard links where the file system allows, and appears complete or not at all. `NotReachable` when
    the copy does not start.
    """
    if reachable_by_others(interpreter.path):
        return interpreter
    target = home / "pythons" / interpreter.version_text
    relative = interpreter.path.relative_to(os.path.realpath(interpreter.prefix))
    if not target.is_dir():
        _copy_prefix(Path(os.path.realpath(interpreter.prefix)), target)
    copied = probe(target / relative, uid)
    if copied is None or copied.prefix != target:
        shutil.rmtree(target, ignore_errors=True)
        raise NotReachable(
            f"{interpreter.path} lies where the project's user cannot reach it, and its copy does not start. "
            "Install a Python that every user can execute (for example with apt)."
        )
    return copied


def _copy_prefix(prefix: Path, target: Path) -> None:
    target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        shutil.copytree(prefix, partial, symlinks=True, ignore=_ignored, copy_function=_link_or_copy)
        for directory, _, _ in os.walk(partial):
            Path(directory).chmod(0o755)
        _free_from_prefix(partial / "bin", prefix)
        with contextlib.suppress(FileExistsError):  # another process of this home was faster
            _rename_directory(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _rename_directory(source: Path, target: Path) -> None:
    try:
        source.rename(target)
    except OSError as error:
        if error.errno == errno.ENOTEMPTY:
            raise FileExistsError(error.errno, error.strerror, str(target)) from error
        raise


def _free_from_prefix(directory: Path, prefix: Path) -> None:
    """Let the executables find their libpython beside them: pyenv's builds name its directory by absolute path.

    The text in the file is replaced by the shorter `$ORIGIN/../lib`, in a copy: the file may be a link to the original.
    """
    old, new = os.fsencode(prefix / "lib"), b"$ORIGIN/../lib"
    if len(old) < len(new):
        return
    for path in directory.glob("python3*"):
        if path.is_symlink():
            continue
        content = path.read_bytes()
        if not content.startswith(b"\x7fELF") or old + b"\0" not in content:
            continue
        path.unlink()
        path.write_bytes(content.replace(old + b"\0", new.ljust(len(old), b"\0") + b"\0"))
        path.chmod(0o755)


def _ignored(directory: str, names: list[str]) -> set[str]:
    return {name for name in names if name in _LEFT_OUT and (name != "share" or not directory.endswith("lib"))}


def _link_or_copy(source: str, target: str) -> str:
    """Hard-link a file that everyone may read; copy any other, readable."""
    if os.stat(source).st_mode & 0o044 == 0o044:  # noqa: PTH116 - called by copytree with strings
        with contextlib.suppress(OSError):
            os.link(source, target)
            return target
    shutil.copy2(source, target)
    path = Path(target)
    path.chmod(stat.S_IMODE(path.stat().st_mode) | 0o044)
    return target


def make_tool_reachable(tool: Path, home: Path) -> Path:
    """Return `tool` (a single-file program), or its copy in `<home>/pythons` when other users cannot reach it."""
    if reachable_by_others(tool):
        return tool
    directory = home / "pythons"
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    target = directory / f"{tool.name}-{tool.stat().st_size}"
    if not target.exists():
        partial = target.with_name(f".{target.name}.{os.getpid()}")
        partial.unlink(missing_ok=True)
        _link_or_copy(str(tool), str(partial))
        partial.chmod(0o755)
        partial.rename(target)
    return target
