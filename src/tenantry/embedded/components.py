"""The platform's processes: how each is started, and how one knows that it does its work."""

import contextlib
import json
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from tenantry.embedded.config import Config
from tenantry.embedded.credentials import Credentials
from tenantry.embedded.files import read_json
from tenantry.embedded.home import Home
from tenantry.embedded.postgres import postgres_command, probe_postgres, worker_is_alive
from tenantry.embedded.programs import need_program
from tenantry.embedded.redis import as_user, probe_redis, redis_command
from tenantry.embedded.supervision import Program, State
from tenantry.spec.users import CONTROL

# In the order of starting; stopping goes the other way. A group starts when the one before is ready.
STORES = ("postgres", "redis")
SERVERS = ("control", "jobs", "nginx", "emperor", "agent")
STOP_ORDER = (("agent", "jobs", "control"), ("nginx",), ("emperor",), ("redis", "postgres"))
# What runs the platform's own code, and is started anew when that changed. Sites do not notice.
CODE = ("control", "jobs", "agent")

_PROBE_SECONDS = 3
# The agent beats every few seconds; an older contact is from before.
_FRESH_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Platform:
    """What a started platform is made of."""

    home: Home
    config: Config
    credentials: Credentials
    postgres_programs: Path


def make_programs(platform: Platform) -> list[Program]:
    """Return what supervisord keeps."""
    home, config = platform.home, platform.config
    python = str(home.python)
    control_file = str(home.secrets / "control.json")
    control = [
        *as_user(config, CONTROL),
        *(str(home.venv / "bin" / "granian"), "--interface", "asgi", "--host", "127.0.0.1"),
        *("--port", str(config.control_port), "--workers", "1", "--no-ws"),
        # The dashboard holds a stream of events open, which would keep a stopping worker waiting.
        *("--workers-kill-timeout", "3", "tenantry.control.asgi:application"),
    ]
    jobs = {"TENANTRY_CONTROL_CONFIG": str(home.secrets / "jobs.json")}
    emperor = [python, "-c", "import pyuwsgi,sys; pyuwsgi.run(sys.argv[1:])", "--ini", str(home.etc / "emperor.ini")]
    agent = [python, "-m", "tenantry.node", "run", "--config", str(home.secrets / "agent.json")]
    nginx = [
        str(need_program("nginx", "nginx-light")),
        "-e",
        str(home.log("nginx")),
        "-c",
        str(home.etc / "nginx.conf"),
    ]
    return [
        # INT is a fast shutdown: clients are sent away, nothing is lost.
        Program(
            "postgres", postgres_command(home, platform.postgres_programs), stop_signal="INT", stop_wait_seconds=20
        ),
        Program("redis", redis_command(home, config), stop_wait_seconds=10),
        Program(
            "control",
            control,
            {"TENANTRY_CONTROL_CONFIG": control_file, "HOME": "/nonexistent"},
            stop_wait_seconds=8,
        ),
        # A build in progress is given up; its job begins anew at the next up.
        Program("jobs", [python, "-m", "tenantry.control", "work"], jobs, stop_wait_seconds=8),
        # nginx writes logs/nginx.log itself.
        Program("nginx", nginx, stop_signal="QUIT", stop_wait_seconds=4, log="nginx.start"),
        # Vassals that are just loading their application do not listen; they end with the emperor at the latest.
        Program("emperor", emperor, stop_wait_seconds=6),
        Program("agent", agent, stop_wait_seconds=8),
    ]


Probe = Callable[[Platform, State, float], str | None]


def probe(platform: Platform, name: str, state: State, since: float) -> str | None:
    """Return None when the process `name` does its work, else what is still missing.

    `since` (seconds of the epoch): signs of life from before it do not count.
    """
    return _PROBES[name](platform, state, since)


def _postgres(platform: Platform, state: State, since: float) -> str | None:
    return probe_postgres(platform.home, platform.credentials)


def _redis(platform: Platform, state: State, since: float) -> str | None:
    return probe_redis(platform.home, platform.credentials)


def _control(platform: Platform, state: State, since: float) -> str | None:
    # While supervisord still waits whether it stays, the port may be another's.
    if state.name != "RUNNING":
        return "starting"
    try:
        answer = httpx.get(f"{platform.config.control_url}/readyz", timeout=_PROBE_SECONDS, trust_env=False)
    except httpx.HTTPError as error:
        return f"/readyz: {error}"
    return None if answer.status_code == 200 else f"/readyz answers {answer.status_code}: {answer.text[:200]}"


def _jobs(platform: Platform, state: State, since: float) -> str | None:
    since = max(since, time.time() - _FRESH_SECONDS)
    return None if worker_is_alive(platform.home, platform.credentials, since) else "no heartbeat yet"


def _nginx(platform: Platform, state: State, since: float) -> str | None:
    # nginx writes its pid once it listens; so a foreign server on the port is not taken for ours.
    with contextlib.suppress(OSError, ValueError):
        if int((platform.home.run / "nginx.pid").read_text()) == state.pid:
            address = (connectable(platform.config.bind), platform.config.http_port)
            with socket.create_connection(address, timeout=_PROBE_SECONDS):
                return None
    return "does not listen yet"


def _emperor(platform: Platform, state: State, since: float) -> str | None:
    with contextlib.suppress(OSError, ValueError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stats:
        stats.settimeout(_PROBE_SECONDS)
        stats.connect(str(platform.home.run / "emperor.sock"))
        text = b"".join(iter(lambda: stats.recv(65536), b""))
        if json.loads(text).get("pid") == state.pid:
            return None
    return "no answer on its stats socket yet"


def _agent(platform: Platform, state: State, since: float) -> str | None:
    node = fetch_node(platform.home, platform.config)
    if node is None:
        return "the API does not tell yet"
    since = max(since, time.time() - _FRESH_SECONDS)
    contact = node.get("last_contact")
    if contact and datetime.fromisoformat(contact).timestamp() >= since:
        return None
    return "no heartbeat yet"


def fetch_node(home: Home, config: Config) -> dict[str, Any] | None:
    """Return what the API says of this node, None when it does not answer or does not know it."""
    client = read_json(home.client) or {}
    try:
        answer = httpx.get(
            f"{config.control_url}/api/v1/nodes/{config.node}",
            headers={"Authorization": f"Bearer {client.get('token', '')}"},
            timeout=_PROBE_SECONDS,
            trust_env=False,
        )
        answer.raise_for_status()
        document = answer.json()
    except (httpx.HTTPError, ValueError):
        return None
    return document if isinstance(document, dict) else None


def connectable(bind: str) -> str:
    """Return the address under which something bound to `bind` is reached from here."""
    return "127.0.0.1" if bind == "0.0.0.0" else bind  # noqa: S104  compared, not bound


_PROBES: dict[str, Probe] = {
    "postgres": _postgres,
    "redis": _redis,
    "control": _control,
    "jobs": _jobs,
    "nginx": _nginx,
    "emperor": _emperor,
    "agent": _agent,
}
