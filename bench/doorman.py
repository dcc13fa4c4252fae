"""Stands where a PostgreSQL that is starting would: takes connections, notes who came when, and sends them away."""

import asyncio
import contextlib
import struct
import threading
import time
from pathlib import Path

_STARTUP = 196608  # protocol 3.0
_REFUSAL = b"SFATAL\0VFATAL\0C57P03\0Mthe database system is starting up\0\0"


class Doorman:
    """Serves one unix socket in a thread. `attempts`: role → moments (monotonic)."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), name="doorman")
        self.attempts: dict[str, list[float]] = {}

    def __enter__(self) -> "Doorman":
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()
        self._socket.unlink(missing_ok=True)

    async def _serve(self) -> None:
        self._socket.unlink(missing_ok=True)
        server = await asyncio.start_unix_server(self._refuse, str(self._socket), backlog=4096)
        self._socket.chmod(0o777)
        async with server:
            self._ready.set()
            await self._stop.wait()

    async def _refuse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        moment = time.monotonic()
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            length, code = struct.unpack("!II", await reader.readexactly(8))
            if code == _STARTUP:
                words = (await reader.readexactly(length - 8)).split(b"\0")
                options = dict(zip(words[::2], words[1::2], strict=False))
                self.attempts.setdefault(options[b"user"].decode(), []).append(moment)
                writer.write(b"E" + struct.pack("!I", len(_REFUSAL) + 4) + _REFUSAL)
                await writer.drain()
        writer.close()


def most_within(moments: list[float], seconds: float) -> int:
    """Return the most moments that lie within any stretch of `seconds`."""
    ordered, first, most = sorted(moments), 0, 0
    for last, moment in enumerate(ordered):
        while moment - ordered[first] > seconds:
            first += 1
        most = max(most, last - first + 1)
    return most
