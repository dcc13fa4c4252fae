"""Visitors of one machine, steadily, each request noted: `python visitors.py PORT PER_SECOND HOSTNAME…`.

Two kinds at the same pace. One opens a connection for every request. The other keeps its connection, as browsers do,
and like them repeats a request once when a kept connection turns out to be closed before a byte of the answer came
(RFC 9112, 9.3.1); that is counted, and not a failure. Standard library only: it runs on the machine it asks.
"""

import http.client
import json
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TIMEOUT_SECONDS = 10.0
END_SECONDS = 30.0
_CLOSED = (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError)


@dataclass
class Count:
    """What visitors met. `failures` has the time since the start, the kind and what went wrong."""

    requests: int = 0
    repeated: int = 0
    slowest: float = 0.0
    failures: list[tuple[float, str, str]] = field(default_factory=list)


class Visitors:
    """A context: visitors come while inside; afterwards `count` says what they met."""

    def __init__(self, host: Any, port: int, hostnames: tuple[str, ...], per_second: float) -> None:
        self._command = [*host.enter, sys.executable, "-IS", str(Path(__file__)), str(port), str(per_second)]
        self._command += hostnames
        self._process: subprocess.Popen[bytes] | None = None
        self.count = Count()

    def __enter__(self) -> "Visitors":
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"begun\n"
        return self

    def __exit__(self, *error: object) -> None:
        assert self._process is not None
        written, _ = self._process.communicate(timeout=END_SECONDS)
        self.count = Count(**json.loads(written))


class _Asking:
    """One visitor."""

    def __init__(self, port: int, hostnames: list[str], keeps: bool) -> None:
        self._port, self._hostnames, self._keeps = port, hostnames, keeps
        self._connection: http.client.HTTPConnection | None = None
        self._begun = time.monotonic()
        self.count = Count()

    def visit(self, stopped: threading.Event, pause: float) -> None:
        number = 0
        while not stopped.wait(pause):
            hostname = self._hostnames[number % len(self._hostnames)]
            number += 1
            asked = time.monotonic()
            self.count.requests += 1
            try:
                trouble = self._ask(hostname)
            except (OSError, http.client.HTTPException) as error:
                trouble = f"{type(error).__name__}: {error}"
                self._drop()
            if trouble:
                kind = "kept" if self._keeps else "new"
                self.count.failures.append((round(asked - self._begun, 3), kind, f"{hostname}: {trouble}"))
            self.count.slowest = max(self.count.slowest, time.monotonic() - asked)

    def _ask(self, hostname: str) -> str:
        """Return what is wrong with the answer."""
        used = self._connection is not None
        try:
            return self._once(hostname)
        except _CLOSED:
            self._drop()
            if not used:
                raise
        self.count.repeated += 1
        return self._once(hostname)

    def _once(self, hostname: str) -> str:
        if self._connection is None:
            self._connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT_SECONDS)
        self._connection.request("GET", "/", headers={"Host": hostname})
        answer = self._connection.getresponse()
        body = answer.read()
        if not self._keeps or answer.will_close:
            self._drop()
        if answer.status != 200:
            return f"status {answer.status}"
        site = json.loads(body)["site"]
        return "" if hostname.startswith(f"{site}.") else f"the site {site} answered"

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def main(port: str, per_second: str, *hostnames: str) -> None:
    """Visit until the input ends; print what was met."""
    stopped = threading.Event()
    asking = [_Asking(int(port), list(hostnames), keeps) for keeps in (False, True)]
    threads = [threading.Thread(target=one.visit, args=(stopped, 2 / float(per_second))) for one in asking]
    for thread in threads:
        thread.start()
    print("begun", flush=True)
    sys.stdin.read()
    stopped.set()
    for thread in threads:
        thread.join()
    counts = [one.count for one in asking]
    total = Count(
        sum(count.requests for count in counts),
        sum(count.repeated for count in counts),
        max(count.slowest for count in counts),
        [failure for count in counts for failure in count.failures],
    )
    print(json.dumps(total.__dict__), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
