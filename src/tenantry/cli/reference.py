"""docs/reference/cli.md, written from the command tree: `python -m tenantry.cli.reference > docs/reference/cli.md`."""

import inspect
import sys
from collections.abc import Iterator
from typing import Any

import typer.main

from tenantry.cli.main import app

HEAD = """\
# The command line

This page is written by `python -m tenantry.cli.reference` from the program itself; a test keeps it current.

`tenantry` speaks to the REST API. It finds the platform through, in this order: `--home DIR`; `TENANTRY_URL` and
`TENANTRY_TOKEN`; `TENANTRY_HOME`; `/var/lib/tenantry` for root and `~/.tenantry` for anybody else. In a home it reads
`client.json`, which `bin/up` writes.

Every command that has `--json` prints one JSON document on stdout and nothing else there; a log or a stream prints one
document a line. Errors, questions and progress go to stderr. `NO_COLOR` is respected.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | failed: not found, a conflict, a build or a site that failed, the platform does not answer |
| 2 | invalid input; the message names the field |
| 130 | interrupted (Ctrl-C) |

`tenantry site manage` ends with the exit code of the program it ran.

Completion of commands and options (bash, zsh, fish): run `tenantry` with `--install-completion`, then open a new shell.
"""


def commands() -> Iterator[tuple[str, Any]]:
    """Every command as (its full name, the command), groups included, in the order of the help."""
    root = typer.main.get_command(app)
    yield from _below("tenantry", root)


def _below(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    yield name, command
    if hasattr(command, "list_commands"):
        for child in command.list_commands(None):
            yield from _below(f"{name} {child}", command.get_command(None, child))


def reference() -> str:
    """The whole page."""
    parts = [HEAD]
    for name, command in commands():
        if hasattr(command, "list_commands") and name != "tenantry":
            parts.append(f"## {name}\n\n{command.help}\n")
        elif name != "tenantry":
            level = "##" if name.count(" ") == 1 else "###"
            parts.append(f"{level} {name}\n\n{_body(name, command)}")
    return "\n".join(parts)


def _body(name: str, command: Any) -> str:
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    options = [one for one in command.params if one.param_type_name == "option"]
    usage = " ".join(["Usage:", name, "[OPTIONS]", *[_usage_of(one) for one in arguments]])
    example = str(command.epilog).removeprefix("Example: ")
    lines = [inspect.cleandoc(command.help), "", "```", usage, "```", "", "Example:", "", "```", example, "```", ""]
    lines += ["| option | meaning |", "|---|---|"]
    lines += [f"| `{_name_of(one)}` | {_cell(one)} |" for one in [*arguments, *options]]
    return "\n".join(lines) + "\n"


def _usage_of(argument: Any) -> str:
    name = str(argument.metavar or argument.name.upper())
    return name if argument.required or name.startswith("[") else f"[{name}]"


def _name_of(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return str(parameter.metavar).replace("|", "\\|")
    names = ", ".join([*parameter.opts, *parameter.secondary_opts])
    return names if parameter.is_flag else f"{names} {parameter.metavar or 'TEXT'}".replace("|", "\\|")


def _cell(parameter: Any) -> str:
    notes = [parameter.help or ""]
    if parameter.required and parameter.param_type_name == "option":
        notes.append("Required.")
    default = parameter.default
    if isinstance(default, bool):
        names = parameter.opts if default else parameter.secondary_opts
        notes += [f"Default: `{names[0]}`."] if names else []
    elif isinstance(default, int):
        notes.append(f"Default: {default}.")
    return " ".join(notes).replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(reference())
