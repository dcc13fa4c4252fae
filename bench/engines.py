"""Suite `engines`: a trivial Django view in uWSGI and in granian, through nginx and the emperor, on one node."""

from statistics import median
from typing import Any

from bench.lab import node_lab
from bench.requests import CONNECTIONS, load
from bench.results import Row, Table

ROUNDS = 3  # alternating, so that a slow minute of the machine hits all
APPLICATION = """
import os
from django.conf import settings
settings.configure(SECRET_KEY="x", ALLOWED_HOSTS=["*"], ROOT_URLCONF="app", MIDDLEWARE=[], LOGGING_CONFIG=None)
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path
def plain(request):
    return HttpResponse("ok")
async def concurrent(request):
    return HttpResponse("ok")
urlpatterns = [path("", plain), path("async", concurrent)]
django_wsgi, django_asgi = get_wsgi_application(), get_asgi_application()
def application(environ, start_response):
    if environ["PATH_INFO"] != "/bare":
        return django_wsgi(environ, start_response)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
    return [b"ok"]
async def asgi(scope, receive, send):
    if scope["path"] != "/bare":
        return await django_asgi(scope, receive, send)
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok"})
"""
# What is measured: the site that serves it, and the page.
ARRANGEMENTS = {
    "uWSGI, a synchronous view": ("wsgi", "/"),
    "granian, a synchronous view": ("asgi", "/"),
    "granian, an async view": ("asgi", "/async"),
    "uWSGI, without Django": ("wsgi", "/bare"),
    "granian, without Django": ("asgi", "/bare"),
}


def measure(seconds: float) -> Table:
    """Ask each arrangement for `seconds` in each of three rounds, with 8 connections that are kept open."""
    measured: dict[str, list[dict[str, Any]]] = {name: [] for name in ARRANGEMENTS}
    with node_lab.running_postgres() as postgres, node_lab.prepared(postgres) as node:
        node.start()
        node.release("demo-1", APPLICATION)
        granian = {"engine": "granian", "asgi": "app:asgi"}
        for number, (slug, engine) in enumerate({"wsgi": {}, "asgi": granian}.items(), 1):
            node.reported(slug, node.put(node.document(slug, number, "demo-1", release_changes=engine)))
        for _ in range(ROUNDS):
            for name, (slug, page) in ARRANGEMENTS.items():
                print(f"{name} …", flush=True)
                measured[name].append(load(node.port, f"{slug}.localhost", page, seconds))
    columns = ("per_second", "ratio", "p50_ms", "p99_ms", "failed")
    rows = []
    for name, runs in measured.items():
        values = {key: median(run[key] for run in runs) for key in ("per_second", "p50_ms", "p99_ms", "failed")}
        rows.append(Row(name, values, runs))
    for row in rows:
        row.values["ratio"] = row.values["per_second"] / rows[0].values["per_second"]
    return Table(
        suite="engines",
        title=f"Requests per second through one node, {CONNECTIONS} kept connections, 1 process with 1 thread",
        columns=columns,
        rows=rows,
        verdict=f"Medians of {ROUNDS} alternating rounds of {seconds:g} s; the loader shares the processor.",
    )
