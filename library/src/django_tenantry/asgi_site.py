"""What stands between the server and the project's ASGI application.

Who asked is told as nginx saw it (`requests`), the site's mode is kept (`asgi_gate`), and what is open when the process
has to end is closed so that the visitor knows (`ending`).
"""

import asyncio
from collections.abc import Mapping
from typing import Any

from django_tenantry.activity import Marks
from django_tenantry.answering import Answer
from django_tenantry.asgi_gate import ModeGate
from django_tenantry.asgi_workers import Workers, ask_application
from django_tenantry.ending import Conversation, Ending
from django_tenantry.gate import ModeReader
from django_tenantry.interface import ASGIApplication, Message, Receive, Scope, Send
from django_tenantry.requests import as_nginx_saw, is_for_all, is_probe
from django_tenantry.threads import SyncThreads

ASKED = b"x-tenantry-asked"  # of an answer: how many threads' it is


class Site:
    """The ASGI application of a site's process.

    TENANTRY_THREADS is how many run the project's synchronous code, TENANTRY_REQUEST_SECONDS how long an answer may
    wait to begin.
    """

    def __init__(self, project: ASGIApplication, environment: Mapping[str, str]) -> None:
        self._project = project
        mode = ModeReader(environment.get("TENANTRY_MODE_FILE", ""), environment.get("TENANTRY_MODE", ""))
        self._gated = ModeGate(project, mode)
        self._marks = Marks(environment)
        self._threads = SyncThreads(int(environment.get("TENANTRY_THREADS", "1")))
        self._seconds = float(environment.get("TENANTRY_REQUEST_SECONDS", "60"))
        self._ending = Ending()
        self._workers: Workers | None = None
        self._state: dict[str, Any] = {}

    def join(self, workers: Workers) -> None:
        """Be one of these workers, before anything is asked."""
        self._workers = workers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
            return
        scope = as_nginx_saw(scope)
        if self._workers is not None and is_for_all(scope):
            status, count = await self._workers.ask(scope), str(self._workers.count * self._threads.count)
            await send({"type": "http.response.start", "status": status, "headers": [(ASKED, count.encode())]})
            await send({"type": "http.response.body"})
            return
        if is_probe(scope):
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body"})
            return
        self._marks.mark()
        if scope["type"] == "websocket":
            self._threads.least_busy().bind()
            await Conversation(self._ending, send).run(self._gated, scope, receive)
            return
        await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = Answer(self._threads, self._seconds, receive, send)
        with self._ending.ends(answer):
            await answer.run(self._gated, scope)

    async def _ask_here(self, scope: Scope) -> int:
        """Have each thread answer, all at once so that no two are the same; return the worst status."""
        scopes = [{**scope, "state": dict(self._state)} for _ in range(self._threads.count)]
        return max(await asyncio.gather(*(ask_application(self._answer, each) for each in scopes)))

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand lifespan events on. Of a project that knows none, such as Django itself, they are answered here."""
        self._ending.watch()
        self._state = scope.get("state", self._state)
        if self._workers is not None:
            self._workers.listen(self._ask_here)
        started = False

        async def sent(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._project(scope, receive, sent)
        except Exception:
            if started:
                raise  # it does know them, and failed
        if not started:
            await send({"type": "lifespan.startup.complete"})
            while (await receive())["type"] != "lifespan.shutdown":
                pass
            await send({"type": "lifespan.shutdown.complete"})
