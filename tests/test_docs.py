"""The pages say what is true: commands exist with their options, links lead to files, each dependency has a reason."""

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer.main

from tenantry.cli.main import app

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "library" / "README.md", *ROOT.glob("docs/**/*.md")])
# Written when the platform first runs, not in the repository's pages: the picture is made from it.
LINK = re.compile(r"\]\((?!https?://|mailto:)([^)#\s]*)(#[^)\s]*)?\)")
FENCE = re.compile(r"^ *```[a-z]*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(tenantry [^`\n]+)`")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def commands_in(text: str) -> list[str]:
    """Every command line of `text` that begins with `tenantry`, continued lines joined, from code blocks and inline."""
    blocks = "\n".join(match[1] for match in FENCE.finditer(text)).replace("\\\n", " ")
    lines = [line.strip().removeprefix("$ ") for line in blocks.splitlines()]
    shown = [line for line in lines if line.startswith("tenantry ")]
    return shown + [line for line in INLINE.findall(FENCE.sub("", text)) if "|" not in line and "…" not in line]


def children(group: Any, words: list[str]) -> Any:
    import click

    command: Any = group
    while words and hasattr(command, "get_command"):
        found = command.get_command(click.Context(command), words[0])
        if found is None:
            raise AssertionError(f"there is no command «{words[0]}» in «{command.name}»")
        command, words = found, words[1:]
    return command, words


def check_command(line: str) -> None:
    words = [word for word in shlex.split(line.partition(" #")[0])[1:] if word != "…"]
    command, rest = children(typer.main.get_command(app), words)
    known = {name: option for option in command.params for name in [*option.opts, *option.secondary_opts]}
    passes_through = command.context_settings.get("ignore_unknown_options", False)
    arguments = 0
    while rest:
        word, rest = rest[0], rest[1:]
        if word == "--":
            break
        if word.startswith("-") and passes_through and arguments:
            break
        if word.startswith("-"):
            name = word.partition("=")[0]
            assert name in known or name in ("--help", "-h"), f"«{line}»: no option {name}"
            takes_value = not getattr(known.get(name), "is_flag", True) and "=" not in word
            rest = rest[1:] if takes_value else rest
        else:
            arguments += 1
    positional = [p for p in command.params if p.param_type_name == "argument"]
    assert positional or not arguments or passes_through, f"«{line}»: takes no argument"
    needed = len([p for p in positional if p.required])
    if "`" not in line and len(words) > 2:
        assert arguments >= needed or "--help" in words, f"«{line}»: {needed} arguments are needed"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_shown_exists_with_its_options(page: Path) -> None:
    for line in commands_in(page.read_text(encoding="utf-8")):
        check_command(line)


def test_a_command_that_does_not_exist_is_noticed() -> None:
    with pytest.raises(AssertionError, match="no command"):
        check_command("tenantry site explode blog")
    with pytest.raises(AssertionError, match="no option"):
        check_command("tenantry site create blog --colour red")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_within_the_repository_leads_to_a_file(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    broken = [target for target, _ in LINK.findall(text) if target and not (page.parent / target).exists()]
    assert not broken


def dependencies() -> set[str]:
    document = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    lines = [*document["project"]["dependencies"], *document["dependency-groups"]["dev"]]
    return {re.split(r"[\[<>=~!; ]", line)[0] for line in lines}


def test_every_dependency_has_its_reason_and_none_is_listed_that_is_gone() -> None:
    page = (ROOT / "docs/decisions/0002-dependencies.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `([A-Za-z0-9-]+)` \|", page, re.MULTILINE)) == dependencies()
