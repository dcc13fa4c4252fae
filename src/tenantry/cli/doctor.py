"""`tenantry doctor`: what is wrong, and what to do. Every check answers; none stops the others."""

import contextlib
import http.client
import json
import os
import re
import shutil
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from urllib.parse import urlsplit

import typer

from tenantry.cli.client import path
from tenantry.cli.command import Session, command, noun
from tenantry.cli.connection import Joined, find_joined
from tenantry.cli.documents import Node
from tenantry.cli.errors import CliError
from tenantry.cli.output import ago, paint, printable

app = noun("doctor", "What is wrong, and what to do.")

PROGRAM_SECONDS = 5
PROCESSES_SECONDS = 15  # it imports the platform before it asks supervisord
LEAST_POSTGRESQL = 15
LEAST_FREE_BYTES = 1 << 30  # below this a build or a dump fails soon
LOW_FREE_BYTES = 5 << 30
CONTROLLERS = ("memory", "pids", "cpu")
GIBIBYTE = 1 << 30
SYSTEM_PROGRAMS = "/usr/sbin:/usr/local/sbin:/sbin"
SOCKET_PATH_HOME_MAX = 46  # longer homes push unix socket paths over the kernel's 107 bytes


@dataclass(frozen=True, slots=True)
class Finding:
    """One check's outcome: `state` is ok, warning or failed; `advice` says what to do unless it is ok."""

    check: str
    state: str
    message: str
    advice: str = ""


@command(app, "doctor", example="tenantry doctor --json")
def doctor(session: Session) -> None:
    """Check the platform and this machine.

    Says what to do about what is wrong. Exit code 1 when a check failed; warnings alone are no failure.
    """
    findings = list(examine(session))
    document = {"ok": all(one.state != "failed" for one in findings), "findings": [asdict(one) for one in findings]}
    session.output.result(document, lambda: _show(session, findings))
    if not document["ok"]:
        raise typer.Exit(1)


def examine(session: Session) -> Iterator[Finding]:
    """Run every check, in the order in which one would repair."""
    yield check_home(session.home)
    yield check_disk(session.home)
    joined = find_joined(session.home)
    yield check_nginx()
    if joined is None:
        yield check_postgresql()
    yield check_uwsgi()
    if joined is None:
        yield check_redis()
    if (session.home / "config.json").exists():
        yield check_processes(session.home)
        yield check_limits(session.home)
    if joined is not None:
        yield check_platform(joined)
        return
    reachable = _asking("api", lambda: _check_api(session))
    yield reachable
    if reachable.state == "failed":
        return
    yield _asking("ready", lambda: _check_ready(session))
    yield _asking("token", lambda: _check_token(session))
    try:
        nodes: list[Node] = session.client.items(path("nodes"))
    except CliError as error:
        yield Finding("nodes", "failed", str(error), error.advice)
        return
    if not nodes:
        yield Finding("nodes", "failed", "no node has joined", "See logs/agent.log; run bin/up.")
    for node in nodes:
        yield check_node(node)


def check_home(home: Path) -> Finding:
    """The platform's directory exists, can be used, and its name is short enough for sockets."""
    if not home.is_dir():
        return Finding("home", "warning", f"{home} does not exist", "Right on another machine; else run bin/up.")
    if len(os.fsencode(home.resolve())) > SOCKET_PATH_HOME_MAX:
        return Finding(
            "home",
            "failed",
            f"{home} is longer than {SOCKET_PATH_HOME_MAX} bytes",
            "Move the platform: bin/up --home DIR.",
        )
    if not os.access(home, os.R_OK | os.X_OK):
        return Finding("home", "warning", f"{home} is not readable for you", "Run this as the user who ran bin/up.")
    return Finding("home", "ok", str(home))


def check_disk(home: Path) -> Finding:
    """There is room for a build and a dump where the platform lives."""
    place = home
    while not place.exists():
        place = place.parent
    usage = shutil.disk_usage(place)
    message = f"{usage.free / GIBIBYTE:.1f} GiB of {usage.total / GIBIBYTE:.1f} GiB free at {place}"
    advice = "Remove releases and dumps that are not needed, or give the disk more room."
    if usage.free < LEAST_FREE_BYTES:
        return Finding("disk", "failed", message, advice)
    return Finding("disk", "warning" if usage.free < LOW_FREE_BYTES else "ok", message, advice)


def check_limits(home: Path) -> Finding:
    """The kernel holds each site to its share of memory, processes and processor time, by means that the node noted."""
    try:
        found = set(json.loads((home / "state" / "groups.json").read_bytes()))
    except (OSError, ValueError, TypeError):
        return Finding("limits", "ok", "not known here: the agent has not looked yet, or this is not its user")
    missing = [controller for controller in CONTROLLERS if controller not in found]
    if not missing:
        return Finding("limits", "ok", "control groups hold sites to their memory, processes and processor time")
    return Finding(
        "limits",
        "warning",
        f"this machine offers no control group of {', '.join(missing)}: a site that takes too much slows the others",
        "Run the node where control groups can be made: as root, in a unit with Delegate=yes and DelegateSubgroup=, or "
        "in a container with a writable /sys/fs/cgroup.",
    )


def check_nginx() -> Finding:
    """nginx is installed."""
    return _check_program("nginx", _which("nginx"), "-v", r"nginx/([\d.]+)", "apt-get install nginx-light")


def check_redis() -> Finding:
    """A Redis server is installed."""
    return _check_program("redis", _which("redis-server"), "--version", r"v=([\d.]+)", "apt-get install redis-server")


def check_postgresql() -> Finding:
    """PostgreSQL of a version that is new enough is installed."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=_number_of, reverse=True)
    program = str(debian[0]) if debian else _which("postgres")
    install = f"apt-get install postgresql (at least {LEAST_POSTGRESQL})"
    found = _check_program("postgresql", program, "--version", r"PostgreSQL\) ([\d.]+)", install)
    if found.state == "ok" and int(found.message.split(".")[0].split()[0]) < LEAST_POSTGRESQL:
        return Finding("postgresql", "failed", f"{found.message} is too old", install)
    return found


def check_uwsgi() -> Finding:
    """uWSGI is in the platform's virtualenv."""
    try:
        return Finding("uwsgi", "ok", version("pyuwsgi"))
    except PackageNotFoundError:
        return Finding(
            "uwsgi", "failed", "not installed in this virtualenv", "Run bin/up: it installs what is missing."
        )


def check_processes(home: Path) -> Finding:
    """What «up» keeps running in this home does run."""
    command = [sys.executable, "-P", "-m", "tenantry.embedded", "status", "--json", "--home", str(home)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROCESSES_SECONDS, check=False)
        processes = json.loads(done.stdout)["processes"]
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError):
        return Finding("processes", "warning", "their state cannot be read", "Run this as the user who ran bin/up.")
    stopped = [f"{name} is {one['state']}" for name, one in processes.items() if one["state"] != "running"]
    if stopped:
        return Finding("processes", "failed", ", ".join(stopped), f"Run bin/up; the reasons are in {home / 'logs'}.")
    return Finding("processes", "ok", f"{', '.join(processes)} run")


def check_platform(joined: Joined) -> Finding:
    """The platform that this node belongs to answers. Without it sites are served; nothing can be changed."""
    name = f"node {joined.node}"
    status: int | str
    try:
        trust = ssl.create_default_context(cafile=joined.ca)
        asked = http.client.HTTPSConnection(urlsplit(joined.url).netloc, timeout=PROGRAM_SECONDS, context=trust)
        with contextlib.closing(asked):
            asked.request("GET", "/readyz")
            status = asked.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        status = str(error) or type(error).__name__
    if status != http.client.OK:
        advice = "Does the platform run, and may this machine reach it? Sites are served meanwhile."
        return Finding(name, "failed", f"{joined.url} is not ready: {status}", advice)
    return Finding(name, "ok", f"{joined.url} answers; how far the node is: tenantry status, there")


def check_node(node: Node) -> Finding:
    """The node speaks, has applied everything, serves every site it was given, and is as it should be."""
    name = f"node {node['name']}"
    spoke = f"last contact {ago(node['last_contact'])}"
    if node["state"] in ("silent", "joining"):
        return Finding(
            name, "failed", f"{node['state']}, {spoke}", "Is its agent running? See logs/agent.log there; run bin/up."
        )
    found = [*node["problems"], *node["notes"]]
    if found:
        said = "; ".join(text.rstrip(".") for text in found)
        return Finding(name, "warning", f"{said}; {spoke}", f"See «tenantry node show {node['name']}».")
    return Finding(name, "ok", f"{node['sites']} sites, {node['state']}, {spoke}")


def _check_api(session: Session) -> Finding:
    session.client.get("/healthz")
    return Finding("api", "ok", session.client.connection.url)


def _check_ready(session: Session) -> Finding:
    session.client.get("/readyz")
    return Finding("ready", "ok", "database reachable, migrations applied")


def _check_token(session: Session) -> Finding:
    session.client.get(path("whoami"))
    return Finding("token", "ok", f"accepted, from {session.client.connection.source}")


def _asking(check: str, ask: Callable[[], Finding]) -> Finding:
    try:
        return ask()
    except CliError as error:
        return Finding(check, "failed", str(error), error.advice)


def _check_program(check: str, program: str | None, option: str, pattern: str, install: str) -> Finding:
    """Run `program` and read its version out of what it prints."""
    if program is None:
        return Finding(check, "failed", "not found", f"Run bin/up, or: {install}.")
    try:
        done = subprocess.run([program, option], capture_output=True, text=True, timeout=PROGRAM_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding(check, "failed", f"{program} does not run: {error}", f"Run bin/up, or: {install}.")
    found = re.search(pattern, done.stdout + done.stderr)
    if found is None:
        return Finding(check, "warning", f"{program} does not tell its version", f"{install}.")
    return Finding(check, "ok", f"{found.group(1)} ({program})")


def _which(name: str) -> str | None:
    """Where a program is; Debian keeps servers in sbin, which is not on everybody's path."""
    return shutil.which(name) or shutil.which(name, path=SYSTEM_PROGRAMS)


def _number_of(place: Path) -> float:
    text = place.parts[-3]
    return float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else 0.0


def _show(session: Session, findings: list[Finding]) -> None:
    marks = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "failed": ("✗", "red")}
    width = max(len(one.check) for one in findings)
    for one in findings:
        mark, colour = marks[one.state]
        print(f"{paint(mark, colour, sys.stdout)} {one.check.ljust(width)}  {printable(one.message)}")
        if one.state != "ok" and one.advice:
            print(f"  {' ' * width}  {paint(printable(one.advice), 'dim', sys.stdout)}")
    failed = sum(one.state == "failed" for one in findings)
    warned = sum(one.state == "warning" for one in findings)
    session.output.line()
    session.output.line("All is well." if not failed and not warned else f"{failed} failed, {warned} warnings.")
