"""Running the CLI in this process, and a small real HTTP server for answers that control never gives."""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tenantry.cli.main import run


@dataclass(frozen=True)
class Outcome:
    """What a command line left behind."""

    code: int
    out: str
    err: str

    def document(self) -> Any:
        """stdout as one JSON document; fails when there is anything else."""
        return json.loads(self.out)


RunCli = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def no_platform_of_the_person(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test may reach a platform that happens to run on this machine."""
    for name in ("TENANTRY_URL", "TENANTRY_TOKEN", "NO_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TENANTRY_HOME", str(tmp_path / "nowhere"))


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> RunCli:
    """Run one command line, as `main` does."""

    def run_one(*arguments: str) -> Outcome:
        capsys.readouterr()
        code = run(list(arguments))
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run_one


@dataclass
class Stub:
    """Answers by (method, path), with its query or without; what was asked is kept in `requests`."""

    url: str = ""
    answers: dict[tuple[str, str], tuple[int, str, bytes]] = field(default_factory=dict)
    requests: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)

    def answer(self, method: str, path: str, status: int, document: Any, kind: str = "application/json") -> None:
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        self.answers[method, path] = (status, kind, body)


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    """A real HTTP server with canned answers; TENANTRY_URL leads to it."""
    known = Stub()

    class Answering(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = self.path.partition("?")[0]
            known.requests.append((self.command, self.path, dict(self.headers), body))
            missing = (404, "application/json", b"{}")
            canned = known.answers.get((self.command, self.path)) or known.answers.get((self.command, path))
            status, kind, answer = canned or missing
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_POST = do_PATCH = do_DELETE = do_GET

        def log_message(self, format: str, *values: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    known.url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("TENANTRY_URL", known.url)
    monkeypatch.setenv("TENANTRY_TOKEN", "tnt_test")
    try:
        yield known
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
