"""Ways to serve and restart a Django site by hand: nginx in front, uWSGI or gunicorn behind it. No platform code."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.platform import first_answer, free_port

# Half a second to load, as a small project; a page takes about 2 ms of the processor and waits 4 ms for its database.
APPLICATION = """
import os, time
from django.conf import settings
settings.configure(SECRET_KEY="x", ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, LOGGING_CONFIG=None,
                   INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth"])
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.template import Context, Engine
from django.urls import path
began = time.process_time()
while time.process_time() - began < 0.3:
    pass
template = Engine().from_string("{% for n in numbers %}<p>{{ n|add:1 }}</p>{% endfor %}")
def page(request):
    time.sleep(0.004)
    text = template.render(Context({"numbers": range(100)}))
    return HttpResponse(text, headers={"Content-Length": len(text), "X-Process": os.getpid()})
urlpatterns = [path("", page)]
application = get_wsgi_application()
"""
NGINX = """\
daemon off;
{user}worker_processes auto;
pid {place}/nginx.pid;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  keepalive_requests 100000;
  client_body_temp_path {place}/t1; proxy_temp_path {place}/t2; uwsgi_temp_path {place}/t3;
  fastcgi_temp_path {place}/t4; scgi_temp_path {place}/t5;
{servers}}}
"""
SERVER = "  server {{ listen 127.0.0.1:{port}; server_name {host}; location / {{ {to} }} }}\n"
UWSGI_PARAMETERS = "".join(
    f"uwsgi_param {name} {value}; "
    for name, value in {
        "QUERY_STRING": "$query_string", "REQUEST_METHOD": "$request_method", "CONTENT_TYPE": "$content_type",
        "CONTENT_LENGTH": "$content_length", "REQUEST_URI": "$request_uri", "PATH_INFO": "$document_uri",
        "SERVER_PROTOCOL": "$server_protocol", "REMOTE_ADDR": "$remote_addr", "SERVER_PORT": "$server_port",
        "SERVER_NAME": "$server_name", "HTTP_HOST": "$http_host",
    }.items()
)  # fmt: skip
START_SECONDS = 30
LOOK_SECONDS = 0.05  # the visitors are the load, not who looks
STOP_SECONDS = 15
BACKLOG = 1024


@dataclass(slots=True)
class Site:
    """A site behind the nginx of `ByHand`. `order` has it restarted and returns at once."""

    by_hand: "ByHand"
    host: str
    order: Callable[[], None]
    workers: int

    def wait(self) -> None:
        first_answer(self.by_hand.port, self.host, "/")

    def restart(self) -> None:
        """Order it; return when none but new processes have answered some times."""
        old = {self.by_hand.process(self.host) for _ in range(8 * self.workers)}
        self.order()
        deadline, new = time.monotonic() + START_SECONDS, 0
        while new < 4 * self.workers:
            time.sleep(LOOK_SECONDS)
            process = self.by_hand.process(self.host)
            new = new + 1 if process is not None and process not in old else 0
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.host}: {process} answers, after {old}")


class ByHand:
    """A directory with an nginx and the servers behind it; ended and removed on leaving."""

    def __init__(self) -> None:
        self.place = Path(tempfile.mkdtemp(prefix="tt-ways-", dir="/tmp"))
        self.place.chmod(0o755)
        (self.place / "app.py").write_text(APPLICATION)
        self.port = free_port()
        self._servers = ""
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> "ByHand":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes.values():
            process.send_signal(signal.SIGINT if process.args[0] != "nginx" else signal.SIGTERM)  # type: ignore[index]
        for process in self._processes.values():
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self.place, ignore_errors=True)

    def add(self, name: str, to: str) -> str:
        """Have nginx send a host of this name to a server; return the host."""
        host = f"{name}.localhost"
        self._servers += SERVER.format(port=self.port, host=host, to=to)
        return host

    def start(self, name: str, argv: list[str], *, kept: tuple[int, ...] = ()) -> None:
        """Start a server, in place of the one of this name that has ended. It keeps the descriptors `kept`."""
        # A uWSGI that reloads in place runs the interpreter itself, without its virtualenv.
        packages = sysconfig.get_path("purelib")
        environment = os.environ | {"PYTHONPATH": f"{self.place}:{packages}"}
        with (self.place / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                argv, cwd=self.place, env=environment, stdout=log, stderr=log, pass_fds=kept
            )

    def server(self, name: str) -> subprocess.Popen[bytes]:
        return self._processes[name]

    def servers(self) -> list[subprocess.Popen[bytes]]:
        """Return the servers behind nginx."""
        return [process for name, process in self._processes.items() if name != "nginx"]

    def start_nginx(self) -> int:
        user = "user root;\n" if os.geteuid() == 0 else ""
        configuration = self.place / "nginx.conf"
        configuration.write_text(NGINX.format(place=self.place, servers=self._servers, user=user))
        log = str(self.place / "error.log")
        self.start("nginx", ["nginx", "-c", str(configuration), "-p", str(self.place), "-e", log])
        return self.port

    def process(self, host: str) -> int | None:
        """Return which process answers for a site now, None when none does."""
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 5) as connection:
            connection.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            _, name, value = connection.recv(4096).partition(b"\r\nX-Process: ")
            return int(value.split(b"\r\n")[0]) if name else None
        return None


def touch_reload(by_hand: ByHand, name: str, workers: int) -> Site:
    """uWSGI that loads the project anew, in place, when a file is touched."""
    return _uwsgi(by_hand, name, workers, "touch-reload")


def chain_reload(by_hand: ByHand, name: str, workers: int) -> Site:
    """uWSGI that replaces one worker after the other when a file is touched."""
    return _uwsgi(by_hand, name, workers, "touch-chain-reload")


def _uwsgi(by_hand: ByHand, name: str, workers: int, option: str) -> Site:
    place = by_hand.place
    touched = place / f"{name}.touch"
    touched.touch()
    (place / f"{name}.ini").write_text(
        f"[uwsgi]\nsocket = {place}/{name}.sock\nchmod-socket = 666\nlisten = {_backlog()}\nmodule = app:application\n"
        f"master = true\nprocesses = {workers}\nlazy-apps = true\nsingle-interpreter = true\nneed-app = true\n"
        f"die-on-term = true\ndisable-logging = true\n{option} = {touched}\n"
    )
    run = "import sys, pyuwsgi; pyuwsgi.run(sys.argv[1:])"
    by_hand.start(name, [sys.executable, "-c", run, "--ini", str(place / f"{name}.ini")])
    host = by_hand.add(name, f"uwsgi_pass unix:{place}/{name}.sock; {UWSGI_PARAMETERS}")
    return Site(by_hand, host, touched.touch, workers)


def gunicorn_hup(by_hand: ByHand, name: str, workers: int) -> Site:
    """gunicorn, told to replace its workers by a signal."""
    address = f"unix:{by_hand.place}/{name}.sock"
    by_hand.start(name, _gunicorn(workers, "--bind", address))
    host = by_hand.add(name, _proxy(address))
    return Site(by_hand, host, lambda: by_hand.server(name).send_signal(signal.SIGHUP), workers)


def socket_activation(by_hand: ByHand, name: str, workers: int) -> Site:
    """gunicorn on a socket that something else holds, as systemd's socket units do: ended, and started anew.

    The descriptor is handed over as systemd does it: as the third, with LISTEN_PID and LISTEN_FDS.
    """
    path = f"{by_hand.place}/{name}.sock"
    held = socket.socket(socket.AF_UNIX)
    held.bind(path)
    held.listen(_backlog())
    os.chmod(path, 0o666)
    code = (
        f"import os, sys; os.dup2({held.fileno()}, 3); "
        "os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid())); os.execv(sys.argv[1], sys.argv[1:])"
    )

    def start() -> None:
        by_hand.start(name, [sys.executable, "-c", code, *_gunicorn(workers)], kept=(held.fileno(),))

    def order() -> None:
        server = by_hand.server(name)
        server.terminate()
        server.wait(STOP_SECONDS)
        start()

    start()
    return Site(by_hand, by_hand.add(name, _proxy(f"unix:{path}")), order, workers)


def _gunicorn(workers: int, *options: str) -> list[str]:
    return [sys.executable, "-m", "gunicorn", "--workers", str(workers), *options, "app:application"]


def _proxy(address: str) -> str:
    return f"proxy_pass http://{address}; proxy_set_header Host $http_host;"


def _backlog() -> int:
    return min(int(Path("/proc/sys/net/core/somaxconn").read_text()), BACKLOG)
