"""Step interpreter: choose one of this machine's Pythons, make it reachable for the project's user."""

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from tenantry import interpreters
from tenantry.control.releases.building.context import StepFailed
from tenantry.interpreters import Interpreter, find_interpreters, make_tool_reachable, probe, reachable_by_others

__all__ = ["choose", "find_interpreters", "make_reachable", "make_tool_reachable"]


def make_reachable(interpreter: Interpreter, home: Path, uid: int) -> Interpreter:
    """Return an interpreter that user `uid` can execute, as `tenantry.interpreters` does; `StepFailed` otherwise."""
    try:
        return interpreters.make_reachable(interpreter, home, uid)
    except interpreters.NotReachable as error:
        raise StepFailed(str(error)) from error


def choose(found: Sequence[Interpreter], asked: str, pinned: str, requires: str, uid: int | None) -> Interpreter:
    """Return the interpreter to build with.

    `asked` (--python: a version or a path) decides; then `.python-version` when such a Python is here; then the newest
    that `requires-python` allows, one that the project's user can reach before one that must be copied.
    """
    if asked:
        return _asked_for(found, asked)
    allowed = [one for one in found if _satisfies(one, requires)]
    if not allowed:
        raise StepFailed(f"No Python here fits the project's requires-python {requires!r}. {_here(found)}")
    exact = [one for one in allowed if pinned and _has_version(one, pinned)]
    reachable = [one for one in exact or allowed if uid is None or reachable_by_others(one.path)]
    own = [one for one in reachable if not exact and one.path == Path(os.path.realpath(sys.executable))]
    return (own or reachable or exact or allowed)[0]


def _asked_for(found: Sequence[Interpreter], asked: str) -> Interpreter:
    if asked.startswith("/"):
        interpreter = probe(Path(asked))
        if interpreter is None:
            raise StepFailed(f"{asked} is not a CPython of version 3.10 or newer.")
        return interpreter
    if not re.fullmatch(r"3(?:\.\d+){0,2}", asked):
        raise StepFailed(f"{asked!r} is not a Python version; write it like 3.13.")
    for one in found:
        if _has_version(one, asked):
            return one
    raise StepFailed(f"There is no Python {asked} on this machine. {_here(found)}")


def _here(found: Sequence[Interpreter]) -> str:
    versions = ", ".join(dict.fromkeys(one.version_text for one in found)) or "none"
    return f"Found: {versions}. Install another (apt, pyenv or «uv python install») and try again."


def _has_version(interpreter: Interpreter, text: str) -> bool:
    wanted = tuple(int(part) for part in text.split("."))
    return interpreter.version[: len(wanted)] == wanted


def _satisfies(interpreter: Interpreter, requires: str) -> bool:
    try:
        return SpecifierSet(requires).contains(interpreter.version_text)
    except InvalidSpecifier as error:
        raise StepFailed(f"requires-python {requires!r} is not a version range.") from error
