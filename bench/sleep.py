"""Suite `sleep`: sites on demand on one node: its start, a storm of visitors, and thousands of times asleep and awake.

Real parts: PostgreSQL with a double of agent_v1, the agent, standby, nginx, the emperor, uWSGI; the sites are a small
Django. Beside it uWSGI's own way for the same: an emperor on demand, whose processes end when they are idle.
"""

import asyncio
import concurrent.futures
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.lab import node_lab
from bench.results import Row, Table
from tenantry.node.effects.health import HealthRequest, ask

START_TARGET_SECONDS = 10.0
AWAKE_AT_ONCE = 30  # sites of the cycles
VISITORS = 30
PAUSE_SECONDS = 12.0  # between a visitor's visits, in the middle: the machine can wake about three sites a second
PEER_CYCLES = 200
# Django, configured in place: what a site's process has to load before it answers.
DJANGO = """
import os
from django.conf import settings
settings.configure(SECRET_KEY="bench", ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, INSTALLED_APPS=[
    "django.contrib.contenttypes", "django.contrib.auth", "django.contrib.sessions", "django.contrib.admin",
    "django.contrib.messages"], MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
    TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}])
import django
django.setup()
from django.contrib import admin
from django.http import HttpResponse
from django.urls import path
urlpatterns = [path("", lambda request: HttpResponse(os.environ.get("TENANTRY_SITE", "")))]
from django.core.wsgi import get_wsgi_application
application = get_wsgi_application()
"""


def measure(sites: int, storm: int, sleeps: int) -> Table:
    """Start a node that is told of so many sites, wake a part of them at once, let some sleep so many times."""
    with node_lab.running_postgres() as postgres, node_lab.prepared(postgres) as node:
        node.release("demo-1", application=DJANGO)
        node.release("demo-2")
        rows = [_start(node, sites), _start_again(node, sites), _storm(node, storm)]
        failed = rows[-1].values["failed"]
        rows.append(_cycles(node, min(AWAKE_AT_ONCE, sites), sleeps))
    rows.append(_peer(PEER_CYCLES))
    slowest = max(float(rows[0].values["seconds"]), float(rows[1].values["seconds"]))
    lost = failed + rows[3].values["failed"]
    word = "met" if slowest <= START_TARGET_SECONDS and not lost else "MISSED"
    return Table(
        suite="sleep",
        title=f"Sites on demand, one node of {sites:,}",
        columns=("count", "seconds", "median_s", "slowest_s", "failed"),
        rows=rows,
        verdict=f"Target, a start within {START_TARGET_SECONDS:g} s and no failed request: {word} "
        f"({slowest:.1f} s, {lost} failed).",
    )


def _start(node: Any, sites: int) -> Row:
    """A node that joins: it is told of all sites at once and has nothing of them."""
    for number in range(1, sites + 1):
        limits = {"idle_seconds": 3600}
        node.put(node.document(f"s{number}", number, "demo-1", runtime="on_demand", limits=limits), quiet=True)
    node.start_standby()
    node.start_nginx()
    node.start_emperor()
    began = time.monotonic()
    node.start_agent()
    _until(lambda: _serving(node) == sites, 600)
    took = time.monotonic() - began
    _visit(node, sites)
    return Row("tenantry: a new node makes its sites ready", {"count": sites, "seconds": took, "failed": 0})


def _start_again(node: Any, sites: int) -> Row:
    """A machine that comes back: everything is there, nothing runs."""
    for name in ("agent", "emperor", "standby", "nginx"):
        node.stop(name)
    began = time.monotonic()
    node.start_standby()
    node.start_nginx()
    node.start_emperor()
    node.start_agent()
    _visit(node, sites - 1)
    took = time.monotonic() - began
    return Row("tenantry: a node comes back, first visit", {"count": sites, "seconds": took, "failed": 0})


def _storm(node: Any, count: int) -> Row:
    """Visitors of so many sleeping sites, all at once."""
    began = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        times = list(pool.map(lambda number: _timed(node, number), range(1, count + 1)))
    took = time.monotonic() - began
    good = [seconds for seconds, status in times if status == 200]
    values = {"count": count, "seconds": took, "failed": count - len(good)}
    if good:
        values |= {"median_s": statistics.median(good), "slowest_s": max(good)}
    return Row("tenantry: woken at once", values, [{"seconds": seconds, "status": s} for seconds, s in times])


def _cycles(node: Any, sites: int, sleeps: int) -> Row:
    """Sites that sleep as soon as nobody is there, and visitors at any moment, until they slept so often.

    Their application is trivial: what is tried is the moment of falling asleep, as often as the machine can.
    """
    for number in range(1, sites + 1):
        limits = {"idle_seconds": 1}
        changes = {"generation": 2, "release_changes": {"name": "demo-2"}, "runtime": "on_demand", "limits": limits}
        revision = node.put(node.document(f"s{number}", number, "demo-1", **changes))
    node.reported(f"s{sites}", revision, seconds=600)
    _until(lambda: _current(node, sites), 600)
    for number in range(1, sites + 1):
        link = node.home / "run" / "sites" / f"s{number}" / "idle"
        link.unlink()
        link.symlink_to("0")
    node.stop("agent")
    results: list[tuple[float, int]] = []
    leave = threading.Event()

    def visit(number: int) -> None:
        while not leave.wait(random.uniform(0, 2 * PAUSE_SECONDS)):
            results.append(_timed(node, number))

    threads = [threading.Thread(target=visit, args=(1 + n % sites,)) for n in range(VISITORS)]
    before, began = _slept(node), time.monotonic()
    for thread in threads:
        thread.start()
    try:
        _until(lambda: _slept(node) - before >= sleeps, 60 + 2 * sleeps)
    finally:
        leave.set()
        for thread in threads:
            thread.join()
    good = [seconds for seconds, status in results if status == 200]
    values = {
        "count": _slept(node) - before,
        "seconds": time.monotonic() - began,
        "median_s": statistics.median(good),
        "slowest_s": max(good),
        "failed": len(results) - len(good),
    }
    return Row(f"tenantry: fallen asleep, {len(results):,} visits", values)


def _peer(cycles: int) -> Row:
    """uWSGI's own: a request a moment before or after each process ends for want of work."""
    with _emperor_on_demand() as place:
        times, failed = [], 0
        for _ in range(cycles):
            began = time.monotonic()
            try:
                asyncio.run(ask(HealthRequest(place, "localhost", 80, "/")))
                times.append(time.monotonic() - began)
            except Exception:  # any loss counts, whatever it is called
                failed += 1
            time.sleep(random.uniform(0.8, 1.6))  # the process is idle after a second
    values = {"count": cycles, "median_s": statistics.median(times), "slowest_s": max(times), "failed": failed}
    return Row("uWSGI: emperor on demand, idle = 1, die-on-idle; one visitor", values)


@contextmanager
def _emperor_on_demand() -> Iterator[Path]:
    home = Path(tempfile.mkdtemp(prefix="tnbs", dir="/tmp"))
    try:
        (home / "app.py").write_text(DJANGO)
        (home / "vassals").mkdir()
        (home / "vassals" / "site.ini").write_text(
            f"[uwsgi]\nsocket = fd://0\nchdir = {home}\nmodule = app:application\nmaster = true\nprocesses = 1\n"
            "need-app = true\nidle = 1\ndie-on-idle = true\ndisable-logging = true\n"
        )
        run = "import pyuwsgi,sys; pyuwsgi.run(sys.argv[1:])"
        wrapper = home / "wrapper"
        wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{run}" "$@"\n')
        wrapper.chmod(0o755)
        options = ["--emperor", str(home / "vassals"), "--emperor-on-demand-directory", str(home)]
        with (home / "log").open("wb") as log:
            emperor = subprocess.Popen(
                [sys.executable, "-c", run, *options, "--emperor-wrapper", str(wrapper)], stdout=log, stderr=log
            )
        place = home / "site.socket"
        try:
            _until(place.exists, 20)
            yield place
        finally:
            emperor.terminate()
            emperor.wait(20)
    finally:
        shutil.rmtree(home)


def _visit(node: Any, number: int) -> None:
    _until(lambda: _timed(node, number)[1] == 200, 120)


def _timed(node: Any, number: int) -> tuple[float, int]:
    began = time.monotonic()
    try:
        status = int(node.get(f"s{number}.localhost")[0])
    except OSError:
        status = 0
    return time.monotonic() - began, status


def _serving(node: Any) -> int:
    query = (
        "SELECT count(DISTINCT site->>'slug') FROM agent_v1.received, jsonb_array_elements(report->'sites') AS site "
        "WHERE site->>'state' = 'serving'"
    )
    return int(node.sql(query)[0][0])


def _current(node: Any, sites: int) -> bool:
    places = (node.home / "run" / "sites" / f"s{number}" / "serving" for number in range(1, sites + 1))
    return all(os.readlink(place) == "2.sock" for place in places)


def _slept(node: Any) -> int:
    return int(node.output("standby").count(": sleeps"))


def _until(condition: Callable[[], Any], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"not within {seconds:.0f} s")
        time.sleep(0.05)
