"""The agent with real PostgreSQL, nginx and uWSGI: sites come, change, fail and go."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import django_tenantry
import pytest
from node_lab import APPLICATION, AS_ROOT, Node, has_idle_groups, wait_until

from tenantry.node.effects.health import HealthRequest
from tenantry.node.effects.questions import Questions
from tenantry.node.vassal import (
    ASIDE,
    CPU_SHARES,
    LOADING_NICENESS,
    PERIOD_US,
    VISITED_SECONDS,
    find_groups,
    processor_bound,
    set_share,
)

BROKEN = "raise RuntimeError('this release is broken')\n"


def test_a_site_is_served_under_its_hostnames_by_its_own_user(serving: Node) -> None:
    started = time.monotonic()
    revision = serving.put(serving.document("blog", 7, "demo-1", hostnames=["blog.localhost", "www.blog.localhost"]))
    report = serving.reported("blog", revision)
    print(f"committed -> reported serving: {(time.monotonic() - started) * 1000:.0f} ms")
    assert report["generation"] == 1
    page = serving.page("blog.localhost")
    assert page["site"] == serving.page("www.blog.localhost")["site"] == "blog"
    assert page["cwd"] == f"{serving.home}/releases/demo-1/src"
    assert page["environment"]["SECRET_KEY"] == "key of blog"
    assert page["environment"]["TENANTRY_HOSTNAMES"] == "blog.localhost,www.blog.localhost"
    inherited = {"SUPERVISOR_ENABLED", "SHELL", "VIRTUAL_ENV_PROMPT", "PYTEST_CURRENT_TEST"}
    assert not inherited & page["environment"].keys()
    assert "NoNewPrivs:\t1" in page["status"]
    if AS_ROOT:
        assert (page["uid"], page["gid"], page["groups"]) == (1_900_020_007, 1_900_020_007, [1_900_010_001])
        assert "CapBnd:\t0000000000000000" in page["status"]
        assert "CapEff:\t0000000000000000" in page["status"]
    document = serving.home / "run" / "sites" / "blog" / "site.1.json"
    assert document.stat().st_mode & 0o7777 == 0o600


OLD = ("app.0123456789ab.js", "js/index-BHk3x9_x.mjs", "app.0123456789ab.js.map")


def test_pages_from_before_a_deploy_find_their_static_files(serving: Node) -> None:
    for number in (2, 3):
        serving.release(f"demo-{number}")
    for number in (1, 2):
        static = serving.home / "releases" / f"demo-{number}" / "static"
        (static / "js").mkdir()
        for name in OLD[: 3 if number == 1 else 1]:
            (static / name).write_text(f"of {number}")
        (static / "taken-out.css").write_text("secret")
        (static / "linked.0123456789ab.js").symlink_to("/etc/passwd")
    (serving.home / "releases/demo-2/static/taken-out.css").unlink()

    def deploy(number: int) -> list[bytes]:
        serving.reported("blog", serving.put(serving.document("blog", 1, f"demo-{number}", generation=number)))
        return [serving.get("blog.localhost", f"/static/{name}")[2] for name in OLD]

    assert deploy(1) == [b"of 1"] * 3
    assert serving.get("blog.localhost", "/static/taken-out.css")[2] == b"secret"
    link = serving.home / "run/sites/blog/static.former"
    assert not link.is_symlink()
    assert deploy(2) == [b"of 2", b"of 1", b"of 1"]
    assert os.readlink(link) == "../../../releases/demo-1/static"
    status, headers, _ = serving.get("blog.localhost", f"/static/{OLD[1]}")
    assert (status, headers["content-type"]) == (200, "application/javascript")
    assert headers["x-content-type-options"] == "nosniff"
    for path in ("/static/taken-out.css", "/static/linked.0123456789ab.js", "/static.former/js/index-BHk3x9_x.mjs"):
        assert serving.page("blog.localhost", path)["path"] == path, "nginx does not serve it"
    shutil.rmtree(serving.home / "releases/demo-1")
    assert serving.page("blog.localhost", f"/static/{OLD[1]}")["path"] == f"/static/{OLD[1]}"
    assert deploy(3)[0] == b"of 2"
    assert serving.page("blog.localhost", f"/static/{OLD[1]}")["version"] == "demo-3"
    link.unlink()
    link.symlink_to("/etc")
    serving.sql("""SELECT agent_v1.ask('{"check_repair": true}')""")
    wait_until(lambda: not os.path.lexists(link), 10, "the link that leads elsewhere is gone")


def test_hostnames_are_links_and_restart_nothing(serving: Node) -> None:
    serving.reported("blog", serving.put(serving.document("blog", 1, "demo-1")))
    before = serving.page("blog.localhost")["pid"]
    started = time.monotonic()
    revision = serving.put(serving.document("blog", 1, "demo-1", hostnames=["new.localhost"]))
    wait_until(lambda: serving.get("new.localhost")[0] == 200)
    print(f"hostname committed -> served: {(time.monotonic() - started) * 1000:.0f} ms")
    serving.reported("blog", revision)
    assert serving.page("new.localhost")["pid"] == before
    assert serving.get("blog.localhost")[0] == 404


def test_a_hostname_moves_from_one_site_to_another(serving: Node) -> None:
    serving.reported("one", serving.put(serving.document("one", 1, "demo-1", hostnames=["shop.localhost"])))
    serving.reported("two", serving.put(serving.document("two", 2, "demo-1", hostnames=["two.localhost"])))
    first = serving.put(serving.document("one", 1, "demo-1", hostnames=["one.localhost"]))
    second = serving.put(serving.document("two", 2, "demo-1", hostnames=["shop.localhost", "two.localhost"]))
    serving.reported("one", first)
    serving.reported("two", second)
    assert serving.page("shop.localhost")["site"] == "two"
    assert serving.page("one.localhost")["site"] == "one"


class Visitors:
    """Asks a site without pause; remembers every status that is not 200."""

    def __init__(self, node: Node, host: str) -> None:
        self._node, self._host = node, host
        self.asked = 0
        self.failed: list[object] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._visit) for _ in range(3)]

    def _visit(self) -> None:
        while not self._stop.is_set():
            try:
                status = self._node.get(self._host)[0]
            except OSError as error:
                status = repr(error)
            self.asked += 1
            if status != 200:
                self.failed.append(status)

    def __enter__(self) -> "Visitors":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def test_a_new_generation_takes_over_without_a_failed_request(serving: Node) -> None:
    serving.release("demo-2")
    serving.reported("blog", serving.put(serving.document("blog", 1, "demo-1")))
    slow: list[int] = []
    visitor = threading.Thread(target=lambda: slow.append(serving.get("blog.localhost", "/slow?2")[0]))
    with Visitors(serving, "blog.localhost") as visitors:
        for generation in range(2, 5):
            release = f"demo-{2 - generation % 2}"
            if generation == 4:
                visitor.start()
                time.sleep(0.1)
            revision = serving.put(serving.document("blog", 1, release, generation=generation))
            assert serving.reported("blog", revision)["generation"] == generation
        site = serving.home / "run" / "sites" / "blog"
        left = ["4.sock", "activity", "app.sock", "media", "serving", "site.4.json", "static", "static.former"]
        wait_until(lambda: sorted(path.name for path in site.iterdir()) == left, what="the old generations to go")
        assert [path.name for path in (serving.home / "run" / "vassals").iterdir()] == ["blog.4.ini"]
    visitor.join()
    assert slow == [200]
    assert visitors.failed == []
    assert visitors.asked > 50
    assert serving.page("blog.localhost")["version"] == "demo-2"
    assert serving.get("blog.localhost", "/static/style.css")[2] == b"/* demo-2 */"


@pytest.mark.long
def test_a_request_that_takes_longer_than_half_a_minute_outlives_a_restart(serving: Node) -> None:
    limits = {"request_seconds": 90}
    serving.reported("blog", serving.put(serving.document("blog", 1, "demo-1", limits=limits)))
    with socket.create_connection(("127.0.0.1", serving.port), timeout=60) as visitor:
        visitor.sendall(b"GET /slow?40 HTTP/1.1\r\nHost: blog.localhost\r\nConnection: close\r\n\r\n")
        time.sleep(0.3)
        began = time.monotonic()
        serving.reported("blog", serving.put(serving.document("blog", 1, "demo-1", generation=2, limits=limits)))
        assert visitor.recv(65_536).startswith(b"HTTP/1.1 200 ")
    assert time.monotonic() - began > 35
    wait_until(lambda: not (serving.home / "run" / "vassals" / "blog.1.ini").exists(), what="then it goes")


@pytest.mark.parametrize(
    ("application", "path", "expected"),
    [
        (BROKEN, "/", "this release is broken"),
        ("import no_such_module\n", "/", "no_such_module"),
        ("import os; os._exit(3)\n", "/", "its worker keeps ending"),
        (None, "/broken", "status 500"),
    ],
)
def test_a_broken_generation_leaves_the_old_one_serving(
    serving: Node, application: str | None, path: str, expected: str
) -> None:
    serving.reported("blog", serving.put(serving.document("blog", 1, "demo-1")))
    if application is None:
        serving.release("demo-2")
    else:
        serving.release("demo-2", application)
    with Visitors(serving, "blog.localhost") as visitors:
        revision = serving.put(serving.document("blog", 1, "demo-2", generation=2, health_path=path))
        report = serving.reported("blog", revision, "failed")
        time.sleep(0.3)
    assert expected in report["message"] + report["log"]
    assert report["generation"] == 1
    assert visitors.failed == []
    assert serving.page("blog.localhost")["version"] == "demo-1"
    assert [p.name for p in (serving.home / "run" / "vassals").iterdir()] == ["blog.1.ini"]
    revision = serving.put(serving.document("blog", 1, "demo-1", generation=3))
    assert serving.reported("blog", revision)["generation"] == 3


def test_a_first_generation_that_fails_is_never_routed(serving: Node) -> None:
    serving.release("demo-2", BROKEN)
    revision = serving.put(serving.document("blog", 1, "demo-2"))
    report = serving.reported("blog", revision, "failed")
    assert "this release is broken" in report["log"]
    assert serving.get("blog.localhost")[0] == 404
    assert list((serving.home / "run" / "vassals").iterdir()) == []
    other = serving.put(serving.document("other", 2, "demo-1"))
    serving.reported("other", other)
    revision = serving.put(serving.document("blog", 1, "demo-1", generation=2))
    serving.reported("blog", revision)


def test_a_newer_generation_ends_the_wait_for_a_hanging_one(serving: Node) -> None:
    serving.release("demo-2", "import time; time.sleep(50)\n")
    serving.reported("blog", serving.put(serving.document("blog", 1, "demo-1")))
    serving.put(serving.document("blog", 1, "demo-2", generation=2))
    wait_until(lambda: (serving.home / "run" / "sites" / "blog" / "2.sock").exists())
    revision = serving.put(serving.document("blog", 1, "demo-1", generation=3))
    assert serving.reported("blog", revision, seconds=10)["generation"] == 3


def test_sites_that_hang_while_they_start_do_not_hold_up_others(serving: Node) -> None:
    serving.release("hang-1", "import time; time.sleep(50)\n")
    count = 2 * (os.cpu_count() or 1)
    for number in range(1, count + 1):
        serving.put(serving.document(f"hang{number}", number, "hang-1"))
    revision = serving.put(serving.document("blog", count + 1, "demo-1"))
    serving.reported("blog", revision, seconds=20)


def test_a_removed_site_leaves_only_its_data(serving: Node) -> None:
    serving.reported("blog", serving.put(serving.document("blog", 1, "demo-1")))
    pid = serving.page("blog.localhost")["pid"]
    (serving.home / "data" / "blog" / "media" / "kept.txt").write_text("kept")
    revision = serving.put({"slug": "blog", "present": False})
    serving.reported("blog", revision, "absent")
    assert serving.get("blog.localhost")[0] == 404
    assert not (serving.home / "run" / "sites" / "blog").exists()
    assert not os.path.exists(f"/proc/{pid}")
    assert (serving.home / "data" / "blog" / "media" / "kept.txt").read_text() == "kept"
    assert list((serving.home / "run" / "vassals").iterdir()) == []


def test_the_agent_starts_again_and_changes_nothing_that_is_right(serving: Node) -> None:
    for number in (1, 2, 3):
        serving.reported(f"s{number}", serving.put(serving.document(f"s{number}", number, "demo-1")))
    pids = [serving.page(f"s{n}.localhost")["pid"] for n in (1, 2, 3)]
    serving.stop("agent", signal.SIGKILL)
    before = listing(serving.home / "run")
    serving.sql("TRUNCATE agent_v1.received")
    serving.start_agent()
    for number in (1, 2, 3):
        serving.reported(f"s{number}", number)
    assert listing(serving.home / "run") == before
    assert [serving.page(f"s{n}.localhost")["pid"] for n in (1, 2, 3)] == pids


def listing(directory: Path) -> dict[str, tuple[int, int]]:
    return {
        str(p): (p.lstat().st_ino, p.lstat().st_mtime_ns)
        for p in sorted(directory.rglob("*"))
        if not p.is_dir() and "nginx-tmp" not in str(p)
    }


def test_a_change_that_was_not_announced_is_found_by_polling(serving: Node) -> None:
    revision = serving.put(serving.document("blog", 1, "demo-1"), quiet=True)
    serving.reported("blog", revision, seconds=15)


def test_changes_made_while_the_agent_was_away_are_caught_up(serving: Node) -> None:
    serving.reported("one", serving.put(serving.document("one", 1, "demo-1")))
    serving.reported("two", serving.put(serving.document("two", 2, "demo-1")))
    head = serving.home / "state" / "head.json"
    wait_until(lambda: head.exists() and json.loads(head.read_text())["revision"] >= 2)
    serving.stop("agent")
    gone = serving.put({"slug": "one", "present": False})
    new = serving.put(serving.document("three", 3, "demo-1"))
    serving.start_agent()
    serving.reported("one", gone, "absent")
    serving.reported("three", new)


def test_exec_runs_in_the_sites_environment(serving: Node) -> None:
    serving.reported("blog", serving.put(serving.document("blog", 7, "demo-1")))
    command = serving.python("exec", "--config", str(serving.config), "blog", "--")
    done = subprocess.run([*command, "manage.py", "check", "--deploy"], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    uid = 1_900_020_007 if AS_ROOT else os.getuid()
    assert done.stdout == f"blog {uid} {serving.home}/releases/demo-1/src ['check', '--deploy']\n"
    assert subprocess.run([*command, "manage.py", "exit", "7"], capture_output=True, timeout=30).returncode == 7
    shell = subprocess.run([*command, "sh", "-c", "cat; echo $HOME"], input=b"typed\n", capture_output=True, timeout=30)
    assert shell.stdout.decode() == f"typed\n{serving.home}/data/blog/home\n"
    missing = serving.python("exec", "--config", str(serving.config), "nobody", "--", "true")
    assert subprocess.run(missing, capture_output=True, timeout=30).returncode == 1
    wrong = serving.python("exec", "--config", str(serving.config), "../etc", "--", "true")
    assert subprocess.run(wrong, capture_output=True, timeout=30).returncode == 2


WARMED = """
import os, threading, time
here = os.environ["TMPDIR"]
niceness = os.getpriority(os.PRIO_PROCESS, 0)
open(f"{here}/loading.{os.getpid()}", "w").write(str(niceness))
while not os.path.exists(f"{here}/go"):
    time.sleep(0.01)
def application(environ, start_response):
    with open(f"{here}/asked", "a") as file:
        file.write(f"{environ['PATH_INFO']} {os.getpid()} {threading.get_native_id()}\\n")
    body = f"{os.getpriority(os.PRIO_PROCESS, threading.get_native_id())}".encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""


def test_every_thread_is_warm_before_visitors_come_and_loading_takes_second_place(serving: Node) -> None:
    serving.release("warmed-1", WARMED)
    document = serving.document("blog", 1, "warmed-1", processes=2, threads=3, warm_paths=["/warm", "/warmer"])
    revision = serving.put(document)
    temporary = serving.home / "data" / "blog" / "tmp"
    wait_until(lambda: len([path for path in temporary.glob("loading.*") if path.read_text()]) == 2)
    loading = {int(path.read_text()) for path in temporary.glob("loading.*")}
    shares = share_of(serving, "blog.1")
    (temporary / "go").touch()
    serving.reported("blog", revision)
    asked = [line.split() for line in (temporary / "asked").read_text().splitlines()]
    for path in ("/", "/warm", "/warmer"):
        assert len({tuple(who) for which, *who in asked if which == path}) == 6, asked
    normal = os.getpriority(os.PRIO_PROCESS, 0)
    if shares is not None:
        assert share_of(serving, "blog.1") == pytest.approx(10 * shares, rel=0.05)
    else:
        assert loading == {min(normal + LOADING_NICENESS, 19) if AS_ROOT else normal}
    assert {serving.get("blog.localhost")[2] for _ in range(12)} == {str(normal).encode()}


def test_what_loads_beside_a_generation_that_serves_gives_way_to_everything(serving: Node) -> None:
    temporary = serve_before_warmed(serving)
    groups = idle_groups(serving)
    revision = serving.put(serving.document("blog", 1, "warmed-1", generation=2, processes=2, threads=2))
    among = Path(groups["cpu"]) / "blog.2"
    place = Path(groups[ASIDE]) / "blog.2" if ASIDE in groups else among
    wait_until(lambda: len(members(place)) == 3, what="the master and both workers load aside")
    assert ((place.parent if ASIDE in groups else place) / "cpu.idle").read_text() == "1\n"
    wait_until(lambda: len(members(among)) == 3 and (among / "cpu.idle").read_text() == "0\n", seconds=6)
    usual = share_of(serving, "blog.1")
    assert usual is not None
    assert share_of(serving, "blog.2") == pytest.approx(usual // 10, rel=0.05), "after three seconds"
    (temporary / "go").touch()
    serving.reported("blog", revision)
    assert share_of(serving, "blog.2") == usual
    assert len(members(among)) == 3
    assert place == among or not place.exists()


def test_what_loads_while_somebody_visits_the_node_is_bounded(serving: Node) -> None:
    temporary = serve_before_warmed(serving)
    groups = idle_groups(serving)
    log = serving.home / "logs" / "access.log"
    wait_until(log.exists)
    for generation, visited in enumerate((False, True), start=2):
        long_ago = time.time() - 2 * VISITED_SECONDS
        if visited:
            serving.get("blog.localhost")
            wait_until(lambda before=long_ago: log.stat().st_mtime > before + VISITED_SECONDS)
        else:
            os.utime(log, (long_ago, long_ago))
        (temporary / "go").unlink(missing_ok=True)
        revision = serving.put(serving.document("blog", 1, "warmed-1", generation=generation, processes=2, threads=2))
        among = Path(groups["cpu"]) / f"blog.{generation}"
        place = Path(groups[ASIDE]) / f"blog.{generation}" if ASIDE in groups else among
        wait_until(lambda place=place: len(members(place)) == 3)
        assert bound_of(place) == (PERIOD_US * processor_bound() // 100 if visited else None)
        (temporary / "go").touch()
        serving.reported("blog", revision)
        assert bound_of(among) is None


def serve_before_warmed(node: Node) -> Path:
    """The site serves, and the release that loads until it is told to go is there; return where it is told."""
    node.release("warmed-1", WARMED)
    temporary = node.home / "data" / "blog" / "tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    node.reported("blog", node.put(node.document("blog", 1, "demo-1")))
    return temporary


def idle_groups(node: Node) -> dict[str, str]:
    """The node's control groups, once a site is there; skips where none gives way."""
    groups = find_groups(str(node.home))
    if not AS_ROOT or not has_idle_groups(groups):
        pytest.skip("this machine has no control groups that give way")
    return groups


def bound_of(group: Path) -> int | None:
    """How much of the processor a control group gets at most, in microseconds of each period; None: no bound."""
    for name in ("cpu.cfs_quota_us", "cpu.max"):
        if (group / name).exists():
            quota = (group / name).read_text().split()[0]
            return int(quota) if quota not in ("-1", "max") else None
    raise AssertionError(f"{group} has no bound")


def test_what_gets_a_tenth_of_a_processor_needs_no_share_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "blog.1").mkdir()
    questions = Questions(HealthRequest(tmp_path / "none", "blog.localhost", 80, "/"), "blog.1", {"cpu": str(tmp_path)})
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        try:
            (tmp_path / "blog.1" / "cgroup.procs").write_text(f"{busy.pid}\n")
            questions.has_got_on()
            time.sleep(1)
            assert questions.has_got_on()
            busy.send_signal(signal.SIGSTOP)
            time.sleep(0.1)
            questions.has_got_on()
            time.sleep(0.3)
            assert not questions.has_got_on()
        finally:
            busy.kill()


def test_what_ends_gives_way_to_everything(serving: Node) -> None:
    serving.release("slow-1", f"import atexit, time\natexit.register(time.sleep, 3)\n{APPLICATION}")
    serving.reported("blog", serving.put(serving.document("blog", 1, "slow-1", processes=2)))
    groups = idle_groups(serving)
    among = Path(groups["cpu"]) / "blog.1"
    place = Path(groups[ASIDE]) / "blog.1" if ASIDE in groups else among
    assert len(members(among)) == 3
    serving.reported("blog", serving.put(serving.document("blog", 1, "demo-1", generation=2)))
    vassal = serving.home / "run" / "vassals" / "blog.1.ini"
    wait_until(lambda: not vassal.exists(), what="nobody waits for its answers")
    assert len(members(place)) == 3, "the master and both workers end"
    assert ((place.parent if ASIDE in groups else place) / "cpu.idle").read_text() == "1\n"
    wait_until(lambda: not members(place))


def members(group: Path) -> list[str]:
    """The processes in a control group."""
    return (group / "cgroup.procs").read_text().split() if group.exists() else []


LEAVING = """
import atexit, os, threading, time
here = os.environ["TMPDIR"]
def say(what):
    with open(f"{here}/left", "a") as file:
        file.write(f"{what} {os.getpid()}\\n")
atexit.register(say, "atexit")
held = open(f"{here}/held", "w")
held.write("written")
if os.environ.get("TENANTRY_SITE"):
    import uwsgi
    uwsgi.atexit = lambda: say("uwsgi.atexit")
    say(f"quick: {'skip-atexit-teardown' in uwsgi.opt}")
def work():
    while threading.main_thread().is_alive():
        time.sleep(0.05)
    say("thread")
started = []
def application(environ, start_response):
    if not started:
        started.append(threading.Thread(target=work))
        started[0].start()
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""


def said_at_the_end(node: Node) -> list[str]:
    """Have a worker of the release `leaving-1` end; return what it said."""
    node.reported("blog", node.put(node.document("blog", 1, "leaving-1", processes=1, threads=1)))
    node.reported("blog", node.put(node.document("blog", 1, "demo-1", generation=2)))
    left = node.home / "data" / "blog" / "tmp" / "left"
    wait_until(lambda: left.exists() and "atexit" in left.read_text().split())
    return [line.rpartition(" ")[0] for line in left.read_text().splitlines()]


def test_a_worker_that_ends_does_what_python_does_but_for_taking_everything_apart(serving: Node) -> None:
    serving.release("leaving-1", LEAVING)
    assert said_at_the_end(serving) == ["quick: True", "uwsgi.atexit", "thread", "atexit"]
    held = serving.home / "data" / "blog" / "tmp" / "held"
    wait_until(lambda: held.read_text() == "written")


def test_a_library_that_knows_nothing_of_the_end_leaves_it_to_python(serving: Node) -> None:
    serving.release("leaving-1", LEAVING)
    packages = next((serving.home / "releases/leaving-1/venv/lib").glob("python*/site-packages"))
    library = shutil.copytree(Path(django_tenantry.__file__).parent, packages / "django_tenantry")
    (library / "leaving.py").unlink()
    text = (library / "wsgi.py").read_text()
    (library / "wsgi.py").write_text("\n".join(line for line in text.splitlines() if "leav" not in line))
    assert said_at_the_end(serving) == ["quick: False", "uwsgi.atexit", "thread", "atexit"]


@pytest.mark.skipif(not AS_ROOT, reason="control groups are root's")
def test_a_generation_that_serves_and_was_left_behind_is_brought_forward(serving: Node) -> None:
    serving.reported("blog", serving.put(serving.document("blog", 1, "demo-1")))
    groups = find_groups(str(serving.home))
    if not has_idle_groups(groups):
        pytest.skip("this machine has no control groups that give way")
    among = Path(groups["cpu"]) / "blog.1"
    usual, master = share_of(serving, "blog.1"), members(among)
    serving.stop("agent")
    if ASIDE in groups:
        aside = Path(groups[ASIDE]) / "blog.1"
        aside.mkdir(parents=True)
        for pid in master:
            (aside / "cgroup.procs").write_text(pid)
    set_share(str(among), 10)
    serving.start_agent()
    wait_until(lambda: sorted(members(among)) == sorted(master) and share_of(serving, "blog.1") == usual)
    assert ASIDE not in groups or not aside.exists()


def share_of(node: Node, generation: str) -> int | None:
    """The share of the processor that a generation's control group has; None where there are no such groups."""
    group = Path(find_groups(str(node.home)).get("cpu", "/nowhere")) / generation
    return next((int((group / name).read_text()) for name, _ in CPU_SHARES if (group / name).exists()), None)
