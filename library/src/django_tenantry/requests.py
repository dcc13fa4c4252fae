"""Who asked, and how, as nginx saw it.

The socket knows neither: nginx is always the one who connects. What it says in headers is true, since it replaces what
the visitor sent under these names, and nobody but nginx and the platform reaches the socket.
"""

from django_tenantry.interface import Scope

_SECURE = {"http": "https", "ws": "wss"}
_OWN = b"x-tenantry-"  # headers between nginx and this library
_SAID = "tenantry"  # where the scope holds them


def as_nginx_saw(scope: Scope) -> Scope:
    """Return the scope of a request with `client`, `server` and `scheme` as the visitor's connection has them."""
    headers = dict(scope["headers"])
    address = headers.get(b"x-real-ip", b"").decode("latin-1")
    host = headers.get(b"host", b"").decode("latin-1")
    port = headers.get(b"x-forwarded-port", b"").decode("latin-1")
    scheme = scope["scheme"]
    if headers.get(b"x-forwarded-proto") == b"https":
        scheme = _SECURE.get(scheme, scheme)
    return {
        **scope,
        "scheme": scheme,
        "client": (address, 0) if address else None,
        "server": (host.rpartition(":")[0] or host, int(port) if port.isdecimal() else 80),
        "headers": [(name, value) for name, value in scope["headers"] if not name.startswith(_OWN)],
        _SAID: {name.removeprefix(_OWN): value for name, value in headers.items() if name.startswith(_OWN)},
    }


def is_let_through(scope: Scope) -> bool:
    """Whether nginx says that the visitor may pass whatever the site's mode is."""
    return b"let-through" in scope[_SAID]


def is_probe(scope: Scope) -> bool:
    """Whether the platform asks if the application is loaded. Visitors cannot."""
    return b"probe" in scope[_SAID]


def is_for_all(scope: Scope) -> bool:
    """Whether the platform wants every thread of every worker to answer, and hear the worst status."""
    return bool(scope[_SAID].get(b"probe") == b"all")
