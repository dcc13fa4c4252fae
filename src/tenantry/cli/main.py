"""The root of the command tree, and the only place where an error becomes text and an exit code.

A noun's module is imported when one of its commands is used: a command pays for itself alone.
"""

import os
import sys
from importlib import import_module
from typing import Annotated, Any

import typer
import typer.core
import typer.main

from tenantry.cli.command import SETTINGS, Home
from tenantry.cli.errors import FAILED, INTERRUPTED, INVALID, CliError, WorkFailed
from tenantry.cli.output import paint, printable
from tenantry.spec.errors import InvalidName

# name -> (module with `app`, purpose). `platform` holds the commands without a noun.
NOUNS = {
    "project": ("tenantry.cli.projects", "The codebases that sites run."),
    "release": ("tenantry.cli.releases", "Immutable builds of a project."),
    "site": ("tenantry.cli.sites", "The tenants: create, watch, change, remove."),
    "hostname": ("tenantry.cli.hostnames", "The names that lead to sites."),
    "node": ("tenantry.cli.nodes", "The machines that serve sites."),
    "event": ("tenantry.cli.events", "The log of changes."),
    "token": ("tenantry.cli.tokens", "Keys to the API."),
}
PLATFORM = {
    "up": "tenantry.cli.platform",
    "down": "tenantry.cli.platform",
    "status": "tenantry.cli.status",
    "doctor": "tenantry.cli.doctor",
    "whoami": "tenantry.cli.platform",
}
USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[2]  # typer's own copy of click.ClickException


class Root(typer.core.TyperGroup):
    """The group `tenantry`: knows its commands by name and imports one when it is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*PLATFORM, *NOUNS]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.commands:
            if cmd_name in NOUNS:
                self.commands[cmd_name] = typer.main.get_group(import_module(NOUNS[cmd_name][0]).app)
            elif cmd_name in PLATFORM:
                module = typer.main.get_group(import_module(PLATFORM[cmd_name]).app)
                self.commands[cmd_name] = module.commands[cmd_name]
            else:
                return None
        return self.commands[cmd_name]


app = typer.Typer(
    cls=Root,
    name="tenantry",
    no_args_is_help=True,
    context_settings=SETTINGS,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"tenantry {version('tenantry')}")
        raise typer.Exit


@app.callback(epilog="Example: tenantry site create blog --project demo --wait")
def root(
    context: typer.Context,
    home: Home = None,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Host many Django sites that share a codebase.

    The platform is found through --home or TENANTRY_HOME (its client.json), or through TENANTRY_URL and TENANTRY_TOKEN.
    """
    context.obj = {"home": home}


def run(arguments: list[str]) -> int:
    """Run one command line; returns its exit code. Errors that were foreseen end as one or two lines on stderr."""
    try:
        outcome = typer.main.get_command(app).main(arguments, prog_name="tenantry", standalone_mode=False)
        sys.stdout.flush()
    except CliError as error:
        return _report(error)
    except InvalidName as error:
        _complain([f"{error.field}: {error.message}"])
        return INVALID
    except (KeyboardInterrupt, typer.Abort):
        if sys.stderr.isatty():
            print(file=sys.stderr)  # the prompt begins on a line of its own, not behind «^C»
        return INTERRUPTED
    except BrokenPipeError:
        # The reader (`head`) went away. Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:
        if not isinstance(error, USAGE_ERROR):
            raise
        return _report_usage(error)
    return outcome if isinstance(outcome, int) else 0


def _report(error: CliError) -> int:
    if isinstance(error, WorkFailed) and error.log:
        for line in error.log.rstrip("\n").splitlines():
            print(f"  | {printable(line)}", file=sys.stderr)
    _complain(error.lines())
    return error.exit_code


def _report_usage(error: Any) -> int:
    """Say what is wrong with the command line. Without arguments a group prints its help, which is all there is."""
    message = error.format_message()
    context = getattr(error, "ctx", None)
    if message:
        if type(error).__name__ == "NoArgsIsHelpError":
            print(message, file=sys.stderr)
            return INVALID
        _complain([message, *([f"See «{context.command_path} --help»."] if context else [])])
    return INVALID


def _complain(lines: list[str]) -> None:
    for index, line in enumerate(lines):
        prefix = paint("error:", "red", sys.stderr) + " " if index == 0 else "       "
        print(prefix + printable(line), file=sys.stderr)


def main() -> None:
    """The console script."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal of another encoding shows «?» for what it cannot show, rather than a traceback.
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
