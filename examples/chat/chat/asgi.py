"""Pages go to Django, websockets to the room. No library is needed between the two."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "chat.settings")
_pages = get_asgi_application()

from room.sockets import talk  # noqa: E402 - models can be imported only now


async def application(scope, receive, send):
    """The ASGI application."""
    if scope["type"] == "websocket":
        await talk(scope, receive, send)
    else:
        await _pages(scope, receive, send)
