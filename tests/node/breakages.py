"""Eighty ways in which a new generation can be broken: what its code does, and what the person is told.

Each is a module of one release, which a site that serves another release is given as its next generation.
"""

import json
import textwrap
from dataclasses import dataclass, field
from typing import Any

import psycopg
from node_lab import ASGI_APPLICATION, GRANIAN, Node

from tenantry.node.effects.processes import descendants, find

GONE_SECONDS = 40.0  # a process that does not end is killed after 10 s, what it left behind after another 10

_GOOD = """
import os, sys, time, threading, signal, socket, resource, itertools
def answer(start_response, status="200 OK", *headers):
    start_response(status, [("Content-Length", "2"), *headers])
    return [b"ok"]
async def answer_asgi(send, status=200):
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})
"""
_FOREVER = "while True: time.sleep(600)"
_TIMED_OUT = r"did not answer \S+ within"
_ENDED = "ended before it (was ready|answered)"


@dataclass(frozen=True, slots=True)
class Breakage:
    """`code` follows the helpers above in a module. `words`: a pattern that the message or the log must match.

    `settings` is the text of a settings module, for a project of Django's. `release` and `site` change the documents.
    `granian`: its engine, before too; the module's application is `asgi`, or Django's own.
    """

    name: str
    words: str
    code: str = ""
    settings: str | None = None
    release: dict[str, Any] = field(default_factory=dict)
    site: dict[str, Any] = field(default_factory=dict)
    short: bool = False  # in the default run
    granian: bool = False

    @property
    def module(self) -> str:
        return "broken_" + "".join(letter if letter.isalnum() else "_" for letter in self.name)

    def files(self) -> dict[str, bytes]:
        """Return the release's source files for this one."""
        if self.settings is not None:
            return {f"{self.module}.py": (_SETTINGS + textwrap.dedent(self.settings)).encode()}
        return {f"{self.module}.py": (_GOOD + textwrap.dedent(self.code)).encode(errors="surrogateescape")}

    def document(self) -> dict[str, Any]:
        """Return the changes to a site's document."""
        wsgi = "" if self.settings is not None else f"{self.module}:application"
        asgi = "" if self.settings is not None else f"{self.module}:asgi"
        engine = {"engine": "granian", "asgi": asgi} if self.granian else {}
        return {"release_changes": {"wsgi": wsgi, "settings": self.module} | engine | self.release} | self.site


def _import(name: str, words: str, code: str, **more: Any) -> Breakage:
    """Broken while it is imported."""
    return Breakage(name, words, code, **more)


def _request(name: str, words: str, code: str, before: str = "", **more: Any) -> Breakage:
    """Broken when it is asked: the body of `application(environ, start_response)`."""
    body = textwrap.indent(textwrap.dedent(code).strip(), "    ")
    return Breakage(
        name, words, f"{textwrap.dedent(before)}\ndef application(environ, start_response):\n{body}\n", **more
    )


def _raw(name: str, words: str, sent: str, **more: Any) -> Breakage:
    """Writes `sent` to the connection itself, and hangs up."""
    code = f"""
        import uwsgi
        with socket.socket(fileno=os.dup(uwsgi.connection_fd())) as connection:
            connection.sendall({sent})
            connection.shutdown(socket.SHUT_RDWR)
        return []
    """
    return _request(name, words, code, **more)


def _asgi(name: str, words: str, code: str, before: str = "", **more: Any) -> Breakage:
    """Broken when granian asks it: the body of `asgi(scope, receive, send)` for a request."""
    body = textwrap.indent(textwrap.dedent(code).strip(), "    ")
    head = "async def asgi(scope, receive, send):\n    assert scope['type'] == 'http'"
    return Breakage(name, words, f"{textwrap.dedent(before)}\n{head}\n{body}\n", granian=True, **more)


_SETTINGS = """
import os
SECRET_KEY = "k"
DEBUG = False
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "broken_urls"
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth"]
USE_TZ = True
DATABASES = {"default": {"ENGINE": "django.db.backends.postgresql", "NAME": os.environ["PGDATABASE"],
    "USER": os.environ["PGUSER"], "PASSWORD": os.environ["PGPASSWORD"], "HOST": os.environ["PGHOST"]}}
"""
URLS = b"""
from django.http import HttpResponse
from django.urls import path
def users(request):
    from django.contrib.auth.models import User
    return HttpResponse(str(User.objects.count()))
urlpatterns = [path("", lambda request: HttpResponse("ok")), path("users", users)]
"""

BREAKAGES = (
    _import("syntax error", "SyntaxError", "def (:", short=True),
    _import("missing module", "No module named 'no_such_module'", "import no_such_module", short=True),
    _import(
        "circular import", "partially initialized|circular import", "from broken_circular_import import application"
    ),
    _import("exception", "RuntimeError: it is broken", "raise RuntimeError('it is broken')"),
    _import("hanging import", _TIMED_OUT, _FOREVER, short=True),
    _import("busy import", _TIMED_OUT, "while True: pass"),
    _import("exit with 0", "keeps ending", "sys.exit(0)"),
    _import("exit with 3", "keeps ending", "sys.exit(3)"),
    _import("os._exit(0)", "keeps ending", "os._exit(0)", short=True),
    _import("killed", "keeps ending", "os.kill(os.getpid(), signal.SIGKILL)"),
    _import("abort", "keeps ending", "os.abort()"),
    _import("segmentation fault", "keeps ending", "import ctypes; ctypes.string_at(0)", short=True),
    _import(
        "stack overflow",
        "keeps ending",
        "sys.setrecursionlimit(10**9)\nnested = []\nfor _ in range(10**6): nested = [nested]\nrepr(nested)",
    ),
    _import("endless recursion", "RecursionError", "def again(): again()\nagain()"),
    _import(
        "memory hog",
        "MemoryError|keeps ending",
        "resource.setrlimit(resource.RLIMIT_AS, (400 << 20,) * 2)\nhog = []\nwhile 1: hog.append(bytearray(1 << 20))",
    ),
    _import("too large an allocation", "MemoryError", "bytearray(1 << 60)"),
    _import(
        "daemon",
        "keeps ending|ended after",
        "if os.fork(): os._exit(0)\nos.setsid()\ndef application(e, s): return answer(s)",
    ),
    _import(
        "children that ignore signals",
        "RuntimeError: too late",
        f"""
        for _ in range(3):
            if os.fork() == 0:
                os.setsid()
                for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP): signal.signal(number, signal.SIG_IGN)
                {_FOREVER}
        raise RuntimeError("too late")
        """,
    ),
    _import(
        "programs in the background",
        "RuntimeError: too late",
        """
        import subprocess
        subprocess.Popen(["/bin/sleep", "1000"], env={}, start_new_session=True)
        raise RuntimeError("too late")
        """,
    ),
    _import("another program in its place", _TIMED_OUT + "|keeps ending", 'os.execv("/bin/sleep", ["sleep", "1000"])'),
    _import("stopped", _TIMED_OUT, "os.kill(os.getpid(), signal.SIGSTOP)"),
    _import(
        "signals ignored",
        _TIMED_OUT,
        f"for n in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP): signal.signal(n, signal.SIG_IGN)\n{_FOREVER}",
        short=True,
    ),
    _import("signals blocked", _TIMED_OUT, f"signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 64))\n{_FOREVER}"),
    _import("master killed", "its process ended before", f"os.kill(os.getppid(), signal.SIGKILL)\n{_FOREVER}"),
    _import(
        "threads that never start",
        _TIMED_OUT,
        "e = threading.Event()\nthreading.Thread(target=e.wait).start()\ne.wait()",
    ),
    _import(
        "no room for threads",
        "can't start new thread|Resource temporarily unavailable",
        "resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))\nthreading.Thread(target=print).start()\nos.fork()",
    ),
    _import(
        "no room for temporary files",
        "No space left on device",
        "with open('/dev/full', 'w') as file: file.write('x')",
    ),
    _import("locale", "unsupported locale", "import locale; locale.setlocale(locale.LC_ALL, 'xx_YY.nonsense')"),
    _import(
        "a file of root's",
        "PermissionError|FileNotFoundError",
        "open('/etc/shadow/..' if os.getuid() == 0 else '/etc/shadow')",
    ),
    _import(
        "endless log",
        _TIMED_OUT,
        "while True:\n    print('x' * 60_000, file=sys.stderr, flush=True); time.sleep(0.01)",
    ),
    Breakage(
        "no such application module",
        "there is no module broken_nowhere",
        release={"wsgi": "broken_nowhere:application"},
    ),
    _import("no application", "has no WSGI application called application", "app = None", short=True),
    _import("not callable", "has no WSGI application called application", "application = 3"),
    Breakage("not text", "codec can't decode|SyntaxError|\\(unicode error\\)", "application = '\udcff'"),
    Breakage("name beyond ascii", "there is no module", release={"wsgi": "приложение:приложение"}),
    Breakage("a large environment", "Argument list too long", site={"environment": {"LARGE": "x" * 200_000}}),
    Breakage(
        "settings missing",
        "No module named 'no_settings'",
        settings="",
        release={"settings": "no_settings"},
    ),
    Breakage("settings raise", "ZeroDivisionError", settings="1 / 0"),
    Breakage(
        "middleware missing", "No module named 'no_such_middleware'", settings="MIDDLEWARE = ['no_such_middleware.M']"
    ),
    Breakage("application missing", "No module named 'no_such_app'", settings="INSTALLED_APPS = ['no_such_app']"),
    Breakage("time zone", "Incorrect timezone setting", settings="TIME_ZONE = 'Mars/Phobos'"),
    Breakage("urls missing", "No module named 'no_urls'", settings="ROOT_URLCONF = 'no_urls'"),
    Breakage(
        "migrations missing",
        'relation "auth_user" does not exist',
        settings="",
        site={"health_path": "/users"},
        short=True,
    ),
    Breakage(
        "database password",
        "password authentication failed",
        settings="DATABASES['default'] |= {'USER': 'locked', 'PASSWORD': 'wrong'}",
        site={"health_path": "/users"},
        short=True,
    ),
    _request("status 500", "answered / with status 500", "return answer(start_response, '500 Broken')", short=True),
    _request("page lost", "status 404, generation", "return answer(start_response, '404 Not Found')", short=True),
    _request("host refused", "status 400, generation", "return answer(start_response, '400 Bad Request')"),
    _request("exception when asked", "ValueError: no answer", "raise ValueError('no answer')"),
    _request("no answer", _TIMED_OUT, _FOREVER),
    _request(
        "redirect loop", "in a circle", "return answer(start_response, '302 Found', ('Location', '/'))", short=True
    ),
    _raw("closed without an answer", "ended before it answered|without an answer", "b''", short=True),
    _raw("half a head", "half an answer|not an answer", "b'HTTP/1.1 200 OK\\r\\nContent-'"),
    _raw("half an answer", "half an answer", "b'HTTP/1.1 200 OK\\r\\nContent-Length: 100\\r\\n\\r\\nhalf'", short=True),
    _raw("garbage", "not an answer", "b'\\x00\\xff' * 500"),
    _request(
        "never ending body",
        "does not end",
        "start_response('200 OK', [])\nreturn (time.sleep(0.01) or b'more' for _ in itertools.count())",
    ),
    _request("returns nothing", "not an answer|without an answer|half an answer", "return None"),
    _request(
        "closes its socket",
        _TIMED_OUT,
        "return answer(start_response)",
        before="os.close(3)",
    ),
    _request(
        "steals the socket",
        _TIMED_OUT,
        "return answer(start_response)",
        before="""
        stolen, held = socket.socket(fileno=os.dup(3)), []
        def steal():
            while True: held.append(stolen.accept())
        threading.Thread(target=steal, daemon=True).start()
        time.sleep(1)
        """,
    ),
    _request(
        "removes its socket",
        "PermissionError|is gone",
        "return answer(start_response)",
        before="os.unlink(socket.socket(fileno=os.dup(3)).getsockname())",
    ),
    _request(
        "changes its socket's mode",
        "PermissionError|Operation not permitted|has mode",
        "return answer(start_response)",
        before="os.chmod(socket.socket(fileno=os.dup(3)).getsockname(), 0)",
    ),
    _request(
        "answers once",
        "ended after it had answered",
        "threading.Timer(0.02, os._exit, (1,)).start()\nreturn answer(start_response)",
        short=True,
    ),
    _request(
        "dies when asked again",
        "ended after it had answered|ended before it answered",
        "if next(asked): os._exit(1)\nreturn answer(start_response)",
        before="asked = itertools.count()",
    ),
    _request(
        "hangs when asked again",
        _TIMED_OUT,
        "if next(asked): time.sleep(600)\nreturn answer(start_response)",
        before="asked = itertools.count()",
    ),
    _request(
        "no descriptors left",
        _TIMED_OUT + "|Too many open files",
        "return answer(start_response)",
        before="""
        files = []
        try:
            while True: files.append(os.open("/dev/null", os.O_RDONLY))
        except OSError as error:
            print(error, file=sys.stderr, flush=True)
        """,
        short=True,
    ),
    _request(
        "warm path broken",
        "answered /warm with status 500",
        "return answer(start_response, '500 Broken' if environ['PATH_INFO'] == '/warm' else '200 OK')",
        site={"warm_paths": ["/warm"]},
        short=True,
    ),
    _request(
        "warm path hangs",
        _TIMED_OUT,
        "if environ['PATH_INFO'] == '/warm': time.sleep(600)\nreturn answer(start_response)",
        site={"warm_paths": ["/warm"]},
    ),
    _import("granian: exception", "RuntimeError: it is broken", "raise RuntimeError('it is broken')", granian=True),
    _import("granian: missing module", "named 'no_such_module'", "import no_such_module", granian=True, short=True),
    _import("granian: hanging import", _TIMED_OUT, _FOREVER, granian=True, short=True),
    _import("granian: os._exit(0)", _ENDED, "os._exit(0)", granian=True, short=True),
    _import("granian: exit with 3", _ENDED, "sys.exit(3)", granian=True),
    _import("granian: killed", _ENDED, "os.kill(os.getpid(), signal.SIGKILL)", granian=True),
    _import("granian: no application", "has no ASGI application called asgi", "asgi = None", granian=True),
    _import(
        "granian: launcher killed",
        _ENDED,
        f"os.kill(os.getppid(), signal.SIGKILL)\n{_FOREVER}",
        granian=True,
    ),
    _import(
        "granian: daemon",
        f"{_ENDED}|ended after it had answered",
        "if os.fork(): os._exit(0)\nos.setsid()\nasync def asgi(scope, receive, send): await answer_asgi(send)",
        granian=True,
    ),
    _import(
        "granian: lifespan fails",
        _ENDED,
        """
        async def asgi(scope, receive, send):
            if scope["type"] == "lifespan":
                await send({"type": "lifespan.startup.failed", "message": "no"})
                return
            await answer_asgi(send)
        """,
        granian=True,
    ),
    _asgi("granian: status 500", "answered / with status 500", "await answer_asgi(send, 500)", short=True),
    _asgi("granian: exception when asked", "ValueError: no answer", "raise ValueError('no answer')"),
    _asgi(
        "granian: error told after the answer",
        "ValueError: late",
        """
        error = "Traceback (most recent call last):\\n  somewhere\\nValueError: late\\n"
        threading.Timer(0.4, os.write, (2, error.encode())).start()
        await answer_asgi(send, 500)
        """,
        short=True,
    ),
    Breakage(
        "granian: migrations missing",
        'relation "auth_user" does not exist',
        settings="",
        site={"health_path": "/users"},
        granian=True,
    ),
    _asgi("granian: no answer", _TIMED_OUT, _FOREVER),
    _asgi(
        "granian: half an answer",
        "half an answer|without an answer|is not whole",
        "await send({'type': 'http.response.start', 'status': 200, 'headers': [(b'content-length', b'9')]})\n"
        "await send({'type': 'http.response.body', 'body': b'half', 'more_body': True})",
    ),
    _asgi(
        "granian: never ending body",
        "does not end",
        """
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b"more", "more_body": True})
            await asyncio.sleep(0.01)
        """,
        before="import asyncio",
    ),
    _asgi(
        "granian: answers once",
        "ended after it had answered|ended before it answered",
        "threading.Timer(0.02, os._exit, (1,)).start()\nawait answer_asgi(send)",
    ),
    _asgi(
        "granian: dies when asked again",
        "ended after it had answered|ended before it answered",
        "if next(asked): os._exit(1)\nawait answer_asgi(send)",
        before="asked = itertools.count()",
    ),
    _asgi(
        "granian: warm path broken",
        "answered /warm with status 500 .RuntimeError: not warm",
        "if scope['path'] == '/warm': raise RuntimeError('not warm')\nawait answer_asgi(send)",
        site={"warm_paths": ["/warm"]},
    ),
    _asgi(
        "granian: warm path hangs",
        _TIMED_OUT.replace(r"\S+", "/warm"),
        "if scope['path'] == '/warm': time.sleep(600)\nawait answer_asgi(send)",
        site={"warm_paths": ["/warm"]},
        short=True,
    ),
)


def prepare(node: Node, ready_seconds: int) -> None:
    """Start a node with a good release, good-1, and one that holds every breakage, broken-1."""
    config = json.loads(node.config.read_text()) | {"ready_seconds": ready_seconds}
    node.config.write_text(json.dumps(config))
    node.release("good-1", ASGI_APPLICATION)
    node.release("broken-1")
    source = node.home / "releases" / "broken-1" / "src"
    (source / "broken_urls.py").write_bytes(URLS)
    for breakage in BREAKAGES:
        for name, content in breakage.files().items():
            (source / name).write_bytes(content)
    node.start_standby()
    node.start_nginx()
    node.start_emperor()
    node.start_agent()


def good(node: Node, slug: str, number: int, breakage: Breakage, **changes: Any) -> dict[str, Any]:
    """Return the document of a site that serves, in the engine of what it is to be given."""
    return node.document(slug, number, "good-1", release_changes=GRANIAN if breakage.granian else {}, **changes)


def lock_database(node: Node, number: int) -> None:
    """A database for a site, empty, and a role that needs a password."""
    with psycopg.connect(node.postgres.dsn("postgres"), autocommit=True) as connection:
        for name in (f"site_{number}", "locked"):
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")  # type: ignore[call-overload]
            connection.execute(f"DROP ROLE IF EXISTS {name}")  # type: ignore[call-overload]
            connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'right'")  # type: ignore[call-overload]
        connection.execute(f"CREATE DATABASE site_{number} OWNER site_{number}")  # type: ignore[call-overload]
        rules = node.postgres.directory / "data" / "pg_hba.conf"
        if "locked" not in rules.read_text():
            rules.write_text(f"local all locked scram-sha-256\n{rules.read_text()}")
            connection.execute("SELECT pg_reload_conf()")


def leftovers(node: Node, sites: int) -> list[str]:
    """Processes below the emperor beside the master and one worker of each site."""
    emperor = find(node.processes["emperor"].pid)
    assert emperor is not None
    below = [process for process in descendants(emperor) if process != emperor]
    return [str(process) for process in below] if len(below) != 2 * sites else []
