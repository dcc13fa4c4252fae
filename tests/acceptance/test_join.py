"""Several machines: a platform and a node in network namespaces of their own, as a person joins, breaks and removes it.

The programs and the demo's release are made outside, where a package index can be reached; the machines cannot.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import ROOT, Platform, end_and_remove, free_ports, new_home, processes_of

SITES = ("alpha", "beta", "gamma")
PORT = 8080
JOIN_SECONDS = 240
SILENT_SECONDS = 60  # a node is silent after 15 s; the machine may be busy
# One story told in order.
pytestmark = pytest.mark.timeout(900)

GET = """
import sys, urllib.error, urllib.request
asked = urllib.request.Request(sys.argv[1], headers={"Host": sys.argv[2]})
try:
    print(urllib.request.build_opener(urllib.request.ProxyHandler({})).open(asked, timeout=20).status)
except urllib.error.HTTPError as error:
    print(error.code)
except OSError as error:
    print(error)
"""


class Machine(Platform):
    """A home on a machine of its own: a network namespace with an address and nothing else."""

    def __init__(self, namespace: str, address: str, home: Path) -> None:
        super().__init__(home, PORT, PORT + 1)
        self.namespace = namespace
        self.address = address
        self.clock: dict[str, str] = {}  # of every program that is started from now on

    @property
    def environment(self) -> dict[str, str]:
        """A person's, on a machine without a package index."""
        return super().environment | {"UV_OFFLINE": "1"} | self.clock

    def argv(self, *command: str | Path) -> list[str]:
        """Return `command` as it is run on this machine."""
        return ["ip", "netns", "exec", self.namespace, *map(str, command)]

    def _run(self, argv: list[str], seconds: float, given: str = "") -> subprocess.CompletedProcess[str]:
        return super()._run(self.argv(*argv), seconds, given)

    def join(self, token: dict[str, Any], *options: str) -> subprocess.CompletedProcess[str]:
        """Run the command that the platform printed, with --detach."""
        argv = [*self.command(token), "--detach", *options]
        return self._run(argv, JOIN_SECONDS)

    def command(self, token: dict[str, Any]) -> list[str]:
        script, *arguments = token["command"].split()
        return [str(ROOT / script), *arguments, "--home", str(self.home)]

    def status_of(self, hostname: str) -> str:
        """What a visitor on this machine gets: the status, or why there is none."""
        url = f"http://127.0.0.1:{self.http_port}/"
        return self._run([sys.executable, "-c", GET, url, hostname], 60).stdout.strip()

    def serves(self) -> bool:
        return all(self.status_of(f"{slug}.localhost") == "200" for slug in SITES)

    def written(self) -> set[str]:
        return {entry.name for entry in self.home.iterdir()} if self.home.exists() else set()

    def interrupt(self, argv: list[str], words: str) -> str:
        """Run `argv`, press Ctrl-C when its output has `words`; return the output."""
        process = subprocess.Popen(
            self.argv(*argv),
            env=self.environment | {"PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        assert process.stdout is not None
        seen = ""
        while words not in seen:
            line = process.stdout.readline()
            assert line, f"it ended before «{words}»: {seen}"
            seen += line
        os.killpg(process.pid, signal.SIGINT)
        rest, _ = process.communicate(timeout=60)
        assert process.returncode == 130, seen + rest
        assert "Traceback" not in rest
        return seen + rest


class Network:
    """A switch in a namespace of its own, and machines plugged into it. The host's network is not touched."""

    def __init__(self) -> None:
        self.prefix = f"tnj{os.getpid() % 100_000}"
        self.names: list[str] = []
        self.switch = self._add("s")
        self._ip("-n", self.switch, "link", "add", "br0", "type", "bridge")
        self._ip("-n", self.switch, "link", "set", "br0", "up")

    def machine(self, number: int) -> Machine:
        namespace, address = self._add(str(number)), f"10.86.0.{number}"
        port = f"p{number}"
        self._ip("link", "add", port, "netns", self.switch, "type", "veth", "peer", "name", "eth0", "netns", namespace)
        self._ip("-n", self.switch, "link", "set", port, "master", "br0", "up")
        self._ip("-n", namespace, "addr", "add", f"{address}/24", "dev", "eth0")
        self._ip("-n", namespace, "link", "set", "eth0", "up")
        return Machine(namespace, address, new_home())

    def remove(self) -> None:
        for name in reversed(self.names):
            self._ip("netns", "del", name)

    def _add(self, suffix: str) -> str:
        name = f"{self.prefix}{suffix}"
        self._ip("netns", "add", name)
        self.names.append(name)
        self._ip("-n", name, "link", "set", "lo", "up")
        return name

    @staticmethod
    def _ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True, text=True, timeout=20)


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    if os.geteuid() != 0:
        pytest.skip("network namespaces are made by root")
    try:
        network = Network()
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespaces here: {getattr(error, 'stderr', '') or error}")
    yield network
    network.remove()


@pytest.fixture(scope="module")
def first(network: Network) -> Iterator[Machine]:
    """The platform's machine, with the demo's three sites, reachable for others."""
    machine = network.machine(1)
    outside = Platform(machine.home, *free_ports())
    try:
        outside.up()
        outside.down()
        machine.up("--cluster-address", machine.address)
        yield machine
        machine.down()
    finally:
        left = end_and_remove(machine)
    assert not left, f"still running after «tenantry down»: {left}"


@pytest.fixture(scope="module")
def node(network: Network, first: Machine) -> Iterator[Machine]:
    """A second machine. The first test that needs it as a node joins it."""
    machine = network.machine(2)
    try:
        yield machine
        if (machine.home / "venv" / "bin" / "tenantry").exists():
            machine.down()
    finally:
        left = end_and_remove(machine)
    assert not left, f"still running after «tenantry down»: {left}"


def new_token(first: Machine, *options: str) -> dict[str, Any]:
    token: dict[str, Any] = first.json("node", "token", *options)
    return token


def state_of(first: Machine, name: str) -> str:
    return str(first.json("node", "show", name)["state"])


def lasting(home: Path) -> dict[int, str]:
    """The processes of a home that stay: PostgreSQL's sessions come and go by themselves."""
    return {pid: argv for pid, argv in processes_of(home).items() if not argv.startswith("postgres: ")}


def test_what_is_refused_leaves_nothing_and_does_not_use_the_token(first: Machine, node: Machine) -> None:
    token = new_token(first)
    text, url = token["token"], f"https://{first.address}:{first.control_port}"
    script = str(ROOT / "bin" / "join")
    stranger = text.partition(".")[0] + "." + "0" * 32
    for arguments, code, words in (
        ([url.replace("https", "http"), text], 2, "not encrypted"),
        ([url, "tnj_nonsense"], 2, "not a join token"),
        ([url, stranger], 1, "not the platform that made this token"),
        ([url.replace("10.86.0.1", "10.86.0.99"), text], 1, "cannot be reached"),
        ([url, text, "--http-port", "1", "--bind", "10.86.0.1"], 1, "Cannot listen on 10.86.0.1:1"),
    ):
        done = node._run([script, *arguments, "--home", str(node.home)], JOIN_SECONDS)
        assert done.returncode == code, done.stdout + done.stderr
        assert words in done.stderr
        assert node.written() == set(), "refused before anything was made"
    taken = first.json("node", "list")[0]["name"]
    done = node.join(token, "--name", taken)
    assert done.returncode == 1
    assert f"There is a node «{taken}» already" in done.stderr
    unknown = {"command": token["command"].replace(text, f"tnj_{'x' * 43}.{text.partition('.')[2]}")}
    done = node.join(unknown, "--name", "node-2")
    assert done.returncode == 1
    assert "There is no such token" in done.stderr
    assert node.written() <= {"venv", "cache", "lock"}, "the programs stay for the next attempt, and nothing else"
    assert [one["name"] for one in first.json("node", "list")] == [taken]


def test_ctrl_c_before_the_join_uses_no_token_and_after_it_loses_none(first: Machine, node: Machine) -> None:
    token = new_token(first)
    join = [*node.command(token), "--name", "node-2"]
    node.interrupt(join, "its certificate")
    assert node.written() <= {"venv", "cache", "lock"}
    assert processes_of(node.home) == {}

    output = node.interrupt(join, "joined as node-2")
    assert f"up --home {node.home}" in output
    assert processes_of(node.home) == {}
    assert state_of(first, "node-2") == "joining"

    again = node.join(token, "--name", "node-2")
    assert again.returncode == 0
    assert "already; the token was not used" in again.stdout

    up = [str(ROOT / "bin" / "up"), "--home", str(node.home)]
    node.interrupt(up, "nginx        working")
    assert processes_of(node.home) == {}
    node.up()
    node.eventually(node.serves, 120)
    node.eventually(lambda: state_of(first, "node-2") == "ready", 30)


def test_a_machine_joins_and_serves_every_site(first: Machine, node: Machine) -> None:
    node.down()
    first.eventually(lambda: state_of(first, "node-2") == "silent", SILENT_SECONDS)
    first.tenantry("node", "remove", "node-2", "--confirm", "node-2")
    token = new_token(first)
    began = time.monotonic()
    done = node.join(token, "--name", "node-2b")
    assert done.returncode == 0, done.stdout + done.stderr
    assert node.serves()
    print(f"a removed node joined again and served {len(SITES)} sites after {time.monotonic() - began:.1f} s")
    assert re.search(r"sites +ready: \d+ serving", done.stdout)
    used = node._run([*node.command(token), "--home", f"{node.home}x", "--http-port", "9090"], JOIN_SECONDS)
    assert used.returncode == 1
    assert "used already, by the node «node-2b»" in used.stderr
    nodes = {one["name"]: one for one in first.json("node", "list")}
    assert nodes["node-2b"]["state"] == "ready"


def test_a_node_holds_its_own_credentials_and_no_others(first: Machine, node: Machine) -> None:
    platform = json.loads((first.home / "secrets" / "control.json").read_text())
    everything = "".join(path.read_text() for path in (node.home / "secrets").iterdir())
    for secret in (platform["platform_key"], platform["secret_key"], platform["database"]["password"]):
        assert secret not in everything
    assert {path.stat().st_mode & 0o777 for path in (node.home / "secrets").iterdir()} == {0o600}


def test_a_change_reaches_both_machines(first: Machine, node: Machine) -> None:
    first.tenantry("hostname", "add", "alpha", "second.localhost", "--wait")
    assert first.status_of("second.localhost") == node.status_of("second.localhost") == "200"


def test_what_is_killed_comes_back_and_the_other_machine_is_not_touched(first: Machine, node: Machine) -> None:
    others = lasting(first.home)
    for words in (("tenantry.node", "run"), ("emperor.ini",), ("nginx: master",)):
        for pid in node.pids(*words):
            os.kill(pid, signal.SIGKILL)
    node.eventually(node.serves, 60)
    supervisor = json.loads((node.home / "run" / "supervisord.json").read_text())["pid"]
    os.kill(supervisor, signal.SIGKILL)
    node.up()
    node.eventually(node.serves, 60)
    # Their sites have the same user ids; only the files tell whose a process is.
    assert not others.keys() - lasting(first.home).keys(), others
    mine = lasting(node.home)
    first.down()
    assert not mine.keys() - lasting(node.home).keys(), mine


def test_a_node_starts_and_routes_while_the_platform_is_away(first: Machine, node: Machine) -> None:
    assert processes_of(first.home) == {}, "stopped by the test before"
    node.down()
    node.up()
    assert "sites are served as last known" in node.up_output
    # The demo's page needs its database: what is routed and runs is all that can be seen.
    assert node.status_of("alpha.localhost") != "404"
    assert node.status_of("nobody.localhost") == "404"
    first.up()
    node.eventually(node.serves, 60)
    first.tenantry("hostname", "add", "beta", "third.localhost", "--wait")
    assert node.status_of("third.localhost") == "200"


def test_drain_and_remove(first: Machine, node: Machine) -> None:
    refused = first.run("node", "remove", "node-2b", "--confirm", "node-2b")
    assert refused.returncode == 1
    assert "drain it first" in refused.stderr
    first.tenantry("node", "drain", "node-2b")
    assert node.serves(), "who still comes is served"
    # Drained when nobody came for some seconds.
    first.tenantry("node", "drain", "node-2b", "--wait")
    first.tenantry("node", "remove", "node-2b", "--confirm", "node-2b")
    assert "node-2b" not in [one["name"] for one in first.json("node", "list")]
    membership = json.loads((node.home / "secrets" / "membership.json").read_text())
    with first.superuser() as database:
        role = re.search(r"user=(\w+)", membership["answer"]["agent"]["dsn"])
        assert role is not None
        query = "SELECT count(*) FROM pg_roles WHERE rolname = %s"
        first.eventually(lambda: database.execute(query, [role[1]]).fetchone() == (0,), 30)
    # Running or not: a removed node's home joins again with a new token.
    assert node.join(new_token(first), "--name", "node-3").returncode == 0
    assert node.serves()


@pytest.fixture(scope="module")
def wrong_clock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What sets the clock of programs wrong that preload it."""
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler")
    made = tmp_path_factory.mktemp("clock") / "wrong_clock.so"
    source = Path(__file__).with_name("wrong_clock.c")
    subprocess.run(
        ["cc", "-std=gnu2x", "-O2", "-fPIC", "-shared", "-o", str(made), str(source)], check=True, timeout=60
    )
    for path in [made, *made.parents][:-2]:
        path.chmod(0o755)  # sites' users load it, too
    return made


@pytest.fixture
def third(network: Network, first: Machine) -> Iterator[Machine]:
    machine = network.machine(3)
    try:
        yield machine
        machine.down()
    finally:
        left = end_and_remove(machine)
    assert not left, f"still running after «tenantry down»: {left}"


@pytest.mark.long
def test_a_machine_whose_clock_is_an_hour_off(first: Machine, third: Machine, wrong_clock: Path) -> None:
    """It joins over TLS, serves, and what it reports is dated by the database's clock."""
    third.clock = {"LD_PRELOAD": str(wrong_clock), "CLOCK_OFFSET": "-3600"}
    done = third.join(new_token(first), "--name", "wrong")
    assert done.returncode == 0, done.stdout + done.stderr
    _works_with_a_skew(first, third, "behind")
    third.down()
    third.clock["CLOCK_OFFSET"] = "3600"
    third.up()
    _works_with_a_skew(first, third, "ahead of")
    third.down()
    third.clock = {}
    third.up()
    first.eventually(lambda: "ClockSkewed" not in _conditions(first, "wrong"), 30)


def _works_with_a_skew(first: Machine, third: Machine, direction: str) -> None:
    third.eventually(third.serves, 60)
    first.eventually(lambda: "ClockSkewed" in _conditions(first, "wrong"), 30)
    seconds = re.search(rf"clock is (\d+) s {direction} the database's", _conditions(first, "wrong")["ClockSkewed"])
    assert seconds is not None
    assert 3590 <= int(seconds[1]) <= 3610
    first.tenantry("node", "check", "wrong", "--wait")
    begun = datetime.now(UTC)
    (third.home / "run" / "hosts" / "alpha.localhost").unlink()
    first.tenantry("node", "check", "wrong", "--repair", "--wait")
    assert third.serves()
    drift = first.json("node", "drift", "wrong")[0]
    assert drift["path"] == "run/hosts/alpha.localhost"
    good, found, repaired = (datetime.fromisoformat(drift[key]) for key in ("good_at", "found_at", "repaired_at"))
    assert good < begun <= found <= repaired <= datetime.now(UTC)
    assert (begun - good).total_seconds() < 60
    first.tenantry("hostname", "add", "alpha", f"{direction[:5]}.localhost", "--wait")
    assert third.status_of(f"{direction[:5]}.localhost") == "200"
    shown = first.json("node", "show", "wrong")
    assert (shown["state"], shown["lag"]) == ("ready", 0)
    assert (datetime.now(UTC) - datetime.fromisoformat(shown["last_contact"])).total_seconds() < 15


def _conditions(first: Machine, name: str) -> dict[str, str]:
    """What the node says is wrong: messages by type."""
    return {one["type"]: one["message"] for one in first.json("node", "show", name)["conditions"]}
