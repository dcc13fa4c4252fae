"""The digest of a release: made by the build, made again by a node from what it unpacked. Equal by this definition."""

import hashlib
import stat
from collections.abc import Iterable

DIGESTED = ("src", "static", "venv")  # the directories of a release that its digest covers


def is_bytecode(path: str) -> bool:
    """Whether `path` holds nothing that the source does not, and is not the same in two builds."""
    return path.endswith((".pyc", "/__pycache__"))


def release_digest(entries: Iterable[tuple[str, int, str]]) -> str:
    """Return `sha256:…` over the sorted entries of DIGESTED, bytecode left out.

    An entry is a path relative to the release, its mode as `lstat` has it, and its content: the hash of a file in
    hexadecimal digits, the text of a link, nothing of a directory. Paths and texts are as the file system decodes them.
    """
    lines = sorted(
        f"{path}\0{stat.S_IFMT(mode):o}\0{stat.S_IMODE(mode):o}\0{content}\n"
        for path, mode, content in entries
        if not is_bytecode(path)
    )
    return "sha256:" + hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
