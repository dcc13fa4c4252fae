"""The real control application on a real PostgreSQL, and a real browser in front of it."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tenantry.testing.control import (
    ControlDatabase,
    create_control_database,
    drop_control_database,
    point_django_at,
    prepare_django,
)
from tenantry.testing.fixtures import control_database, control_template, postgres_server
from tenantry.testing.postgres import PORT, PostgresServer

__all__ = ["control_database", "control_template", "postgres_server"]

prepare_django()

USERNAME = "admin"
PASSWORD = "correct horse battery"
HTTP_PORT = 8080
ASYNC_UNSAFE = "DJANGO_ALLOW_ASYNC_UNSAFE"
CHROMIUM = "/usr/bin/chromium"
START_SECONDS = 30.0


@dataclass(frozen=True)
class Control:
    """A running control process."""

    url: str
    database: ControlDatabase
    home: Path
    process: "subprocess.Popen[bytes]"


@pytest.fixture
def client(control_database: ControlDatabase) -> Any:
    """Django's test client, logged in as the administrator."""
    from django.core.cache import cache
    from django.test import Client

    from . import seeds

    cache.clear()
    client = Client()
    client.force_login(seeds.fast_administrator(USERNAME, PASSWORD))
    return client


@pytest.fixture(scope="module")
def running_control(
    control_template: PostgresServer, tmp_path_factory: pytest.TempPathFactory, django_db_blocker: Any
) -> Iterator[Control]:
    """One control process for the browser tests of a module."""
    from . import seeds

    home = tmp_path_factory.mktemp("home")
    with django_db_blocker.unblock(), pytest.MonkeyPatch.context() as patch:
        # Playwright's loop runs in this thread, which Django would take for asynchronous code.
        patch.setenv(ASYNC_UNSAFE, "1")
        database = create_control_database(control_template)
        seeds.administrator(USERNAME, PASSWORD)
        control = start_control(control_template, database, home, free_port())
        try:
            yield control
        finally:
            stop(control.process)
            drop_control_database(database)


@pytest.fixture
def control(running_control: Control, django_db_blocker: Any) -> Iterator[Control]:
    """The running control process; Django in this process uses its database, from another connection."""
    from django.db import connections

    with django_db_blocker.unblock():
        point_django_at(running_control.database.server, running_control.database.name)
        yield running_control
        connections.close_all()


@pytest.fixture(scope="module")
def browser(running_control: Control) -> Iterator[Any]:
    """Chromium without a window."""
    from playwright.sync_api import sync_playwright

    if not Path(CHROMIUM).exists():
        pytest.skip("no chromium: install the distribution's package «chromium»")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        )
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, control: Control) -> Iterator[Any]:
    """A page logged in as the administrator; an error of the page's own scripts fails the test."""
    context = browser.new_context(base_url=control.url, viewport={"width": 1280, "height": 800})
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda line: errors.append(line.text) if "Content Security Policy" in line.text else None)
    page.goto("/login")
    page.get_by_label("User name").fill(USERNAME)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_selector("#sites")
    yield page
    context.close()
    assert not errors, errors


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_control(server: PostgresServer, database: ControlDatabase, home: Path, port: int) -> Control:
    """Start granian as the platform does, and wait until it is ready."""
    url = f"http://127.0.0.1:{port}"
    config = {
        "home": str(home),
        "database": {"host": server.host, "port": PORT, "name": database.name, "user": "tenantry_control"},
        "platform_key": _platform_key(),
        "secret_key": "not a secret",
        "allowed_hosts": ["127.0.0.1"],
        "control_url": url,
        "http_port": HTTP_PORT,
    }
    path = home / "control.json"
    path.write_text(json.dumps(config))
    environment = {name: value for name, value in os.environ.items() if name != ASYNC_UNSAFE}
    log = (home / "control.log").open("ab")
    process = subprocess.Popen(
        [
            *(str(Path(sys.executable).with_name("granian")), "--interface", "asgi", "--host", "127.0.0.1"),
            *("--port", str(port), "--workers", "1", "--no-ws", "--workers-kill-timeout", "3"),
            "tenantry.control.asgi:application",
        ],
        env={**environment, "TENANTRY_CONTROL_CONFIG": str(path)},
        stdout=log,
        stderr=log,
    )
    log.close()
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=5):
                return Control(url, database, home, process)
        except (urllib.error.URLError, OSError) as error:
            if process.poll() is not None or time.monotonic() > deadline:
                stop(process)
                raise RuntimeError((home / "control.log").read_text()[-3000:]) from error
            time.sleep(0.05)


def stop(process: "subprocess.Popen[bytes]") -> None:
    """Stop a control process; streams that are open do not hold it up for long."""
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(5)


def _platform_key() -> str:
    from django.conf import settings

    return str(settings.TENANTRY.platform_key)
