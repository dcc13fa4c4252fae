"""`site manage` and `site shell`: a program in a site's environment, on the machine that runs the site.

The API gets an audit row first. Then this process becomes `python -m tenantry.node exec`, so that the terminal, its
signals and the exit code are the program's own.
"""

import json
import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from tenantry.cli import names
from tenantry.cli.client import path
from tenantry.cli.command import Session, command
from tenantry.cli.errors import CliError, NotConnected
from tenantry.cli.names import SlugArgument


def add_to(app: typer.Typer) -> None:
    """Add the commands to the group `site`."""

    @command(app, "manage", example="tenantry site manage blog migrate --plan", speaks_json=False, passes_through=True)
    def manage(
        session: Session,
        slug: SlugArgument,
        arguments: Annotated[
            list[str], typer.Argument(metavar="COMMAND...", help="What manage.py gets.", show_default=False)
        ],
    ) -> None:
        """Run manage.py of a site: its release, its environment, its user. Ends with the exit code of manage.py.

        Options of this command go before the slug; everything after the slug is for manage.py.
        """
        _run(session, names.site(slug), ["manage.py", *_without_separator(arguments)])

    @command(app, "shell", example="tenantry site shell blog", speaks_json=False)
    def shell(session: Session, slug: SlugArgument) -> None:
        """Open the Python shell of a site's project (manage.py shell)."""
        _run(session, names.site(slug), ["manage.py", "shell"])


def _run(session: Session, slug: str, argv: list[str]) -> NoReturn:
    """Become `argv` in the site's environment. Raises before anything is recorded when this machine cannot."""
    config = agent_configuration(session.home)
    session.client.post(path("sites", slug, "commands"), {"argv": argv})
    sys.stdout.flush()
    sys.stderr.flush()
    program = [sys.executable, "-P", "-m", "tenantry.node", "exec", "--config", str(config), slug, "--", *argv]
    os.execv(program[0], program)  # noqa: S606 - no shell: a list. -P: the current directory is not searched for modules


def agent_configuration(home: Path) -> Path:
    """The configuration of this machine's agent.

    Raises `NotConnected` when this machine is no node of the platform, `CliError` when it may not be read.
    """
    config = home / "secrets" / "agent.json"
    try:
        json.loads(config.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise NotConnected(
            f"This machine is not a node of the platform: {config} does not exist.",
            "Run this on the machine that serves the site, or name the platform's directory with --home.",
        ) from None
    except PermissionError:
        raise CliError(
            f"You may not run programs as a site: {config} is not readable for you.",
            "Run this as the user who ran bin/up (with sudo if that was root).",
        ) from None
    except (OSError, ValueError) as error:
        raise NotConnected(f"{config} cannot be used: {error}.", "Run bin/up to make it anew.") from None
    return config


def _without_separator(arguments: list[str]) -> list[str]:
    return arguments[1:] if arguments[:1] == ["--"] else arguments
