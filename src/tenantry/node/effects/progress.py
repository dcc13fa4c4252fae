"""A transfer that brings next to nothing is ended: a timeout of silence never ends one that drips."""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

WINDOW_SECONDS = 30.0
RATE_BYTES = 1024  # per second, over a window: less brings no release within a day
_STEP_SECONDS = 0.25


class Progress:
    """While it is entered, connections told to `trace` are shut when a window brought too little, or at `stopping`.

    `received` says how many bytes came so far. Whoever reads such a connection meets its end; `slow` says why.
    It covers all of an exchange: the handshake and the head of an answer can drip, too.
    """

    def __init__(self, received: Callable[[], int], stopping: threading.Event) -> None:
        self.slow = False
        self._received = received
        self._stopping = stopping
        self._done = threading.Event()
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._thread = threading.Thread(target=self._watch, name="progress", daemon=True)

    def trace(self, event: str, details: Mapping[str, Any]) -> None:
        """The `trace` extension of httpx: note each connection that is made."""
        if event != "connection.connect_tcp.complete":
            return
        # Of its own, so that neither TLS nor a close in the reading thread is in the way.
        descriptor = os.dup(details["return_value"].get_extra_info("socket").fileno())
        with self._lock:
            self._sockets.append(socket.socket(fileno=descriptor))

    def __enter__(self) -> "Progress":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        for one in self._sockets:
            one.close()

    def _watch(self) -> None:
        began, before = time.monotonic(), self._received()
        while not self._done.wait(_STEP_SECONDS):
            if self._stopping.is_set():
                break
            now, received = time.monotonic(), self._received()
            if now - began < WINDOW_SECONDS:
                continue
            if received - before < RATE_BYTES * (now - began):
                self.slow = True
                break
            began, before = now, received
        while not self._done.wait(_STEP_SECONDS):  # also what is connected from here on
            self._shut()

    def _shut(self) -> None:
        with self._lock:
            for one in self._sockets:
                with contextlib.suppress(OSError):  # it has ended by itself
                    one.shutdown(socket.SHUT_RDWR)
