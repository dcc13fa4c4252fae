"""The ASGI application of a site, in whatever mode the site is: what `gate` is for WSGI.

A websocket is refused, and one that is open is closed, where a page would be answered with the mode's: a site in
maintenance does not go on with whom it has.
"""

import time
from typing import TYPE_CHECKING

from django_tenantry.gate import ModeReader, noting_refusals
from django_tenantry.interface import ASGIApplication, Message, Receive, Scope, Send
from django_tenantry.requests import is_let_through

if TYPE_CHECKING:
    from django_tenantry.modes import ModeState

TRY_AGAIN_LATER = 1013
_HTTP_REFUSAL = "websocket.http.response"


class ModeGate:
    """Passes requests and websockets on to `project` while the site's mode allows them."""

    def __init__(self, project: ASGIApplication, mode: ModeReader) -> None:
        self._project = project
        self._mode = mode

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = self._mode.current()
        is_websocket = scope["type"] == "websocket"
        if state is not None and not is_let_through(scope) and state.refuses(scope.get("method", "GET")):
            await (_refuse if is_websocket else _answer)(state, scope, receive, send)
        elif is_websocket:
            await self._converse(scope, receive, send)
        elif state is not None and state.mode == "read_only":
            await self._explain(state, scope, receive, send)
        else:
            await self._project(scope, receive, send)

    async def _converse(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a websocket until the mode allows it no longer: then both sides hear of its end."""
        closed = False

        async def received() -> Message:
            nonlocal closed
            message = await receive()
            state = None if is_let_through(scope) else self._mode.current()
            if message["type"] == "websocket.receive" and state is not None and state.refuses("GET"):
                closed = True
                await send({"type": "websocket.close", "code": TRY_AGAIN_LATER, "reason": state.mode})
                return {"type": "websocket.disconnect", "code": TRY_AGAIN_LATER}
            return message

        async def sent(message: Message) -> None:
            if not closed:
                await send(message)

        await self._project(scope, received, sent)

    async def _explain(self, state: "ModeState", scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application; where it ends in a 500 because the database refused to write, say that instead."""
        refused: list[str] = []
        replaced = False

        async def sent(message: Message) -> None:
            nonlocal replaced
            if message["type"] == "http.response.start" and refused and message["status"] == 500:
                replaced = True
                await _answer(state, scope, receive, send)
            elif not replaced:
                await send(message)

        with noting_refusals(refused):
            await self._project(scope, receive, sent)


async def _answer(state: "ModeState", scope: Scope, receive: Receive, send: Send, kind: str = "http.response") -> None:
    from django_tenantry.modes import answer

    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    said = answer(
        state,
        accept=headers.get("accept", ""),
        requested_with=headers.get("x-requested-with", ""),
        now=time.time(),
    )
    encoded = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in said.headers.items()]
    await send({"type": f"{kind}.start", "status": said.status, "headers": encoded})
    await send({"type": f"{kind}.body", "body": b"" if scope.get("method") == "HEAD" else said.body})


async def _refuse(state: "ModeState", scope: Scope, receive: Receive, send: Send) -> None:
    """Refuse a websocket with the page's status, where the server can; else it is a 403."""
    await receive()
    if _HTTP_REFUSAL in scope.get("extensions", {}):
        await _answer(state, scope, receive, send, _HTTP_REFUSAL)
    else:
        await send({"type": "websocket.close", "code": TRY_AGAIN_LATER})
