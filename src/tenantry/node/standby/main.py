"""Runs the process: a listener, and the parts that answer. Each part has a duty, by which nginx asks for it.

1. listen · 2. answer until asked to end (TERM, INT) or to make room for a new program (HUP) · 3. finish what is under
way · 4. end, or become the new program with the same socket. An interruption loses the requests under way, no more.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Mapping
from typing import Protocol

from tenantry.node.config import Config
from tenantry.node.standby.listener import hand_on, inherited_sockets, open_listener
from tenantry.node.standby.modes import Modes
from tenantry.node.standby.protocol import Answer, Request, read_request, write_answer
from tenantry.node.standby.reception import Reception
from tenantry.node.standby.sleeping import Sleeper
from tenantry.node.standby.visitors import Visitors
from tenantry.node.standby.waking import Waker

logger = logging.getLogger(__name__)

DUTY = "TENANTRY_DUTY"  # the variable in which nginx says what it wants
STATUS_DUTY = "status"
# For requests under way: supervisord waits 8 s before it kills; a new program can wait longer, as those who come do.
FINISH_SECONDS = {signal.SIGTERM: 6.0, signal.SIGINT: 6.0, signal.SIGHUP: 20.0}
STARTS_PER_CPU = 2  # sites loading their application at the same time

_UNABLE = Answer(503, {"Retry-After": "5", "Cache-Control": "no-store", "Content-Type": "text/plain"}, b"Try again.\n")


class Part(Protocol):
    """Something that answers in place of a site. `run` is what it does besides, until it is cancelled."""

    async def answer(self, request: Request) -> Answer: ...

    async def run(self) -> None: ...


async def run_standby(config: Config) -> None:
    """Answer until SIGTERM or SIGINT; does not return after SIGHUP: the program is then started anew in its place."""
    layout, inherited = config.layout, inherited_sockets()
    listeners = {
        path.name: open_listener(path, config.nginx_gid(), inherited)
        for path in (layout.standby_socket, layout.wake_socket, layout.wake_http_socket)
    }
    parts = parts_of(config)
    waker = Waker(config, starts_at_once=STARTS_PER_CPU * (os.cpu_count() or 1))
    asked: asyncio.Queue[signal.Signals] = asyncio.Queue()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, asked.put_nowait, number)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(part.run(), name=duty) for duty, part in parts.items()]
        tasks.append(group.create_task(Sleeper(config, waker).run(), name="sleeper"))
        visitors = Visitors(waker)
        services = {
            layout.standby_socket.name: Desk(parts).serve,
            layout.wake_socket.name: visitors.serve_uwsgi,
            layout.wake_http_socket.name: visitors.serve_http,
        }
        reception = Reception()
        for name, listener in listeners.items():
            reception.open(listener, services[name])
        logger.info("standby answers on %s", ", ".join(listeners))
        number = await asked.get()
        # Whoever comes from here on waits in the queue of the socket, for the next program.
        reception.close()
        await reception.finish(FINISH_SECONDS[number])
        for task in tasks:
            task.cancel()
    if number == signal.SIGHUP:
        _become_new(listeners)
    logger.info("standby stopped")


def parts_of(config: Config) -> dict[str, Part]:
    """Return the parts by their duty."""
    return {STATUS_DUTY: _Status(), "mode": Modes(config.layout)}


class Desk:
    """Answers what nginx asks of the parts."""

    def __init__(self, parts: Mapping[str, Part]) -> None:
        self._parts = parts

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request. Whatever goes wrong with it concerns it alone."""
        try:
            request = await read_request(reader)
            answer = await self._answer(request)
            await write_answer(writer, answer, head_only=request.get("REQUEST_METHOD") == "HEAD")
        except (OSError, EOFError, TimeoutError, ValueError) as error:
            logger.warning("a request was not answered: %r", error)

    async def _answer(self, request: Request) -> Answer:
        part = self._parts.get(request.get(DUTY))
        if part is None:
            logger.error("nginx asks for the unknown duty %r", request.get(DUTY))
            return _UNABLE
        try:
            return await part.answer(request)
        except Exception:
            logger.exception("a bug; only this request meets it")
            return _UNABLE


class _Status:
    """Says that the process works: its pid."""

    async def answer(self, request: Request) -> Answer:
        return Answer(200, {"Content-Type": "text/plain"}, f"{os.getpid()}\n".encode())

    async def run(self) -> None:
        """Nothing to be done besides."""


def _become_new(listeners: Mapping[str, socket.socket]) -> None:
    """Start the program anew under this process's id. Failing that, end: the supervisor starts it."""
    environment = hand_on(listeners)
    asyncio.get_running_loop().remove_signal_handler(signal.SIGHUP)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until the new program has a handler
    logger.info("standby makes room for a new program")
    with contextlib.suppress(ValueError):
        sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, "-m", "tenantry.node", *sys.argv[1:]], environment)  # noqa: S606
