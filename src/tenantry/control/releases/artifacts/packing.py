"""A frozen release's directory as a tar.gz: the same directory gives the same bytes.

Run as a program: compressing takes a processor for seconds, and jobs that make sites share the worker's.
"""

import gzip
import hashlib
import io
import json
import os
import stat
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

CONTENT = ("release.json", "src", "static", "venv")
# Nodes read these of the archive's global header. The directory: the virtualenv's texts may name it.
HEADER_DIRECTORY, HEADER_BYTES, HEADER_ENTRIES = "TENANTRY.directory", "TENANTRY.bytes", "TENANTRY.entries"
LEVEL = 1  # of gzip: two and a half times as fast as the usual 6, and a sixth larger
NICENESS = 10
POLL_SECONDS = 0.1
BUFFER_BYTES = 1 << 18
BLOCK_BYTES = 4096  # what the smallest file takes on a disk


@dataclass(frozen=True, slots=True)
class Packed:
    """A packed release: the archive's SHA-256 as 64 hexadecimal digits, and its size in bytes."""

    digest: str
    size: int


class PackingCancelled(Exception):
    """The build was cancelled while its release was packed."""


def pack_apart(directory: Path, target: Path, cancelled: Callable[[], bool]) -> Packed:
    """Pack `directory` into the new file `target` in a process of its own, which yields to others.

    The file is on the disk when this returns. Raises `OSError` (a full disk), `PackingCancelled`.
    """
    command = [sys.executable, "-m", __package__, str(directory), str(target)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        try:
            while process.poll() is None:
                if cancelled():
                    raise PackingCancelled
                time.sleep(POLL_SECONDS)
            answer = json.loads(process.communicate()[0] or "{}")
        finally:
            process.kill()  # nothing to one that has ended
    if "errno" in answer:
        raise OSError(answer["errno"], os.strerror(answer["errno"]), answer["filename"])
    if "digest" not in answer:
        raise RuntimeError(f"packing {directory} ended with code {process.returncode} and no answer")
    return Packed(**answer)


def pack(directory: Path, target: Path) -> Packed:
    """Pack the frozen release in `directory` into the new file `target`, and wait until the disk has it.

    Sorted, owned by number 0, without the modes that give rights (setuid). The times of files stay, in whole seconds:
    nginx makes a static file's ETag of them, which must be the same on every node and another one in another release.
    """
    entries = sorted(_entries(directory))
    sizes = [os.lstat(directory / name).st_size for name in entries]
    header = {
        HEADER_DIRECTORY: str(directory),
        HEADER_BYTES: str(sum(-(-size // BLOCK_BYTES) * BLOCK_BYTES for size in sizes)),
        HEADER_ENTRIES: str(len(entries)),
    }
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        hashing = _HashingWriter(file)
        with (
            gzip.GzipFile("", "wb", LEVEL, hashing, mtime=0) as compressed,
            io.BufferedWriter(compressed, BUFFER_BYTES) as buffered,
            tarfile.open(fileobj=buffered, mode="w", format=tarfile.PAX_FORMAT, pax_headers=header) as tar,
        ):
            for name in entries:
                _add(tar, directory / name, name)
        file.flush()
        os.fsync(file.fileno())
    return Packed(hashing.digest, hashing.size)


class _HashingWriter(io.RawIOBase):
    """Writes through to a file and keeps the SHA-256 and the size of what was written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        written = bytes(data)  # type: ignore[call-overload]
        self._file.write(written)
        self._hash.update(written)
        self.size += len(written)
        return len(written)

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()


def _entries(directory: Path) -> Iterator[str]:
    """The paths of everything in a release, relative to it; links as themselves."""
    pending = [name for name in CONTENT if os.path.lexists(directory / name)]
    while pending:
        name = pending.pop()
        yield name
        if stat.S_ISDIR(os.lstat(directory / name).st_mode):
            pending += [f"{name}/{child.name}" for child in (directory / name).iterdir()]


def _add(tar: tarfile.TarFile, path: Path, name: str) -> None:
    member = tarfile.TarInfo(name)
    status = os.lstat(path)
    member.mode = stat.S_IMODE(status.st_mode) & 0o777
    member.mtime = int(status.st_mtime)
    if stat.S_ISDIR(status.st_mode):
        member.type = tarfile.DIRTYPE
        tar.addfile(member)
    elif stat.S_ISLNK(status.st_mode):
        member.type = tarfile.SYMTYPE
        member.linkname = os.readlink(path)  # noqa: PTH115 - Path would normalise it
        tar.addfile(member)
    else:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            member.size = os.fstat(file.fileno()).st_size
            tar.addfile(member, file)


def main(arguments: list[str]) -> int:
    """Pack `arguments[0]` into `arguments[1]`; print the answer as JSON, or the number of the error."""
    os.nice(NICENESS)
    try:
        packed = pack(Path(arguments[0]), Path(arguments[1]))
    except OSError as error:
        print(json.dumps({"errno": error.errno or 5, "filename": str(error.filename or arguments[1])}))
        return 1
    print(json.dumps(asdict(packed)))
    return 0
