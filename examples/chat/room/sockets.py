"""The room's websocket: what somebody says is kept, and said back with its number."""

import json

from room.models import Message

TEXT_MAX = 500


async def talk(scope, receive, send):
    """Serve one websocket until it is closed."""
    if scope["path"] != "/talk":
        await receive()
        await send({"type": "websocket.close"})
        return
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        said = await Message.objects.acreate(text=(message.get("text") or "")[:TEXT_MAX])
        await send({"type": "websocket.send", "text": json.dumps({"id": said.pk, "text": said.text})})
