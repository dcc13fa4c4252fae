"""Whole-file writes that survive a crash. Standard library only."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any


def write_file(path: Path, text: str, mode: int = 0o644, owner: int | tuple[int, int] | None = None) -> bool:
    """Put `text` at `path` with `mode` and `owner` (uid = gid, or both); return whether the bytes changed.

    The file is replaced by rename, so a reader sees the old or the new text and a crash leaves one of them.
    """
    given = (owner, owner) if isinstance(owner, int) else owner
    ids = given or (os.geteuid(), os.getegid())
    try:
        known = os.lstat(path)
        same = path.read_text() == text
    except (FileNotFoundError, UnicodeDecodeError):
        same = False
    else:
        if same and (known.st_mode & 0o7777, known.st_uid, known.st_gid) == (mode, *ids):
            return False
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), mode)
            if owner is not None:
                os.fchown(file.fileno(), *ids)
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return not same


def write_json(path: Path, document: dict[str, Any], mode: int = 0o644, owner: int | None = None) -> bool:
    """`write_file` of a JSON object, one key a line."""
    return write_file(path, json.dumps(document, indent=1) + "\n", mode, owner)


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the JSON object at `path`; None when there is no such file or it does not hold one."""
    try:
        document = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return document if isinstance(document, dict) else None


def make_directory(path: Path, mode: int, owner: tuple[int, int] | None = None) -> None:
    """Make `path` (its parent exists) with exactly `mode` and `owner` (uid, gid), whatever the umask."""
    path.mkdir(exist_ok=True)
    found = path.stat()
    if found.st_mode & 0o7777 != mode:
        path.chmod(mode)
    if owner is not None and (found.st_uid, found.st_gid) != owner:
        os.chown(path, *owner)


def tail(path: Path, lines: int = 20, since: int = 0) -> str:
    """Return the last `lines` lines of a log, looking only at bytes after `since`; "" when there is none."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            start = since if since <= size else 0  # the log was rotated
            file.seek(max(start, size - 65536))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])
