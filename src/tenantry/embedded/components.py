"""The platform's processes: how each is started, and how one knows that it does its work."""

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from tenantry.embedded.certificates import paths
from tenantry.embedded.config import NODE, PLATFORM, Config
from tenantry.embedded.credentials import Credentials
from tenantry.embedded.files import read_json
from tenantry.embedded.home import Home
from tenantry.embedded.invitation import verified_context
from tenantry.embedded.postgres import postgres_command, probe_postgres, worker_is_alive
from tenantry.embedded.processes import read_process
from tenantry.embedded.programs import need_program
from tenantry.embedded.redis import as_user, probe_redis, redis_command
from tenantry.embedded.supervision import Program, State
from tenantry.spec.users import CONTROL
from tenantry.spec.uwsgi import encode_packet

# In the order of starting; stopping goes the other way. A group starts when the one before is ready.
STORES = ("postgres", "redis")
STOP_ORDER = (("agent", "jobs", "gateway", "control"), ("nginx",), ("standby", "emperor"), ("redis", "postgres"))
# Started anew when the code changed, by a signal: they keep their listening socket, so nobody is refused meanwhile.
RENEWED = ("standby", "nginx")

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


def stores_of(config: Config) -> tuple[str, ...]:
    """Return the stores that a home runs."""
    return STORES if config.role == PLATFORM else ()


def code_of(config: Config) -> tuple[str, ...]:
    """Return what runs the platform's own code, and is started anew when that changed. Sites do not notice."""
    if config.role == NODE:
        return ("control", "agent") if config.with_control else ("agent",)
    return ("control", "gateway", "jobs", "agent") if config.cluster_address else ("control", "jobs", "agent")


def servers_of(config: Config) -> tuple[str, ...]:
    """Return what a home runs on top of the stores."""
    return (*code_of(config)[:-1], "standby", "nginx", "emperor", "agent")


def make_programs(platform: Platform) -> list[Program]:
    """Return what supervisord keeps in a platform's home."""
    home, config = platform.home, platform.config
    jobs = {"TENANTRY_CONTROL_CONFIG": str(home.secrets / "jobs.json")}
    certificates = paths(home, "")
    secure = (
        *("--ssl-certificate", str(certificates.chain), "--ssl-keyfile", str(certificates.gateway_key)),
        *("--ssl-protocol-min", "tls1.2"),
    )
    gateway = [control_program(home, config, "gateway", str(config.cluster_address), *secure)]
    return [
        # INT is a fast shutdown: clients are sent away, nothing is lost.
        Program(
            "postgres", postgres_command(home, platform.postgres_programs), stop_signal="INT", stop_wait_seconds=20
        ),
        Program("redis", redis_command(home, config), stop_wait_seconds=10),
        control_program(home, config, "control", "127.0.0.1"),
        *(gateway if config.cluster_address else []),
        # A build in progress is given up; its job begins anew at the next up.
        Program("jobs", [str(home.python), "-m", "tenantry.control", "work"], jobs, stop_wait_seconds=8),
        *serving_programs(home, config),
    ]


def control_program(
    home: Home, config: Config, name: str, address: str, *options: str, environment: Mapping[str, str] | None = None
) -> Program:
    """Return a control process that listens on `address`; `options` go to its server."""
    command = [
        *as_user(config, CONTROL),
        *(str(home.venv / "bin" / "granian"), "--interface", "asgi", "--host", address),
        *("--port", str(config.control_port), "--workers", "1", "--no-ws", *options),
        # The dashboard holds a stream of events open, which would keep a stopping worker waiting.
        *("--workers-kill-timeout", "3", "tenantry.control.asgi:application"),
    ]
    variables = {"TENANTRY_CONTROL_CONFIG": str(home.secrets / "control.json"), "HOME": "/nonexistent"}
    return Program(name, command, {**variables, **(environment or {})}, stop_wait_seconds=8)


def serving_programs(home: Home, config: Config) -> list[Program]:
    """Return what serves sites, on every node."""
    python = str(home.python)
    agent, standby, emperor = (
        [python, "-m", "tenantry.node", command, "--config", str(home.secrets / "agent.json")]
        for command in ("run", "standby", "emperor")
    )
    # It holds the socket that visitors come to, and runs nginx with it.
    nginx = [
        *(python, "-m", "tenantry.node.activation", "--nginx", str(nginx_program()), "--home", str(home.root)),
        *("--address", config.bind, "--port", str(config.http_port)),
    ]
    return [
        Program("standby", standby, stop_wait_seconds=8),
        # nginx writes logs/nginx.log itself.
        Program("nginx", nginx, stop_signal="QUIT", stop_wait_seconds=6, log="nginx.start"),
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


def _gateway(platform: Platform, state: State, since: float) -> str | None:
    if state.name != "RUNNING":
        return "starting"
    trust = verified_context(platform.home.authority.read_text())
    try:
        answer = httpx.get(
            f"{platform.config.gateway_url}/readyz", timeout=_PROBE_SECONDS, trust_env=False, verify=trust
        )
    except httpx.HTTPError as error:
        return f"/readyz: {error}"
    return None if answer.status_code == 200 else f"/readyz answers {answer.status_code}: {answer.text[:200]}"


def _jobs(platform: Platform, state: State, since: float) -> str | None:
    since = max(since, time.time() - _FRESH_SECONDS)
    return None if worker_is_alive(platform.home, platform.credentials, since) else "no heartbeat yet"


def _nginx(platform: Platform, state: State, since: float) -> str | None:
    return probe_nginx(platform.home, platform.config, state)


def nginx_program() -> Path:
    """Return where the distribution has nginx; `ToolMissing` when it has not."""
    return need_program("nginx", "nginx-light")


def nginx_is_outdated(home: Home) -> bool:
    """Whether the nginx that runs is another program than the one installed: its package was upgraded."""
    try:
        running = Path(f"/proc/{int((home.run / 'nginx.pid').read_text())}/exe").stat()
    except (OSError, ValueError):
        return False  # none runs, and the next one is the installed one
    return not os.path.samestat(running, nginx_program().stat())


def probe_nginx(home: Home, config: Config, state: State) -> str | None:
    """Return None when nginx listens, else what is missing."""
    # nginx writes its pid once it listens; so a foreign server on the port is not taken for ours.
    with contextlib.suppress(OSError, ValueError):
        master = read_process(int((home.run / "nginx.pid").read_text()))
        # Its own program, or a child of the one that holds its socket.
        if master is not None and state.pid in (master.pid, master.parent):
            address = (connectable(config.bind), config.http_port)
            with socket.create_connection(address, timeout=_PROBE_SECONDS):
                return None
    return "does not listen yet"


def _standby(platform: Platform, state: State, since: float) -> str | None:
    return probe_standby(platform.home, state)


def probe_standby(home: Home, state: State) -> str | None:
    """Return None when standby answers, else what is missing."""
    with contextlib.suppress(OSError, ValueError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.settimeout(_PROBE_SECONDS)
        asking.connect(str(home.run / "standby.sock"))
        asking.sendall(encode_packet({"TENANTRY_DUTY": "status"}))
        answer = b"".join(iter(lambda: asking.recv(65536), b""))
        if int(answer.partition(b"\r\n\r\n")[2]) == state.pid:
            return None
    return "no answer on its socket yet"


def _emperor(platform: Platform, state: State, since: float) -> str | None:
    return probe_emperor(platform.home, state)


def probe_emperor(home: Home, state: State) -> str | None:
    """Return None when the emperor answers, else what is missing."""
    with contextlib.suppress(OSError, ValueError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stats:
        stats.settimeout(_PROBE_SECONDS)
        stats.connect(str(home.run / "emperor.sock"))
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
    "gateway": _gateway,
    "jobs": _jobs,
    "standby": _standby,
    "nginx": _nginx,
    "emperor": _emperor,
    "agent": _agent,
}
