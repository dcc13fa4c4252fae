"""Two hostile neighbours of one project, on a real node: what code inside a site's own process reaches of the other.

The application runs whatever it is sent, under real uWSGI, as the site's user. Each line of the table is tried on the
site itself, on its neighbour and, where it makes sense, on the platform: only the site's own may be reached. What is
reached all the same is stated in docs/explanation/isolation.md, and has its lines here too.
"""
# ruff: noqa: E501  (a probe a line)

import json
import os
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

SETTINGS = """
import os
SECRET_KEY = os.environ["SECRET_KEY"]
ALLOWED_HOSTS = ["*"]
INSTALLED_APPS = []
ROOT_URLCONF = "walls.urls"
WSGI_APPLICATION = "walls.wsgi.application"
DATABASES = {"default": {
    "ENGINE": "django.db.backends.postgresql", "NAME": os.environ["PGDATABASE"], "USER": os.environ["PGUSER"],
    "PASSWORD": os.environ["PGPASSWORD"], "HOST": os.environ["PGHOST"], "PORT": os.environ["PGPORT"],
}}
USE_TZ = True
"""
URLS = '''
import json
import os
from django.http import JsonResponse
from django.urls import path

KEPT = {}


def run(request):
    """Run each (name, code, target) that was sent; a refusal is an answer."""
    answers = {}
    for name, code, target in json.loads(request.body):
        scope = {"T": target, "KEPT": KEPT, "os": os}
        try:
            exec(code, scope)
            answers[name] = scope.get("answer", True)
        except BaseException as error:
            answers[name] = "refused: " + type(error).__name__ + ": " + str(error)[:200]
    return JsonResponse(answers)


def index(request):
    return JsonResponse({"site": os.environ["TENANTRY_SITE"], "pid": os.getpid(), "ppid": os.getppid()})


urlpatterns = [path("", index), path("run", run)]
'''
REFUSED = "refused: "
# A probe that is wrong is refused too, and would prove nothing.
BROKEN = tuple(REFUSED + name for name in (
    "NameError", "SyntaxError", "KeyError", "AttributeError", "TypeError", "ImportError", "ModuleNotFoundError", "IndexError",
    "FileNotFoundError", "ValueError", "ProgrammingError", "UndefinedFunction", "UndefinedTable", "UndefinedObject",
))  # fmt: skip
# What each neighbour has that the other must not get. Paths and ids come back as facts for the probes.
BELONGINGS = """
import ctypes, socket, tempfile, threading, psycopg, redis
site = os.environ["TENANTRY_SITE"]
place = {"media": os.environ["MEDIA_ROOT"], "home": os.environ["HOME"], "tmp": os.environ["TMPDIR"]}
facts = {}
for name, directory in place.items():
    facts[name] = directory + "/secret"
    open(facts[name], "w").write("secret of " + site)
facts["shm"] = "/dev/shm/walls-" + site
facts["shared_tmp"] = "/tmp/walls-" + site
for name in ("shm", "shared_tmp"):
    open(facts[name], "w").write("secret of " + site)
libc = ctypes.CDLL(None, use_errno=True)
facts["ipc_key"] = 0x77000000 + os.getuid() % 100000
KEPT["segment"] = libc.shmget(facts["ipc_key"], 4096, 0o1000 | 0o600)
assert KEPT["segment"] >= 0
KEPT["session"] = psycopg.connect("")
facts["backend"] = KEPT["session"].info.backend_pid
KEPT["session"].execute("CREATE TABLE IF NOT EXISTS secret (word text)")
KEPT["session"].commit()
KEPT["session"].execute("SELECT 'a word of " + site + "'")
cache = redis.Redis.from_url(os.environ["REDIS_URL"])
cache.set(site + ":secret", "secret of " + site)
facts["client"] = cache.client_id()
KEPT["cache"] = cache
facts |= {"slug": site, "pid": os.getpid(), "master": os.getppid(), "uid": os.getuid(), "media_root": place["media"]}
KEPT["abstract"] = socket.socket(socket.AF_UNIX)
KEPT["abstract"].bind("\\0walls-" + site)
KEPT["abstract"].listen()
KEPT["loopback"] = socket.create_server(("127.0.0.1", 0))
facts["port"] = KEPT["loopback"].getsockname()[1]
KEPT["word"] = ctypes.create_string_buffer(8)
facts["address"] = ctypes.addressof(KEPT["word"])
facts["words"] = [os.environ[name] for name in ("SECRET_KEY", "PGPASSWORD", "REDIS_URL")]
facts |= {name: os.environ[name] for name in ("PGHOST", "PGPORT", "PGUSER", "PGDATABASE")}
answer = facts
"""
FORGET = """
import ctypes
for name in ("shm", "shared_tmp"):
    if os.path.exists(T[name]):
        os.unlink(T[name])
libc = ctypes.CDLL(None, use_errno=True)
libc.shmctl(KEPT.pop("segment"), 0, None)
for name in ("session", "cache", "abstract", "loopback"):
    KEPT.pop(name).close()
"""
SQL = "import psycopg\nwith psycopg.connect('', autocommit=True) as c:\n    answer = c.execute({!r}.format(**T)).fetchone()"
REDIS = "import redis\nclient = redis.Redis.from_url(os.environ['REDIS_URL'])\nanswer = str(client.execute_command({}))"


@dataclass(frozen=True)
class Probe:
    """Code that a site runs against a target. It reached it unless it raised."""

    kind: str
    name: str
    code: str
    own: bool = True  # whether the site reaches its own


def file(kind: str, name: str, path: str, *, own: bool = True) -> Probe:
    """Whether a path can be opened, listed or connected to."""
    return Probe(kind, name, f"import socket, stat\np = {path!r}.format(**T)\nmode = os.stat(p).st_mode\n" + textwrap.dedent(
        """
        if stat.S_ISDIR(mode):
            os.listdir(p)
        elif stat.S_ISSOCK(mode):
            socket.socket(socket.AF_UNIX).connect(p)
        else:
            open(p, "rb").read(1)
        """), own)  # fmt: skip


def writes(name: str, path: str, *, own: bool = True) -> Probe:
    code = f"p = {path!r}.format(**T)\nos.close(os.open(p, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW))"
    return Probe("files", f"write {name}", code, own)


def call(kind: str, name: str, expression: str, *, own: bool = True) -> Probe:
    """A call of libc that returns 0 or more where it is allowed."""
    code = f"import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\nanswer = {expression}\n"
    return Probe(kind, name, code + "if answer < 0:\n    raise PermissionError(ctypes.get_errno(), 'errno')", own)


def sql(name: str, statement: str, *, own: bool = False) -> Probe:
    return Probe("database", name, SQL.format(statement), own)


def cache(name: str, words: str, *, own: bool = False) -> Probe:
    return Probe("cache", name, REDIS.format(words), own)


LOGIN = (
    "import psycopg\npsycopg.connect(host=T['PGHOST'], port=T['PGPORT'], user=T['PGUSER'], dbname=T['PGDATABASE'], "
    "password=os.environ['PGPASSWORD'], connect_timeout=5).close()"
)
# Tried on the site itself and on its neighbour.
PROBES = [
    *(file("files", f"read {name}", f"{{{name}}}") for name in ("media", "home", "tmp", "shm", "shared_tmp")),
    *(writes(name, f"{{{name}}}") for name in ("media", "home", "tmp", "shm", "shared_tmp")),
    writes("a new upload", "{media_root}/new"),
    Probe("files", "rename in /tmp", "os.rename(T['shared_tmp'], T['shared_tmp'] + '.moved')\n"
          "os.rename(T['shared_tmp'] + '.moved', T['shared_tmp'])"),
    Probe("files", "watch for uploads", textwrap.dedent(
        """
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.inotify_add_watch(libc.inotify_init(), T["media_root"].encode(), 2) < 0:
            raise PermissionError(ctypes.get_errno(), "errno")
        """)),
    file("files", "read the log", "{log}", own=False),
    file("files", "read the older log", "{log}.1", own=False),
    file("files", "read the secrets", "{site}/site.{generation}.json", own=False),
    file("files", "list run/sites/<slug>", "{site}", own=False),
    writes("run/sites/<slug>/mode.readonly", "{site}/mode.readonly", own=False),
    writes("the ini", "{home_dir}/run/vassals/{slug}.{generation}.ini", own=False),
    writes("the release", "{release}/src/walls/x.py", own=False),
    file("sockets", "the site's socket (a shell for uWSGI)", "{site}/{generation}.sock", own=False),
    file("sockets", "app.sock", "{site}/app.sock", own=False),
    *(file("/proc", name, f"/proc/{{pid}}/{name}") for name in ("environ", "maps", "fd", "cwd", "root")),
    Probe("/proc", "mem", "open('/proc/%d/mem' % T['pid'], 'rb').close()"),
    Probe("/proc", "a secret on any command line", textwrap.dedent(
        """
        import glob
        lines = b""
        for path in glob.glob("/proc/[0-9]*/cmdline"):
            try:
                lines += open(path, "rb").read()
            except (FileNotFoundError, ProcessLookupError):
                pass
        answer = [word for word in T["words"] if word.encode() in lines]
        if not answer:
            raise PermissionError("none")
        """), False),
    *(Probe("/proc", f"read link {name}", f"os.readlink('/proc/%d/{name}' % T['pid'])") for name in ("cwd", "exe", "root")),
    Probe("/proc", "open a file through its descriptors", "open('/proc/%d/fd/1' % T['pid'])"),
    Probe("tracing", "ptrace", textwrap.dedent(
        """
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        child = os.fork()
        if not child:  # a process cannot trace itself; what it traces goes on when it ends
            libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
            os._exit(0 if libc.ptrace(0x4206, T["pid"], None, None) == 0 else ctypes.get_errno())
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status:
            raise PermissionError(status, "errno")
        """)),
    Probe("tracing", "take a descriptor", textwrap.dedent(
        """
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syscall(438, os.pidfd_open(T["pid"]), 1, 0) < 0:
            raise PermissionError(ctypes.get_errno(), "errno")
        """)),
    Probe("tracing", "read its memory", textwrap.dedent(
        """
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        buffer = ctypes.create_string_buffer(8)
        class Vector(ctypes.Structure):
            _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
        here, there = Vector(ctypes.addressof(buffer), 8), Vector(T["address"], 8)
        if libc.process_vm_readv(T["pid"], ctypes.byref(here), 1, ctypes.byref(there), 1, 0) < 0:
            raise PermissionError(ctypes.get_errno(), "errno")
        """)),
    Probe("tracing", "perf events of a process", textwrap.dedent(
        """
        import ctypes, struct
        attribute = ctypes.create_string_buffer(struct.pack("<IIQQQQQ", 1, 112, 0, 0, 0, 0, 1 << 5 | 1 << 6), 112)
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syscall(298, attribute, T["pid"], -1, -1, 0) < 0:
            raise PermissionError(ctypes.get_errno(), "errno")
        """)),
    call("tracing", "bpf", "libc.syscall(321, 0, ctypes.create_string_buffer(128), 128)", own=False),
    Probe("signals", "signal a worker", "os.kill(T['pid'], 0)"),
    Probe("signals", "signal the master", "os.kill(T['master'], 0)"),
    Probe("signals", "renice", "os.setpriority(os.PRIO_PROCESS, T['pid'], 0)"),
    Probe("signals", "move to a processor", "os.sched_setaffinity(T['pid'], os.sched_getaffinity(0))"),
    Probe("signals", "change its limits", "import resource\nresource.prlimit(T['pid'], resource.RLIMIT_CORE, (0, 0))"),
    call("shared memory", "attach a segment of System V", "libc.shmget(T['ipc_key'], 4096, 0o600)"),
    Probe("database", "log in", LOGIN),
    sql("end a session", "SELECT pg_terminate_backend({backend}) FROM pg_database WHERE datname = '{PGDATABASE}'", own=True),
    sql("cancel a statement", "SELECT pg_cancel_backend({backend})", own=True),
    sql("become its role", "SELECT set_config('role', '{PGUSER}', false)", own=True),
    sql("give its role away", "GRANT {PGUSER} TO CURRENT_USER", own=False),
    sql("drop its database", "DROP DATABASE {PGDATABASE}", own=False),
    cache("read a key", "'GET', T['slug'] + ':secret'", own=True),
    cache("write a key", "'SET', T['slug'] + ':secret', 'x'", own=True),
    cache("delete a key", "'DEL', T['slug'] + ':none'", own=True),
    cache("size of a key", "'STRLEN', T['slug'] + ':secret'", own=True),
    cache("publish", "'PUBLISH', T['slug'] + ':channel', 'x'", own=True),
    Probe("cache", "subscribe", "import redis\nchannel = redis.Redis.from_url(os.environ['REDIS_URL']).pubsub()\n"
          "channel.subscribe(T['slug'] + ':channel')\nanswer = channel.get_message(timeout=5)['channel'].decode()"),
    cache("script that reads a key", "'EVAL', 'return redis.call(\"get\", ARGV[1])', 0, T['slug'] + ':secret'", own=True),
    cache("end a client", "'CLIENT', 'KILL', 'ID', T['client']", own=False),
    cache("log in as its user", "'AUTH', T['PGUSER'], 'guess'", own=False),
]  # fmt: skip
# What belongs to neither, and to nobody's code.
OF_THE_PLATFORM = [
    *(file("files", f"read {path}", f"{{home_dir}}/{path}", own=False) for path in (
        "secrets/platform.key", "secrets/agent.json", "secrets/control.json", "secrets/admin-password", "client.json",
        "postgres/data", "redis/data", "redis/users.acl", "state", "logs/control.log", "logs/access.log",
        "run/vassals", "run/sites", "run/hosts", "run/failed", "lock", "artifacts")),
    *(writes(path, f"{{home_dir}}/{path}", own=False) for path in (
        "etc/nginx.conf", "etc/vassal", "run/draining", "run/x", "run/hosts/x", "run/vassals/x.1.ini", "run/long/x",
        "run/full/x", "data/x", "releases/x", "logs/sites/x.log", "config.json")),
    *(file("sockets", path, f"{{home_dir}}/run/{path}", own=False) for path in (
        "emperor.sock", "standby.sock", "wake.sock", "supervisor.sock")),
    Probe("signals", "every process but its own", textwrap.dedent(
        """
        mine, others = os.getuid(), []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                if os.stat("/proc/" + pid).st_uid != mine:
                    os.kill(int(pid), 0)
                    others.append(pid)
            except (PermissionError, FileNotFoundError, ProcessLookupError):
                pass
        if not others:
            raise PermissionError("none")
        answer = others
        """), False),
    call("tracing", "a raw socket", "libc.socket(2, 3, 255)", own=False),
    Probe("tracing", "the kernel's messages", "open('/dev/kmsg')", False),
    Probe("rights", "become root", "os.setuid(0)", False),
    Probe("rights", "become root by a set-user-ID program",
          "import subprocess\nsubprocess.run(['su', '-c', 'true'], check=True, stdin=subprocess.DEVNULL, timeout=20)", False),
    Probe("rights", "more files than its limit", "import resource\ntry:\n    resource.setrlimit(resource.RLIMIT_NOFILE, (9999, 9999))\nexcept ValueError as error:\n    raise PermissionError(error)", False),
    Probe("rights", "raise its priority", "os.nice(-5)", False),
    Probe("rights", "a control group of its own",
          "import glob\nopen(glob.glob('/sys/fs/cgroup/**/cgroup.procs', recursive=True)[0], 'w').write('0')", False),
    *(Probe("database", f"log in to {name}", LOGIN.replace("T['PGDATABASE']", repr(name)), False)
      for name in ("tenantry", "postgres", "template1")),
    *(Probe("database", f"log in as {name}", LOGIN.replace("T['PGUSER']", repr(name)).replace("T['PGDATABASE']", "'postgres'"), False)
      for name in ("postgres", "tenantry_control", "tenantry_jobs", "tenantry_node")),
    sql("read passwords", "SELECT rolpassword FROM pg_authid LIMIT 1"),
    sql("read the server's rules", "SELECT * FROM pg_hba_file_rules"),
    sql("run a program", "COPY (SELECT 1) TO PROGRAM 'true'"),
    sql("read a file", "SELECT pg_read_file('postgresql.conf')"),
    sql("list a directory", "SELECT pg_ls_dir('.')"),
    sql("import a file as a large object", "SELECT lo_import('/etc/hostname')"),
    sql("export a large object", "SELECT lo_export(lo_from_bytea(0, 'x'), '/tmp/walls-lo')"),
    sql("change the server", "ALTER SYSTEM SET log_min_messages = 'debug5'"),
    sql("reload the server", "SELECT pg_reload_conf()"),
    sql("make a role", "CREATE ROLE intruder SUPERUSER"),
    sql("make a database", "CREATE DATABASE intruder"),
    sql("more connections than its limit", "ALTER ROLE CURRENT_USER CONNECTION LIMIT 1000"),
    sql("an untrusted language", "CREATE EXTENSION plpython3u"),
    sql("other servers", "CREATE EXTENSION dblink"),
    sql("replicate", "SELECT pg_create_physical_replication_slot('intruder')"),
    sql("others' statements", "SELECT query FROM pg_stat_activity WHERE usename <> current_user "
        "AND query NOT IN ('', '<insufficient privilege>') AND 1 / (SELECT count(*) FROM pg_stat_activity "
        "WHERE usename <> current_user AND query NOT IN ('', '<insufficient privilege>')) >= 0"),
    *(cache(words[0] + " " + " ".join(words[1:]), ", ".join(map(repr, words))) for words in (
        ("KEYS", "*"), ("SCAN", "0"), ("RANDOMKEY",), ("DBSIZE",), ("FLUSHALL",), ("FLUSHDB",), ("CONFIG", "GET", "*"),
        ("CONFIG", "SET", "maxmemory", "1"), ("MONITOR",), ("SCRIPT", "FLUSH"), ("SCRIPT", "KILL"), ("SHUTDOWN", "NOSAVE"),
        ("FUNCTION", "LIST"), ("ACL", "LIST"), ("ACL", "WHOAMI"), ("CLIENT", "LIST"), ("CLIENT", "PAUSE", "10"),
        ("CLIENT", "NO-EVICT", "on"), ("CLIENT", "TRACKING", "on", "BCAST"), ("INFO",), ("PSUBSCRIBE", "*"),
        ("PUBSUB", "CHANNELS"), ("SLOWLOG", "GET"), ("DEBUG", "SLEEP", "0"), ("SELECT", "1"), ("SAVE",), ("REPLICAOF", "a", "1"),
        ("MODULE", "LIST"), ("MIGRATE", "h", "1", "k", "0", "1"), ("SWAPDB", "0", "1"))),
]  # fmt: skip

# What the kernel lets every process of a machine do. Whoever closes one of these moves it up, and mends the page.
STATED = [
    Probe(
        "sockets", "an abstract socket", "import socket\nsocket.socket(socket.AF_UNIX).connect('\\0walls-' + T['slug'])"
    ),
    Probe(
        "sockets", "a port on 127.0.0.1", "import socket\nsocket.create_connection(('127.0.0.1', T['port']), 5).close()"
    ),
    Probe("/proc", "its command line and name", "answer = open('/proc/%d/cmdline' % T['pid']).read()"),
    Probe("/proc", "its sockets' paths", "assert T['slug'] in open('/proc/net/unix').read()"),
    Probe("files", "names in /tmp and /dev/shm", "assert os.path.basename(T['shm']) in os.listdir('/dev/shm')"),
    Probe(
        "files",
        "its ini, which holds numbers",
        "open('{home_dir}/run/vassals/{slug}.{generation}.ini'.format(**T)).close()",
    ),
    Probe(
        "database",
        "names of databases and roles",
        SQL.format("SELECT 1 / count(*) FROM pg_database WHERE datname = '{PGDATABASE}'"),
    ),
]


class Neighbour:
    """One of the two sites, spoken to through nginx."""

    def __init__(self, platform: Any, slug: str) -> None:
        self._platform = platform
        self.slug = slug
        self.host = f"{slug}.localhost"
        self.facts: dict[str, Any] = {}

    def run(self, *asked: tuple[str, str, dict[str, Any]]) -> dict[str, Any]:
        with self._platform.visitor(self.host) as visitor:
            response = visitor.post("/run", content=json.dumps(asked), timeout=90)
        assert response.status_code == 200, response.text[:3000]
        answers: dict[str, Any] = response.json()
        return answers

    def do(self, code: str, target: dict[str, Any] | None = None) -> Any:
        answer = self.run(("it", textwrap.dedent(code), target or {}))["it"]
        assert not str(answer).startswith(REFUSED), answer
        return answer


@pytest.fixture(scope="module")
def neighbours(platform: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Neighbour, Neighbour]]:
    if os.geteuid() != 0:
        pytest.skip("sites have users of their own only when root runs the platform")
    source = tmp_path_factory.mktemp("projects") / "walls"
    (source / "walls").mkdir(parents=True)
    (source / "walls" / "__init__.py").touch()
    (source / "walls" / "settings.py").write_text(SETTINGS)
    (source / "walls" / "urls.py").write_text(URLS)
    (source / "walls" / "wsgi.py").write_text(
        "from django.core.wsgi import get_wsgi_application\napplication = get_wsgi_application()\n"
    )
    (source / "manage.py").write_text(
        "import os, sys\nfrom django.core.management import execute_from_command_line\n"
        "os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'walls.settings')\nexecute_from_command_line(sys.argv)\n"
    )
    (source / "requirements.txt").write_text("Django~=5.2\npsycopg[binary]\nredis\n")
    platform.tenantry("project", "add", str(source), "--name", "walls", "--wait", seconds=280)
    both = Neighbour(platform, "wall-a"), Neighbour(platform, "wall-b")
    for one in both:
        site = platform.create(one.slug, "walls", "--runtime", "always_on")
        one.facts = one.do(BELONGINGS) | {
            "generation": site["generation"],
            "home_dir": str(platform.home),
            "site": f"{platform.home}/run/sites/{one.slug}",
            "log": f"{platform.home}/logs/sites/{one.slug}.log",
            "release": f"{platform.home}/releases/{site['release']}",
        }
        Path(one.facts["log"] + ".1").write_text("older")
        Path(one.facts["log"] + ".1").chmod(0o640)
    yield both
    for one in both:
        one.do(FORGET, one.facts)
        platform.delete(one.slug)
    platform.tenantry("project", "remove", "walls", "--yes")


def test_only_a_sites_own_is_reached(neighbours: tuple[Neighbour, Neighbour]) -> None:
    one, other = neighbours
    table, holes = [], []
    asked = []
    of_sites = [*PROBES, *STATED]
    for number, probe in enumerate(of_sites):
        asked += [(f"{number} {target.slug}", probe.code, target.facts) for target in (one, other)]
    asked += [(f"platform {number}", probe.code, one.facts) for number, probe in enumerate(OF_THE_PLATFORM)]
    answers = one.run(*asked)

    def reached(key: str) -> bool:
        return not str(answers[key]).startswith(REFUSED)

    for number, probe in enumerate(of_sites):
        own, neighbour = reached(f"{number} {one.slug}"), reached(f"{number} {other.slug}")
        table.append((probe.kind, probe.name, own, neighbour))
        if own != probe.own or neighbour != (probe in STATED):
            holes.append((probe.kind, probe.name, answers[f"{number} {one.slug}"], answers[f"{number} {other.slug}"]))
    for number, probe in enumerate(OF_THE_PLATFORM):
        table.append((probe.kind, f"{probe.name} (the platform's)", None, reached(f"platform {number}")))
        if reached(f"platform {number}"):
            holes.append((probe.kind, probe.name, None, answers[f"platform {number}"]))
    for key, answer in answers.items():
        assert not str(answer).startswith(BROKEN), (key, answer)
    words = {True: "reached", False: "–", None: ""}
    lines = [f"{kind:14} {name:52} {words[own]:8} {words[others]}" for kind, name, own, others in table]
    print(f"\n{'':14} {'':52} {'own':8} other's\n" + "\n".join(lines))
    assert holes == []


# Exhaustion: what one site can use up, and whether its neighbour notices.


def answer_times(site: Neighbour, count: int = 10) -> list[float]:
    """How long the site's answers take, each of which asks its database and its cache anew."""
    code = """
    import psycopg, redis
    with psycopg.connect("", connect_timeout=5) as connection:
        connection.execute("SELECT 1")
    redis.Redis.from_url(os.environ["REDIS_URL"]).ping()
    """
    times = []
    for _ in range(count):
        began = time.monotonic()
        site.do(code)
        times.append(time.monotonic() - began)
    return sorted(times)


EXHAUSTING = {
    "processes": (
        """
        import time
        KEPT["children"] = []
        try:
            while len(KEPT["children"]) < 2000:
                child = os.fork()
                if not child:
                    os.closerange(3, 256)  # the visitor's connection, which would stay open until it ends
                    time.sleep(60)
                    os._exit(0)
                KEPT["children"].append(child)
        except OSError as error:
            assert error.errno == 11, error
        answer = len(KEPT["children"])
        """,
        """
        for child in KEPT.pop("children"):
            os.kill(child, 9)
            os.waitpid(child, 0)
        """,
        512,
    ),
    "descriptors": (
        """
        KEPT["files"] = []
        try:
            while len(KEPT["files"]) < 20000:
                KEPT["files"].append(os.open("/dev/null", 0))
        except OSError as error:
            assert error.errno == 24, error
        answer = len(KEPT["files"])
        os.close(KEPT["files"].pop())
        """,
        """
        for number in KEPT.pop("files"):
            os.close(number)
        """,
        4096,
    ),
    "connections to PostgreSQL": (
        """
        import psycopg
        KEPT["sessions"] = []
        try:
            while len(KEPT["sessions"]) < 200:
                KEPT["sessions"].append(psycopg.connect(""))
        except psycopg.OperationalError as error:
            assert "too many connections" in str(error), error
        answer = len(KEPT["sessions"])
        """,
        """
        for session in KEPT.pop("sessions"):
            session.close()
        """,
        20,
    ),
    "connections to Redis": (
        """
        import redis, socket
        path = redis.Redis.from_url(os.environ["REDIS_URL"]).connection_pool.connection_kwargs["path"]
        KEPT["sockets"] = []
        for _ in range(1500):
            one = socket.socket(socket.AF_UNIX)
            one.connect(path)
            KEPT["sockets"].append(one)
        answer = len(KEPT["sockets"])
        """,
        """
        import time
        time.sleep(1)
        gone = 0
        for one in KEPT.pop("sockets"):
            one.setblocking(False)
            try:
                gone += one.recv(1) == b""
            except ConnectionResetError:
                gone += 1
            except BlockingIOError:
                pass
            one.close()
        assert gone > 1000, gone
        """,
        1500,
    ),
}


@pytest.mark.parametrize("what", EXHAUSTING)
def test_a_site_that_uses_up_everything_is_not_felt(neighbours: tuple[Neighbour, Neighbour], what: str) -> None:
    one, other = neighbours
    exhaust, give_back, most = EXHAUSTING[what]
    before = answer_times(other)
    taken = one.do(exhaust)
    try:
        during = answer_times(other)
    finally:
        one.do(give_back)
    assert 5 < taken <= most
    assert during[-1] < 2, "the slowest of ten answers"
    print(
        f"\n{what}: {taken} taken; the neighbour's median went from {before[5] * 1000:.0f} to {during[5] * 1000:.0f} ms"
    )
    assert one.do("answer = 'alive'") == "alive"


@pytest.mark.long
def test_a_log_that_is_flooded_stays_small(neighbours: tuple[Neighbour, Neighbour]) -> None:
    one, other = neighbours
    log = Path(one.facts["log"])
    one.do("""
    import time
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            os.write(2, b"x" * (1 << 20))
        except OSError as error:  # the largest size of a file is reached before the log is cut
            assert error.errno == 27, error
            time.sleep(0.1)
    """)
    answer_times(other, 3)
    deadline = time.monotonic() + 15
    while log.stat().st_size > 64 << 20 and time.monotonic() < deadline:
        time.sleep(0.5)
    assert log.stat().st_size + log.with_name(log.name + ".1").stat().st_size <= 96 << 20
