"""Bring an artifact here: from the store's directory, or from control over HTTPS, verified while it streams."""

import hashlib
import json
import logging
import os
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from tenantry.node.config import Config, ControlAccess
from tenantry.node.effects.progress import RATE_BYTES, Progress
from tenantry.node.errors import Transient

if TYPE_CHECKING:
    import httpx  # at run time where something is fetched: its import takes 0.1 s of every start

# It logs every address it asks, and one of the store is signed: whoever reads it may have the artifact.
logging.getLogger("httpx").setLevel(logging.WARNING)

CHUNK_BYTES = 1 << 18
CONNECT_SECONDS = 10.0
SILENCE_SECONDS = 30.0  # a transfer in which nothing comes for so long is broken
ERROR_BYTES = 1 << 16  # that are read of an answer that is no artifact: it may be anybody's who has the store
TOO_SLOW = f"brings less than {RATE_BYTES} bytes a second; it is asked again later"
RESUMPTIONS = 5  # of one transfer that broke off, each where the one before ended


@dataclass(frozen=True, slots=True)
class Artifact:
    """What is to be fetched: 64 hexadecimal digits of SHA-256, and bytes (None where the database does not say)."""

    digest: str
    size: int | None

    @classmethod
    def of(cls, artifact: str, size: int | None) -> "Artifact":
        return cls(artifact.removeprefix("sha256:"), size)


def fetch(artifact: Artifact, config: Config, target: Path, stopping: threading.Event) -> None:
    """Write the artifact to the new file `target`; what is there afterwards has its digest and size.

    `Transient` when it cannot be had or is another than agreed: a store can be mended. `OSError` for this disk's part.
    """
    descriptor = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "r+b") as file:
        receiver = _Receiver(artifact, file, stopping)
        local = config.artifact_directory and config.artifact_directory / f"{artifact.digest}.tar.gz"
        if local is not None and local.is_file():
            with local.open("rb") as source:
                receiver.take(iter(lambda: source.read(CHUNK_BYTES), b""))
        elif config.control is not None:
            _download(artifact, config.control, receiver, stopping)
        elif local is not None:
            raise Transient(f"the artifact store does not have {local}")
        else:
            raise Transient("this node was not told where artifacts are (agent.json: control_url, artifact_directory)")
        receiver.check()


class _Receiver:
    """Writes what comes, counts and hashes it."""

    def __init__(self, artifact: Artifact, file: BinaryIO, stopping: threading.Event) -> None:
        self._artifact = artifact
        self._file = file
        self._stopping = stopping
        self._hash = hashlib.sha256()
        self.received = 0
        self.arrived = 0  # also what was thrown away again

    def restart(self) -> None:
        self._file.seek(0)
        self._file.truncate()
        self._hash = hashlib.sha256()
        self.received = 0

    def take(self, chunks: Iterator[bytes]) -> None:
        for chunk in chunks:
            if self._stopping.is_set():
                raise Transient("the agent ends during a download")
            self.received += len(chunk)
            self.arrived += len(chunk)
            if self._artifact.size is not None and self.received > self._artifact.size:
                raise Transient(f"the artifact is longer than its {self._artifact.size} bytes; nothing was changed")
            self._file.write(chunk)
            self._hash.update(chunk)

    def check(self) -> None:
        digest, size = self._hash.hexdigest(), self._artifact.size
        if digest != self._artifact.digest:
            length = f" ({self.received} bytes of {size})" if size not in (None, self.received) else ""
            raise Transient(
                f"the artifact sha256:{self._artifact.digest} arrived with the digest sha256:{digest}{length}; nothing "
                "was changed. Its copy in the artifact store is damaged: restore it, or build the release again"
            )
        self._file.flush()


def _download(artifact: Artifact, control: ControlAccess, receiver: _Receiver, stopping: threading.Event) -> None:
    """Ask control, follow it to where it sends; go on where a connection broke, as long as each brings something."""
    import httpx

    url = f"{control.url.rstrip('/')}/api/v1/agent/artifacts/{artifact.digest}"
    broken: Exception | None = None
    for _ in range(RESUMPTIONS + 1):
        before = receiver.received
        progress = Progress(lambda: receiver.arrived, stopping)
        try:
            with progress, _asked(url, control, before, progress) as response:
                if response.status_code != HTTPStatus.PARTIAL_CONTENT:
                    receiver.restart()
                receiver.take(response.iter_raw())  # as it comes: what waits for a full chunk is lost with it
            broken = None
        except (httpx.TransportError, ssl.SSLError) as error:
            broken = error
        if progress.slow:  # an answer without a length just seems to be complete then
            raise Transient(f"{url} {TOO_SLOW}") from broken
        if broken is None:
            return
        if receiver.received == before:
            break
    raise Transient(f"{url} could not be fetched: {broken or type(broken).__name__}") from broken


@contextmanager
def _asked(url: str, control: ControlAccess, offset: int, progress: Progress) -> "Iterator[httpx.Response]":
    """The answer with the artifact's bytes from `offset` on. `Transient` with the other's words when it has another."""
    import httpx

    # A part of the compressed file is asked for: nothing on the way may compress it again.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={offset}-"} if offset else {})
    own = headers | {"Authorization": f"Bearer {control.token}"}
    watched = {"trace": progress.trace}
    limits = httpx.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS)
    with (
        httpx.Client(verify=_trusting(control.ca), timeout=limits, trust_env=False) as client,
        client.stream("GET", url, headers=own, extensions=watched) as response,
    ):
        if not response.is_redirect:
            _check_answer(response, url)
            yield response
            return
        elsewhere = response.headers["Location"]
    # The store is another server: it gets no token of ours, may be behind the machine's proxy, and has a certificate
    # of anybody. The digest says whether what it sends is right.
    with (
        httpx.Client(verify=_trusting(None, also=control.ca), timeout=limits) as client,
        client.stream("GET", elsewhere, headers=headers, extensions=watched) as response,
    ):
        _check_answer(response, elsewhere.partition("?")[0])
        yield response


def _trusting(authority: Path | None, also: Path | None = None) -> ssl.SSLContext:
    """Trust `authority` alone, or the machine's authorities and `also`."""
    context = ssl.create_default_context(cafile=authority)
    if also is not None:
        context.load_verify_locations(cafile=also)
    return context


def _check_answer(response: "httpx.Response", url: str) -> None:
    if response.status_code in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
        return
    body = b""
    for chunk in response.iter_raw(1 << 12):  # as it comes: what is small may unpack to anything
        body += chunk
        if len(body) >= ERROR_BYTES:
            break
    text = body.decode(errors="replace")
    try:
        text = str(json.loads(text)["detail"])
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise Transient(f"{url} answered {response.status_code}: {text[:500]}")
