"""What a release's directory held when it was whole, file by file, and how it differs now.

Hashing reads everything; so a file whose signature (inode, size, times, mode, owner) is the one it had when it was last
hashed counts as unchanged. Its ctime is part of it: nobody sets that back.
"""

import hashlib
import json
import os
import stat
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tenantry.node.effects.files import write_file
from tenantry.node.errors import NodeError
from tenantry.spec.digests import DIGESTED, is_bytecode, release_digest

VERSION = 1
CONTENT = ("release.json", *DIGESTED)
DIFFERENCES_NAMED = 3
REST_FACTOR = 3.0  # after hashing for a while, rest three times as long: sites come first
REST_AFTER_SECONDS = 0.02

Signature = tuple[int, ...]
Entry = tuple[str, int, int, int, int, str]  # kind (f, d, l), mode, uid, gid, size, SHA-256 or the link's text


@dataclass(slots=True)
class Record:
    """A release's entries by their path. `origin` is the artifact it was unpacked from, "" for one that was here."""

    origin: str
    entries: dict[str, Entry]


@dataclass(slots=True)
class Seen:
    """The signatures of files that were hashed and found right; in memory only."""

    signatures: dict[str, Signature] = field(default_factory=dict)


def take_record(root: Path, origin: str, stopping: threading.Event, *, rest: bool) -> tuple[Record, Seen]:
    """Return what the release in `root` holds. `rest`: slowly."""
    entries: dict[str, Entry] = {}
    seen = Seen()
    pace = _Pace(stopping, rest)
    for name, status in _walk(root):
        entries[name] = _entry(root / name, status, pace)
        seen.signatures[name] = _signature(status)
    return Record(origin, entries), seen


def write_record(path: Path, record: Record) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    document = {"version": VERSION, "origin": record.origin, "entries": record.entries}
    write_file(path, json.dumps(document, separators=(",", ":")).encode(), mode=0o600, durable=True)


def read_record(path: Path) -> Record | None:
    """Return what was written to `path`; None when there is nothing, or nothing that can be used.

    `NodeError` for one of a newer release of the agent, which is not to be replaced by what this one understands.
    """
    try:
        document: dict[str, Any] = json.loads(path.read_bytes())
        version = int(document["version"])
        if version > VERSION:
            raise NodeError(
                f"state/releases/{path.name} was written by a newer release (version {version}, this one knows "
                f"{VERSION}): not used, and left as it is"
            )
        entries = {}
        for name, (kind, mode, uid, gid, size, content) in document["entries"].items():
            entries[str(name)] = (str(kind), int(mode), int(uid), int(gid), int(size), str(content))
        return Record(str(document["origin"]), entries)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def differences(
    root: Path, record: Record, seen: Seen, stopping: threading.Event, *, foreign: bool
) -> tuple[list[str], int]:
    """Compare the release in `root` with its record; return the first differences in words, and how many there are.

    `foreign`: what is not in the record counts too, bytecode excepted: Python writes it. Files hashed go to `seen`.
    """
    words: list[str] = []
    count = 0
    missing = set(record.entries)
    pace = _Pace(stopping, rest=True)
    for name, status in _walk(root):
        expected = record.entries.get(name)
        missing.discard(name)
        word = None
        if expected is None:
            word = "is not of the release" if foreign and not is_bytecode(name) else None
        elif seen.signatures.get(name) != _signature(status):
            word = _difference(root / name, status, expected, pace)
            if word is None:
                seen.signatures[name] = _signature(status)
        if word is not None:
            seen.signatures.pop(name, None)
            count += 1
            words += [f"{name} {word}"] if len(words) < DIFFERENCES_NAMED else []
    named = sorted(missing)[: DIFFERENCES_NAMED - len(words)]
    return words + [f"{name} is missing" for name in named], count + len(missing)


def digest_of(record: Record) -> str:
    """Return the digest of the release that a record describes (`spec.digests`)."""
    kinds = {"f": stat.S_IFREG, "d": stat.S_IFDIR, "l": stat.S_IFLNK}
    return release_digest(
        (name, kinds[kind] | mode, content)
        for name, (kind, mode, _, _, _, content) in record.entries.items()
        if name.partition("/")[0] in DIGESTED
    )


class _Pace:
    """Hashes files, resting between them; ends when the agent does."""

    def __init__(self, stopping: threading.Event, rest: bool) -> None:
        self._stopping = stopping
        self._rest = rest
        self._busy_seconds = 0.0

    def hash(self, path: Path) -> str:
        begun = time.perf_counter()
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        self._busy_seconds += time.perf_counter() - begun
        if self._rest and self._busy_seconds > REST_AFTER_SECONDS:
            self._stopping.wait(self._busy_seconds * REST_FACTOR)
            self._busy_seconds = 0.0
        return digest


def _walk(root: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Everything below `root` but its own bookkeeping, links as themselves, sorted within each directory."""
    pending = [""]
    while pending:
        directory = pending.pop()
        with os.scandir(root / directory if directory else root) as found:
            for entry in sorted(found, key=lambda one: one.name):
                name = f"{directory}/{entry.name}" if directory else entry.name
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    pending.append(name)
                yield name, status


def _entry(path: Path, status: os.stat_result, pace: _Pace) -> Entry:
    mode, owner = stat.S_IMODE(status.st_mode), (status.st_uid, status.st_gid)
    if stat.S_ISLNK(status.st_mode):
        return ("l", mode, *owner, 0, os.readlink(path))  # noqa: PTH115 - as it is written
    if stat.S_ISREG(status.st_mode):
        return ("f", mode, *owner, status.st_size, pace.hash(path))
    return ("d" if stat.S_ISDIR(status.st_mode) else "?", mode, *owner, 0, "")


def _difference(path: Path, status: os.stat_result, expected: Entry, pace: _Pace) -> str | None:
    """What is different, in words. The cheap comparisons first; the content is read when these all fit."""
    kind, mode, uid, gid, size, content = expected
    is_kind = {"f": stat.S_ISREG, "d": stat.S_ISDIR, "l": stat.S_ISLNK}.get(kind)
    if is_kind is None or not is_kind(status.st_mode):
        return f"is no longer a {'file' if kind == 'f' else 'directory' if kind == 'd' else 'link'}"
    if kind == "l" and os.readlink(path) != content:  # noqa: PTH115 - as it is written
        return "points elsewhere"
    if stat.S_IMODE(status.st_mode) != mode:
        return f"has the mode {stat.S_IMODE(status.st_mode):04o} instead of {mode:04o}"
    if (status.st_uid, status.st_gid) != (uid, gid):
        return f"belongs to {status.st_uid}:{status.st_gid} instead of {uid}:{gid}"
    if kind == "f" and status.st_size != size:
        return f"has {status.st_size} bytes instead of {size}"
    if kind == "f" and pace.hash(path) != content:
        return "has another content"
    return None


def _signature(status: os.stat_result) -> Signature:
    if stat.S_ISDIR(status.st_mode):  # its times change with every bytecode file that comes and goes
        return (status.st_ino, status.st_mode, status.st_uid, status.st_gid)
    return (
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
        status.st_mode,
        status.st_uid,
        status.st_gid,
    )
