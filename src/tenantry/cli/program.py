"""Becoming the embedded platform's program: it checks its own options and owns the terminal."""

import os
import sys
from collections.abc import Mapping
from typing import NoReturn

from tenantry.cli.command import Session


def become(verb: str, session: Session, options: list[str]) -> NoReturn:
    """Replace this process by `python -m tenantry.embedded VERB`, in the home of the session."""
    sys.stdout.flush()
    program = [sys.executable, "-P", "-m", "tenantry.embedded", verb, "--home", str(session.home), *options]
    os.execv(program[0], program)  # noqa: S606 - no shell: a list. -P: the current directory is not searched for modules


def given(valued: Mapping[str, object]) -> list[str]:
    """The options that were given, each followed by its value."""
    return [word for name, value in valued.items() if value is not None for word in (name, str(value))]
