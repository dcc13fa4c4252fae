"""Make an unpacked release run here: its virtualenv's interpreter, and the texts that name where it was built."""

import os
import re
from pathlib import Path

from tenantry.interpreters import (
    Interpreter,
    NotReachable,
    find_interpreters,
    make_reachable,
    probe,
    reachable_by_others,
)
from tenantry.node.effects.unpacking import Tree, replace_file
from tenantry.node.errors import NotReady

CONFIGURATION = "venv/pyvenv.cfg"
_VERSION = re.compile(r"^version(?:_info)? *= *(3)\.(\d+)", re.MULTILINE)
_HOME = re.compile(r"^home *=.*$", re.MULTILINE)
_TEXT_MAX_BYTES = 1 << 20
# Where installers write absolute paths: scripts (of virtualenvs made before they were relocatable) and activate,
# path files of packages installed in place.
_NAMES_PLACE = re.compile(r"venv/bin/[^/]+|venv/lib/python3[^/]*/site-packages/(?:[^/]+\.pth|__editable__[^/]+\.py)")


def relocate(tree: Tree, home: Path, target: Path, owner: int | None) -> None:
    """Prepare the unpacked `tree` to run as `target`, as the user `owner`, with an interpreter of this machine.

    `NotReady` when there is none of the version that the release was built with.
    """
    version = _version_of(tree)
    interpreter = _interpreter(tree, home, version, owner)
    _point(tree, interpreter, owner)
    if tree.built_in and tree.built_in != str(target):
        _rewrite_texts(tree, os.fsencode(tree.built_in), os.fsencode(target))


def _version_of(tree: Tree) -> tuple[int, int]:
    if CONFIGURATION not in tree.files:
        raise NotReady(f"the artifact is refused: it lacks {CONFIGURATION}")
    found = _VERSION.search((tree.root / CONFIGURATION).read_text(errors="replace"))
    if found is None:
        raise NotReady(f"the artifact is refused: {CONFIGURATION} does not say which Python it needs")
    return int(found[1]), int(found[2])


def _interpreter(tree: Tree, home: Path, version: tuple[int, int], owner: int | None) -> Interpreter:
    """The recorded interpreter where this machine has it, else another of the same version.

    The recorded path comes from a directory that the project's code could write: it is asked as the project's user, and
    what lies in a release is no interpreter at all.
    """
    link = tree.root / "venv/bin/python"
    recorded = Path(os.path.realpath(link)) if link.is_symlink() else None
    if recorded is not None and not recorded.is_relative_to(home / "releases"):
        found = probe(recorded, owner)
        if found is not None and found.version[:2] == version:
            return found
    fitting = [one for one in _found_here(home) if one.version[:2] == version]
    if owner is None and fitting:
        return fitting[0]
    for one in sorted(fitting, key=lambda one: not reachable_by_others(one.path)):
        try:
            return make_reachable(one, home, owner or 0)
        except NotReachable:
            continue
    wanted = ".".join(map(str, version))
    here = ", ".join(dict.fromkeys(one.version_text for one in _found_here(home))) or "none"
    raise NotReady(
        f"the release was built with Python {wanted}, which this node does not have (found: {here}). Install it here "
        f"(apt install python{wanted}, pyenv install {wanted}, uv python install {wanted}), then restart the site"
    )


def _found_here(home: Path) -> list[Interpreter]:
    copies = [probe(path) for path in sorted((home / "pythons").glob("*/bin/python3.[0-9]*"))]
    known = find_interpreters()
    return known + [one for one in copies if one is not None and one not in known]


def _point(tree: Tree, interpreter: Interpreter, owner: int | None) -> None:
    """Point the virtualenv at `interpreter`: its link, and where the standard library is looked for."""
    link = tree.root / "venv/bin/python"
    if not link.is_symlink() or os.readlink(link) != str(interpreter.path):  # noqa: PTH115 - as it is written
        link.unlink(missing_ok=True)
        link.symlink_to(interpreter.path)
        if owner is not None:
            os.chown(link, owner, owner, follow_symlinks=False)
    path = tree.root / CONFIGURATION
    text = path.read_text()
    pointed = _HOME.sub(lambda _: f"home = {interpreter.path.parent}", text, count=1)
    if pointed != text:
        replace_file(tree, CONFIGURATION, pointed.encode())


def _rewrite_texts(tree: Tree, old: bytes, new: bytes) -> None:
    for name in tree.files:
        path = tree.root / name
        if not _NAMES_PLACE.fullmatch(name) or os.lstat(path).st_size > _TEXT_MAX_BYTES:
            continue
        content = path.read_bytes()
        if b"\0" in content:
            continue  # a program
        rewritten = re.sub(re.escape(old) + rb"(?![A-Za-z0-9._-])", lambda _: new, content)
        if rewritten != content:
            replace_file(tree, name, rewritten)
