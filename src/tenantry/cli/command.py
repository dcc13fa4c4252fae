"""How a command is declared: its name, its example, and the options that every command has.

A command is a function whose first parameter is a `Session`; `@command` gives it `--home` and `--json`.
"""

import inspect
import os
import sys
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Concatenate, ParamSpec, get_type_hints

import typer

from tenantry.cli.client import Client
from tenantry.cli.connection import find_connection, find_home
from tenantry.cli.errors import CliError, UsageProblem
from tenantry.cli.output import Output

P = ParamSpec("P")

Home = Annotated[
    Path | None,
    typer.Option("--home", help="The platform's directory. Also TENANTRY_HOME.", metavar="DIR", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else.")]

SETTINGS = {"help_option_names": ["-h", "--help"]}


class Session:
    """What one command works with: the platform's home, a client made at first use, the output."""

    def __init__(self, home: Path | None, *, as_json: bool) -> None:
        self._chosen_home = home
        self.output = Output(as_json=as_json)

    @cached_property
    def home(self) -> Path:
        return find_home(self._chosen_home, os.environ)

    @cached_property
    def client(self) -> Client:
        """Raises `NotConnected` when there is no address or token."""
        return Client(find_connection(self._chosen_home, os.environ))

    def close(self) -> None:
        """Close the connection, if one was made."""
        if "client" in self.__dict__:
            self.client.close()

    def ask(self, question: str, option: str) -> str:
        """Ask the person for a line on the terminal. Without one, `UsageProblem` names the option to give instead."""
        if not sys.stdin.isatty():
            raise UsageProblem(option, "needed, because there is no terminal to ask on.")
        print(f"{question}: ", end="", file=sys.stderr, flush=True)
        answer = sys.stdin.readline()
        if not answer:
            raise KeyboardInterrupt
        return answer.strip()

    def confirm(self, question: str) -> None:
        """Go on only after a yes; raises `CliError` after anything else."""
        if self.ask(f"{question} [y/N]", "--yes").lower() not in ("y", "yes"):
            raise CliError("Nothing was done.")


def noun(name: str, purpose: str) -> typer.Typer:
    """The group of commands about one noun."""
    return typer.Typer(
        name=name,
        help=purpose,
        no_args_is_help=True,
        add_completion=False,
        context_settings=SETTINGS,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,  # plain help: half as long at 80 columns, and greppable
    )


def command(
    app: typer.Typer, name: str, *, example: str, speaks_json: bool = True, passes_through: bool = False
) -> Callable[[Callable[Concatenate[Session, P], None]], Callable[Concatenate[Session, P], None]]:
    """Add a function to `app` as the command `name`; its docstring is the help and `example` ends it.

    `speaks_json=False` is for commands whose output belongs to another program. With `passes_through`, options that
    the command does not know are left in its arguments for that program.
    """
    settings: dict[str, Any] = dict(SETTINGS)
    if passes_through:
        settings |= {"ignore_unknown_options": True, "allow_interspersed_args": False}

    def register(body: Callable[Concatenate[Session, P], None]) -> Callable[Concatenate[Session, P], None]:
        def run(context: typer.Context, **values: Any) -> None:
            home = values.pop("home") or (context.find_root().obj or {}).get("home")
            session = Session(home, as_json=values.pop("as_json", False))
            try:
                body(session, **values)  # type: ignore[call-arg]
            finally:
                session.close()

        _dress(run, body, speaks_json=speaks_json)
        app.command(name, epilog=f"Example: {example}", context_settings=settings)(run)
        return body

    return register


def _dress(run: Callable[..., None], body: Callable[..., None], *, speaks_json: bool) -> None:
    """Give `run` the docstring and the parameters of `body`, its session replaced by the common options."""
    hints = get_type_hints(body, include_extras=True)
    own = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[parameter.name])
        for parameter in list(inspect.signature(body).parameters.values())[1:]
    ]
    common = [inspect.Parameter("home", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Home)]
    if speaks_json:
        common.append(inspect.Parameter("as_json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Json))
    context = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    parameters = [context, *own, *common]
    run.__doc__ = body.__doc__
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}


def parse_environment(pairs: list[str]) -> dict[str, str]:
    """Read `NAME=VALUE` arguments; `NAME` alone takes the value from this process's environment."""
    environment: dict[str, str] = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not name:
            raise UsageProblem("environment", f"«{pair}» has no name; write NAME=VALUE.")
        if not separator:
            if name not in os.environ:
                raise UsageProblem("environment", f"{name} has no value here; write {name}=VALUE.")
            value = os.environ[name]
        environment[name] = value
    return environment
