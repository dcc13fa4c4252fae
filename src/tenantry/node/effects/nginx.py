"""nginx, asked over its own port under the name `_status`, and its master process, found and told to reload."""

import asyncio
import ipaddress
import logging
import os
import re
import signal
from pathlib import Path

from tenantry.node.config import Config
from tenantry.node.effects.files import write_file
from tenantry.node.errors import Transient
from tenantry.node.layout import Layout

logger = logging.getLogger(__name__)

ANSWER_SECONDS = 3.0
RELOAD_SECONDS = 10.0  # a reload settles within 0.2 s; new workers wait for a processor like everybody
_STEP_SECONDS = 0.05
_ANSWER_MAX_BYTES = 65_536
_COUNTS = re.compile(rb"Reading: (\d+) Writing: (\d+) Waiting: (\d+)")
_TITLE = b"nginx: master process "


class Nginx:
    """This node's nginx."""

    def __init__(self, config: Config) -> None:
        self._layout: Layout = config.layout
        address = ipaddress.ip_address(config.bind)
        own = "127.0.0.1" if address.version == 4 else "::1"
        self._address = own if address.is_unspecified else str(address)
        self._port = config.http_port

    async def revision(self) -> str | None:
        """Return the revision of the configuration that is in use, None when nginx says none (another version's)."""
        status, body = await self._ask("/revision")
        return body.decode("latin-1").strip() if status == 200 else None

    async def visitors(self) -> int:
        """Return the number of requests being read or answered, less this one; 0 when nothing listens."""
        try:
            _, body = await self._ask("/nginx")
        except ConnectionRefusedError:
            return 0
        counts = _COUNTS.search(body)
        if counts is None:
            raise Transient("nginx does not say how many requests it serves")
        return max(int(counts[1]) + int(counts[2]) - 1, 0)

    async def reload(self, revision: str) -> None:
        """Make nginx take etc/nginx.conf and wait until it serves `revision`; `Transient` when it does not."""
        master = self.master()
        if master is None:
            raise Transient("no nginx of this home runs")
        os.kill(master, signal.SIGHUP)
        deadline = asyncio.get_running_loop().time() + RELOAD_SECONDS
        while asyncio.get_running_loop().time() < deadline:
            try:
                if await self.revision() == revision:
                    return
            except OSError as error:
                logger.info("nginx while it reloads: %s", error)
            await asyncio.sleep(_STEP_SECONDS)
        raise Transient("nginx was told to reload and still serves another configuration; see logs/nginx.log")

    def master(self) -> int | None:
        """Return the process id of this home's nginx, however wrong its pid file is."""
        known = self.noted_master()
        if known is not None:
            return known
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal() and self._is_ours(int(entry.name)):
                return int(entry.name)
        return None

    def noted_master(self) -> int | None:
        """Return the process id in run/nginx.pid if this home's nginx has it."""
        try:
            text = self._layout.nginx_pid.read_bytes()[:20].strip()
        except OSError:
            return None
        return int(text) if text.isdigit() and self._is_ours(int(text)) else None

    def note_master(self, pid: int) -> None:
        """Write run/nginx.pid, as nginx does once when it starts."""
        write_file(self._layout.nginx_pid, f"{pid}\n".encode())

    def _is_ours(self, pid: int) -> bool:
        try:
            title = Path(f"/proc/{pid}/cmdline").read_bytes()
            owner = os.stat(f"/proc/{pid}").st_uid  # noqa: PTH116
        except OSError:
            return False
        names = title.replace(b"\0", b" ").split(b" ")
        return title.startswith(_TITLE) and os.fsencode(self._layout.nginx_conf) in names and owner == os.geteuid()

    async def _ask(self, path: str) -> tuple[int, bytes]:
        """Return status and body; `OSError` when nobody answers in time."""
        async with asyncio.timeout(ANSWER_SECONDS):
            reader, writer = await asyncio.open_connection(self._address, self._port)
            try:
                writer.write(f"GET {path} HTTP/1.0\r\nHost: _status\r\n\r\n".encode())
                await writer.drain()
                answer = await reader.read(_ANSWER_MAX_BYTES)
            finally:
                writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        parts = head.split(b" ", 2)
        if len(parts) < 2 or not parts[1].isdigit():
            raise ConnectionError("nginx hung up")
        return int(parts[1]), body
