"""What tells the platform that the site is busy."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django_tenantry.activity import PROBE, keep_awake, with_marks


@pytest.fixture
def descriptor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    number = os.open(tmp_path / "activity", os.O_RDWR | os.O_CREAT, 0o600)
    os.utime(number, (0, 0))
    monkeypatch.setenv("TENANTRY_ACTIVITY_FD", str(number))
    yield number
    os.close(number)


def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [])
    return [b"page"]


def ask(app: Any, environ: dict[str, Any]) -> tuple[str, list[bytes]]:
    said = []
    body = list(app(environ, lambda status, headers: said.append(status)))
    return said[0], body


def test_a_request_is_marked_and_a_probe_is_none(descriptor: int) -> None:
    app = with_marks(application, os.environ)
    assert ask(app, {PROBE: "1"}) == ("204 No Content", [])
    assert os.fstat(descriptor).st_mtime == 0
    assert ask(app, {}) == ("200 OK", [b"page"])
    assert abs(os.fstat(descriptor).st_mtime - time.time()) < 5


def test_a_site_with_work_to_do_is_busy_for_longer_and_no_request_takes_that_back(descriptor: int) -> None:
    keep_awake(100)
    ahead = os.fstat(descriptor).st_mtime
    assert ahead > time.time() + 90
    keep_awake(1)
    ask(with_marks(application, os.environ), {})
    assert os.fstat(descriptor).st_mtime == ahead


def test_without_the_platform_nothing_is_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TENANTRY_ACTIVITY_FD", raising=False)
    assert with_marks(application, os.environ) is application
    keep_awake(5)
