"""A chat: websockets, async views and a stream of events, for an engine that serves ASGI."""
