"""nginx under socket activation: the listening socket outlives every nginx, so that no visitor is refused by a change.

A process of its own with nothing but the standard library. It owns the socket visitors come to and starts nginx with
it (`NGINX=<fd>;`, nginx's own way of handing sockets on). It may import nothing else of the node, must never read
what a person typed, and never answers a request itself.
"""
