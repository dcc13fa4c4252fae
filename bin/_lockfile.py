"""Renewing uv.lock, which names no package registry.

In the repository it says index.invalid and files.invalid (names that exist nowhere, RFC 2606). To let uv update it,
the real ones are put back into a copy; they are learned by asking uv to lock a tiny project, so a configured mirror
works too.
"""

import shutil
import tempfile
import tomllib
from datetime import timedelta
from pathlib import Path

from _uv import CHECKOUT, _environment, need_uv

from tenantry.embedded.errors import CommandFailed
from tenantry.embedded.signals import Interruption, run_command

NEUTRAL_INDEX = "https://index.invalid/simple"
NEUTRAL_FILES = "https://files.invalid/packages/"
_LIMIT = timedelta(minutes=10)
# Small, without dependencies, and already among ours.
_PROBE = """[project]
name = "probe"
version = "0"
requires-python = ">=3.11"
dependencies = ["iniconfig"]
"""


def renew_lock(interruption: Interruption, arguments: list[str]) -> None:
    """Run `uv lock` with `arguments` (for example --upgrade) and write the neutral result to uv.lock."""
    uv = str(need_uv(interruption))
    with tempfile.TemporaryDirectory(prefix="tenantry-lock-") as scratch:
        index, files = _learn_registry(interruption, uv, Path(scratch) / "probe")
        copy = Path(scratch) / "copy"
        copy.mkdir()
        for name in ("pyproject.toml", "README.md", "LICENSE", "library"):
            source = CHECKOUT / name
            (shutil.copytree if source.is_dir() else shutil.copy2)(source, copy / name)
        kept = CHECKOUT / "uv.lock"
        if kept.exists():
            text = kept.read_text().replace(NEUTRAL_INDEX, index).replace(NEUTRAL_FILES, files)
            (copy / "uv.lock").write_text(text)
        printed = run_command(
            interruption,
            [uv, "lock", *arguments],
            what="uv lock",
            limit=_LIMIT,
            directory=copy,
            environment=_environment(),
        )
        text = (copy / "uv.lock").read_text().replace(index, NEUTRAL_INDEX).replace(files, NEUTRAL_FILES)
    kept.write_text(text)
    print(printed, end="")


def _learn_registry(interruption: Interruption, uv: str, project: Path) -> tuple[str, str]:
    """Return the URL of the registry that uv uses and the beginning of its files' URLs."""
    project.mkdir()
    (project / "pyproject.toml").write_text(_PROBE)
    run_command(
        interruption,
        [uv, "lock"],
        what="Asking uv for its registry",
        limit=_LIMIT,
        directory=project,
        environment=_environment(),
    )
    lock = tomllib.loads((project / "uv.lock").read_text())
    package = next(package for package in lock["package"] if package["name"] == "iniconfig")
    beginning, found, _ = package["sdist"]["url"].partition("/packages/")
    if not found:
        raise CommandFailed(
            f"This registry's files ({package['sdist']['url']}) are not under /packages/: the lock made from it would "
            "not be neutral. Run bin/lock with the default registry or one laid out like it."
        )
    return package["source"]["registry"], beginning + found
