"""A node of the lab: a home with the real agent, nginx and emperor, all on one host."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from node_lab import APPLICATION, AS_ROOT, borrowed_packages, reachable_python, wait_until

from .control import Membership
from .network import Host
from .visitors import Visitors

HTTP_PORT = 8080  # every host has its own
UID_BASE = 1_900_000_000
START_SECONDS = 20.0
STOP_SECONDS = 15.0


class Machine:
    """One home on one host. What it starts ends with the network, or with `stop`.

    `code`: the directory of another release's packages, which runs the node; None: this one's.
    """

    def __init__(self, host: Host, home: Path, membership: Membership, dsn: str, code: Path | None = None) -> None:
        self.host, self.home, self.name = host, home, membership.name
        self._code = code
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._config = home / "secrets" / "agent.json"
        home.mkdir()
        (home / "secrets").mkdir()
        self.configure(membership, dsn)
        self.prepare()

    def configure(self, membership: Membership, dsn: str) -> None:
        """Write agent.json; a running agent reads it when it is started again."""
        document = {
            "home": str(self.home),
            "node": membership.name,
            "dsn": dsn,
            "platform_key": membership.key,
            "bind": "127.0.0.1",
            "http_port": HTTP_PORT,
            "uid_base": UID_BASE if AS_ROOT else None,
            "nginx_group": "www-data" if AS_ROOT else None,
            "tenant_database": {"host": "127.0.0.1", "port": 5432},
            "redis_socket": None,
        }
        self._config.write_text(json.dumps(document))

    # Processes

    def prepare(self) -> None:
        """Write the files that do not depend on sites."""
        subprocess.run([*self._agent("prepare")], check=True, timeout=START_SECONDS)

    def start(self) -> None:
        if self._code is None:
            self.start_standby()
        self.start_nginx()
        self.start_emperor()
        self.start_agent()

    def upgrade(self) -> None:
        """Go on with this release's code, as a person does who wants no visitor to notice: what serves is kept."""
        self.stop("agent")
        self._code = None
        self.prepare()
        self.start_standby()
        self.reload_nginx()
        self.start_agent()

    def start_standby(self) -> None:
        self._spawn("standby", self._agent("standby"))
        wait_until((self.home / "run" / "standby.sock").exists, START_SECONDS, "standby")

    def start_nginx(self) -> None:
        """Start nginx as a process of its own: under the parent that started it, it would refuse to be replaced."""
        log, configuration = f"{self.home}/logs/nginx.log", f"{self.home}/etc/nginx.conf"
        start = f"/usr/sbin/nginx -e {log} -p {self.home} -c {configuration} & cat"
        with (self.home / "logs" / "nginx.out").open("ab") as output:
            parent = self.host.spawn(["sh", "-c", start], stdin=subprocess.PIPE, stdout=output, stderr=output)
        wait_until(self._listens, START_SECONDS, "nginx")
        parent.communicate(timeout=START_SECONDS)

    def start_emperor(self) -> None:
        run = "import pyuwsgi, sys; pyuwsgi.run(sys.argv[1:])"
        before = [sys.executable, "-c", run, "--ini", f"{self.home}/etc/emperor.ini"]
        self._spawn("emperor", self._agent("emperor") if self._code is None else before)
        wait_until((self.home / "run" / "emperor.sock").exists, START_SECONDS, "the emperor")

    def start_agent(self) -> None:
        self._spawn("agent", self._agent("run"))

    def stop(self, name: str, number: int = signal.SIGTERM) -> None:
        """End a process and wait for it."""
        process = self._processes.pop(name)
        process.send_signal(number)
        process.wait(STOP_SECONDS)

    def restart_agent(self, number: int = signal.SIGKILL) -> None:
        """End the agent and start it again."""
        self.stop("agent", number)
        self.start_agent()

    def reload_nginx(self) -> None:
        """Have nginx replace its workers: what `systemctl reload nginx` does."""
        before = self._nginx_workers()
        os.kill(self._nginx_pid(), signal.SIGHUP)
        wait_until(lambda: self._nginx_workers() - before, what="nginx's new workers")

    def replace_nginx(self) -> None:
        """Start nginx anew without closing its port: the new one inherits the listening socket, then the old one goes.

        nginx's own way of replacing its program (USR2, then QUIT). A new process, with the configuration read anew.
        """
        old = self._nginx_pid()
        os.kill(old, signal.SIGUSR2)
        wait_until(lambda: self._nginx_pid() != old and self._nginx_workers(), what="the new nginx")
        os.kill(old, signal.SIGQUIT)
        wait_until(lambda: not _runs(old), what="the end of the old nginx")

    def output(self, name: str) -> str:
        """Return what a process has written."""
        return (self.home / "logs" / f"{name}.out").read_text()

    def pid(self, name: str) -> int:
        return self._processes[name].pid

    def _agent(self, command: str) -> list[str]:
        code = [] if self._code is None else ["env", f"PYTHONPATH={self._code}"]
        return [*code, sys.executable, "-m", "tenantry.node", command, "--config", str(self._config)]

    def _spawn(self, name: str, command: list[str]) -> None:
        with (self.home / "logs" / f"{name}.out").open("ab") as log:
            self._processes[name] = self.host.spawn(command, stdout=log, stderr=log)

    def _nginx_pid(self) -> int:
        """Return the process that is nginx now; while it is replaced there is no such file for a moment."""
        directory = self.home / "run"
        for name in ("nginx.pid", "nginx.pid.oldbin"):
            with contextlib.suppress(OSError, ValueError):
                return int((directory / name).read_text())
        return 0

    def _nginx_workers(self) -> set[int]:
        return _workers(self._nginx_pid())

    def _listens(self) -> bool:
        with contextlib.suppress(OSError):
            self._connect().close()
            return True
        return False

    # Visitors

    def visitors(self, *hostnames: str, per_second: float = 40.0) -> Visitors:
        """Return visitors of this machine, on this machine: their way here cannot fail, only the machine can."""
        return Visitors(self.host, HTTP_PORT, hostnames, per_second)

    def get(self, hostname: str, path: str = "/") -> tuple[int, bytes]:
        """Ask nginx once."""
        connection = http.client.HTTPConnection("127.0.0.1", HTTP_PORT, timeout=30)
        connection.sock = self._connect()
        try:
            connection.request("GET", path, headers={"Host": hostname})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def serves(self, hostname: str, slug: str) -> bool:
        """Whether the site `slug` answers under `hostname`."""
        status, body = self.get(hostname)
        return status == 200 and json.loads(body)["site"] == slug

    def _connect(self) -> socket.socket:
        return self.host.call(lambda: socket.create_connection(("127.0.0.1", HTTP_PORT), timeout=30))


def build_release(directory: Path, name: str, application: str = APPLICATION) -> None:
    """Build a release by hand: the application, a virtualenv that borrows the tests' packages, a static file."""
    (directory / "src").mkdir(parents=True)
    (directory / "static").mkdir()
    (directory / "static" / "style.css").write_text(f"/* {name} */")
    (directory / "src" / "app.py").write_text(f"VERSION = {name!r}\n{application}")
    (directory / "src" / "manage.py").write_text("")
    python = reachable_python()
    assert python is not None
    subprocess.run(
        [python, "-m", "venv", "--without-pip", "--symlinks", str(directory / "venv")], check=True, timeout=60
    )
    packages = next((directory / "venv" / "lib").glob("python3.*/site-packages"))
    (packages / "borrowed.pth").write_text("".join(f"{path}\n" for path in borrowed_packages()))


def _runs(pid: int) -> bool:
    """Whether the process executes something: one that ended and that nobody has waited for does not."""
    try:
        Path(f"/proc/{pid}/exe").readlink()
    except OSError:
        return False
    return True


def _workers(pid: int) -> set[int]:
    """Return the children of nginx's master that take connections: those not on their way out."""
    found = set()
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            with contextlib.suppress(OSError):
                if Path(f"/proc/{child}/cmdline").read_bytes().startswith(b"nginx: worker process\0"):
                    found.add(int(child))
    return found
