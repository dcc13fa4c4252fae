"""The comparator: the same project served the way one does it by hand, with the same PostgreSQL, release and uWSGI.

A database of its own per site, a uWSGI process (master and one worker) on a unix socket, one server{} in nginx's
configuration and a reload. No platform code runs here.
"""

import contextlib
import os
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from psycopg import sql

from bench.platform import Platform, first_answer, free_port

NGINX = """\
daemon off;
{user}worker_processes auto;
pid {place}/nginx.pid;
error_log {place}/error.log warn;
events {{ worker_connections 1024; }}
http {{
  access_log {place}/access.log combined buffer=64k flush=1s;
  keepalive_timeout 65s;
  keepalive_requests 100000;
  client_body_temp_path {place}/t1; proxy_temp_path {place}/t2; uwsgi_temp_path {place}/t3;
  fastcgi_temp_path {place}/t4; scgi_temp_path {place}/t5;
  server {{ listen 127.0.0.1:{port} default_server; return 444; }}
  include {place}/sites/*.conf;
}}
"""
SERVER = """\
server {{
  listen 127.0.0.1:{port};
  server_name {hostname};
  location /static/ {{ alias {static}/; }}
  location / {{
    uwsgi_pass unix:{socket};
    uwsgi_param QUERY_STRING $query_string; uwsgi_param REQUEST_METHOD $request_method;
    uwsgi_param CONTENT_TYPE $content_type; uwsgi_param CONTENT_LENGTH $content_length;
    uwsgi_param REQUEST_URI $request_uri; uwsgi_param PATH_INFO $document_uri;
    uwsgi_param SERVER_PROTOCOL $server_protocol; uwsgi_param REMOTE_ADDR $remote_addr;
    uwsgi_param SERVER_PORT $server_port; uwsgi_param SERVER_NAME $server_name;
  }}
}}
"""
STOP_SECONDS = 15


class ByHand:
    """An nginx of our own and the sites behind it, in a temporary directory."""

    def __init__(self, platform: Platform, model: str) -> None:
        """`model` is the site of the platform whose release and environment the sites here get."""
        self.platform = platform
        self.place = Path(tempfile.mkdtemp(prefix="tt-hand-", dir="/tmp"))
        self.place.chmod(0o755)
        (self.place / "sites").mkdir()
        self.port = free_port()
        self.model = platform.site_environment(model)
        self.release = Path(self.model["VIRTUAL_ENV"]).parent
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._databases: list[str] = []
        user = "user root;\n" if os.geteuid() == 0 else ""
        (self.place / "nginx.conf").write_text(NGINX.format(place=self.place, port=self.port, user=user))
        self._nginx = subprocess.Popen(self._nginx_command())
        while not (self.place / "nginx.pid").exists():
            time.sleep(0.01)

    def create(self, name: str, path: str, *, template: str | None) -> dict[str, float]:
        """Make a site and wait for its first 200; returns the seconds since the beginning at which each step was done.

        With `template` its database is a copy of that one; without, it is empty and every migration runs.
        """
        began = time.time()
        environment = self._database(name, template)
        steps = {"database": time.time() - began}
        if template is None:
            python = self.release / "venv" / "bin" / "python"
            argv = [str(python), "manage.py", "migrate", "--verbosity", "0"]
            subprocess.run(argv, cwd=self.release / "src", env=environment, check=True, timeout=300)
            steps["migrated"] = time.time() - began
        self.serve(name, environment)
        steps["reloaded"] = time.time() - began
        steps["first_200"] = first_answer(self.port, f"{name}.localhost", path) - began
        return steps

    def serve(self, name: str, environment: dict[str, str], *, processes: int = 1, threads: int = 1) -> None:
        """Start uWSGI for a site, write its server{} and reload nginx."""
        socket = self.place / f"{name}.sock"
        ini = self.place / f"{name}.ini"
        ini.write_text(
            f"[uwsgi]\nsocket = {socket}\nchmod-socket = 666\nmodule = {self.model['TENANTRY_WSGI']}\nmaster = true\n"
            f"processes = {processes}\nthreads = {threads}\nenable-threads = true\nlazy-apps = true\n"
            "single-interpreter = true\nneed-app = true\ndie-on-term = true\ndisable-logging = true\n"
            f"buffer-size = 65535\nlogto = {self.place}/{name}.log\n"
        )
        python = str(self.release / "venv" / "bin" / "python")
        argv = [python, "-c", "import sys, pyuwsgi; pyuwsgi.run(sys.argv[1:])", "--ini", str(ini)]
        self._processes[name] = subprocess.Popen(
            argv, cwd=self.release / "src", env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        server = SERVER.format(
            port=self.port, hostname=f"{name}.localhost", static=self.release / "static", socket=socket
        )
        (self.place / "sites" / f"{name}.conf").write_text(server)
        subprocess.run([*self._nginx_command(), "-s", "reload"], check=True, timeout=60)

    def close(self) -> None:
        """End every process and drop every database that was made here."""
        for process in [*self._processes.values(), self._nginx]:
            process.terminate()
        for process in [*self._processes.values(), self._nginx]:
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        with self.platform.superuser("postgres") as postgres:
            for name in self._databases:
                postgres.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
                postgres.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(name)))
        shutil.rmtree(self.place, ignore_errors=True)

    def _nginx_command(self) -> list[str]:
        log = str(self.place / "error.log")
        return ["nginx", "-c", str(self.place / "nginx.conf"), "-p", str(self.place), "-e", log, "-q"]

    def _database(self, name: str, template: str | None) -> dict[str, str]:
        role = f"bench_{name}".replace("-", "_")
        password = secrets.token_urlsafe(16)
        self._databases.append(role)
        with self.platform.superuser("postgres") as postgres:
            word, owner = sql.Literal(password), sql.Identifier(role)
            postgres.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(owner, word))
            source = sql.Identifier(template or "template1")
            postgres.execute(sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE {}").format(owner, owner, source))
        if template is not None:
            with self.platform.superuser(role) as postgres:
                postgres.execute(sql.SQL("REASSIGN OWNED BY {} TO {}").format(sql.Identifier(template), owner))
        host = quote(self.model["PGHOST"], safe="")
        url = f"postgres://{role}:{password}@/{role}?host={host}&port={self.model['PGPORT']}"
        return self.model | {
            "TENANTRY_SITE": name,
            "DATABASE_URL": url,
            "PGDATABASE": role,
            "PGUSER": role,
            "PGPASSWORD": password,
        }


@contextlib.contextmanager
def by_hand(platform: Platform, model: str) -> Iterator[ByHand]:
    """The arrangement, taken apart afterwards."""
    arrangement = ByHand(platform, model)
    try:
        yield arrangement
    finally:
        arrangement.close()
