"""The command tree: every command has help, an example that parses, --json, and its place in the reference."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from tenantry.cli.reference import commands, reference

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"
TREE = dict(commands())
LEAVES = {name: command for name, command in TREE.items() if not hasattr(command, "list_commands")}
# Their output is another program's.
WITHOUT_JSON = {"tenantry up", "tenantry down", "tenantry node join", "tenantry site manage", "tenantry site shell"}
WAITING = {
    "tenantry project add",
    "tenantry project remove",
    "tenantry release build",
    "tenantry release activate",
    "tenantry site mode",
    "tenantry site bypass",
    "tenantry site runtime",
    "tenantry node drain",
    "tenantry node check",
    "tenantry node confirm",
    "tenantry site create",
    "tenantry site update",
    "tenantry site restart",
    "tenantry site delete",
    "tenantry hostname add",
    "tenantry hostname remove",
}
PROMISED = """
up down status doctor whoami
project add|project list|project show|project update|project remove
release build|release list|release show|release log|release activate
site create|site list|site show|site update|site delete|site restart
site mode|site runtime|site bypass|site logs|site manage|site shell
hostname add|hostname remove|hostname list
node list|node show|node token|node join|node drain|node remove|node check|node confirm|node drift
event list|event follow|event compact|event new-epoch
token create|token list|token revoke
"""


def options_of(command: Any) -> dict[str, Any]:
    return {name: one for one in command.params for name in [*one.opts, *one.secondary_opts]}


def test_every_promised_command_exists_and_no_other() -> None:
    words = [word for line in PROMISED.split("\n") for word in (line.split("|") if "|" in line else line.split())]
    assert set(LEAVES) == {f"tenantry {word}" for word in words}


@pytest.mark.parametrize("name", LEAVES)
def test_a_command_has_help_and_an_example_of_itself(name: str) -> None:
    command = LEAVES[name]
    assert command.help
    assert command.epilog.startswith(f"Example: {name}")
    assert len(command.epilog) <= 78, "the example must not wrap at 80 columns"


@pytest.mark.parametrize("name", LEAVES)
def test_an_example_parses(name: str) -> None:
    words = shlex.split(LEAVES[name].epilog.removeprefix("Example: ").partition("|")[0])
    LEAVES[name].make_context(name, words[name.count(" ") + 1 :])


@pytest.mark.parametrize("name", LEAVES)
def test_every_option_and_argument_has_help(name: str) -> None:
    assert [one.name for one in LEAVES[name].params if not one.help] == []


@pytest.mark.parametrize("name", LEAVES)
def test_json_home_and_wait_are_where_they_belong(name: str) -> None:
    options = options_of(LEAVES[name])
    assert ("--json" in options) == (name not in WITHOUT_JSON)
    assert ("--wait" in options and "--no-wait" in options) == (name in WAITING)
    assert "--home" in options


@pytest.mark.parametrize("name", TREE)
def test_help_is_shown_with_the_example_and_fits_80_columns(
    name: str, cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    done = cli(*name.split()[1:], "--help")
    assert done.code == 0
    assert done.err == ""
    assert f"Usage: {name}" in done.out
    assert max(map(len, done.out.splitlines())) <= 80
    if name in LEAVES or name == "tenantry":
        assert "Example: tenantry " in done.out


def test_the_reference_page_is_current() -> None:
    hint = "run: python -m tenantry.cli.reference > docs/reference/cli.md"
    assert PAGE.read_text(encoding="utf-8") == reference(), hint


def test_the_reference_page_has_every_command_and_option() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for name, command in LEAVES.items():
        section = re.search(rf"^#+ {re.escape(name)}$(.*?)(?=^#|\Z)", page, re.MULTILINE | re.DOTALL)
        assert section is not None, name
        assert [option for option in options_of(command) if option.startswith("-") and option not in section[1]] == []
