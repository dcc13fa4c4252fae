"""A page, an async view and a stream of events."""

import asyncio
import json

from django.http import JsonResponse, StreamingHttpResponse
from django.shortcuts import render

from room.models import Message

LOOK_SECONDS = 0.3  # how often a stream looks for what was said, in whichever process
LAST = 20


def page(request):
    """The room, with what was said last."""
    return render(request, "room/page.html", {"messages": list(Message.objects.order_by("-pk")[:LAST])[::-1]})


async def messages(request):
    """What was said last, as JSON."""
    last = [message async for message in Message.objects.order_by("-pk")[:LAST]]
    return JsonResponse({"messages": [{"id": message.pk, "text": message.text} for message in reversed(last)]})


async def events(request):
    """What is said from now on, as server-sent events; a browser that comes again says what it had last."""
    seen = request.headers.get("Last-Event-ID", "")
    return StreamingHttpResponse(_events(int(seen) if seen.isdecimal() else None), content_type="text/event-stream")


async def _events(seen):
    if seen is None:
        last = await Message.objects.order_by("-pk").afirst()
        seen = last.pk if last else 0
    yield ": here\n\n"
    while True:
        async for message in Message.objects.filter(pk__gt=seen).order_by("pk"):
            seen = message.pk
            yield f"id: {seen}\ndata: {json.dumps(message.text)}\n\n"
        await asyncio.sleep(LOOK_SECONDS)
