"""Every kind of drift on a node of real parts: it is found, it is repaired, and visitors are served again."""

import asyncio
import json
import os
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from node_lab import AS_ROOT, Node, wait_until

from tenantry.node.config import read_config
from tenantry.node.effects.emperor import ask_emperor
from tenantry.node.effects.host import LocalHost
from tenantry.node.effects.nginx import Nginx
from tenantry.node.integrity import Drift
from tenantry.node.planner import is_serving, plan_site
from tenantry.node.render import uwsgi
from tenantry.node.render.uwsgi import render_unnoted_vassal
from tenantry.spec.names import Slug
from tenantry.spec.sites import Mode, SiteSpec

BLOG, SHOP = Slug("blog"), Slug("shop")
ROUNDS = 6


class Kept:
    """A node without an agent: the tests look, plan and apply themselves."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.home = node.home
        self.host = LocalHost(read_config(node.config))
        self.specs = {
            slug: SiteSpec.from_document(node.document(slug, number, "demo-1") | {"revision": 1})
            for number, slug in enumerate((BLOG, SHOP), 1)
        }
        node.release("demo-1")
        node.start_standby()
        node.start_nginx()
        node.start_emperor()
        self.host.scan()
        for slug in self.specs:
            self.converge(slug)

    def converge(self, slug: Slug) -> list[str]:
        """Plan and apply until nothing is left to do; returns the names of the actions."""
        spec, done = self.specs[slug], []
        for _ in range(ROUNDS):
            observed = self.host.observe(slug, spec)
            plan = plan_site(spec, observed)
            if not plan.actions:
                assert is_serving(spec, observed)
                return done
            for action in plan.actions:
                asyncio.run(self.host.apply(action, spec))
                done.append(str(action))
        raise AssertionError(f"{slug} does not come to rest: {plan}")

    def sites(self) -> list[Drift]:
        return [drift for slug, spec in self.specs.items() for drift in self.host.examine(slug, spec)]

    def own(self) -> tuple[Drift, ...]:
        return asyncio.run(self.host.examine_node())

    def found(self) -> dict[tuple[str, str], str]:
        return {(drift.kind, drift.path): drift.detail for drift in [*self.sites(), *self.own()]}

    def repair(self) -> list[str]:
        """One round of what the agent does; returns what was done to sites."""
        drifts = self.own()
        if drifts:
            asyncio.run(self.host.repair_node(drifts))
        return [action for slug in self.specs for action in self.converge(slug)]

    def pid(self, slug: Slug = BLOG) -> int:
        return int(self.node.page(f"{slug}.localhost")["pid"])

    def site(self) -> Path:
        return self.home / "run/sites/blog"


@pytest.fixture(scope="module")
def shared(postgres: object) -> Iterator[Kept]:
    node = Node(postgres)  # type: ignore[arg-type]
    try:
        node.prepare()
        yield Kept(node)
    finally:
        node.close()


@pytest.fixture
def kept(shared: Kept) -> Iterator[Kept]:
    """The node as it should be, before and after."""
    wait_until(lambda: not shared.found(), 10, "a node without drift")
    yield shared
    shared.repair()


# Mutations, below the home


def delete(path: Path) -> None:
    path.unlink()


def truncate(path: Path) -> None:
    os.truncate(path, 0)


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"\n# by hand\n")


def edit_keeping_the_time(path: Path) -> None:
    """The same length, the same mtime: only the ctime tells."""
    state = path.stat()
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    with path.open("r+b") as file:
        file.write(content)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert path.stat().st_size == state.st_size


def to_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "inside").write_text("x")


def to_link(path: Path) -> None:
    path.rename(path.parent.parent / f"moved-{path.name}")
    path.symlink_to(f"../moved-{path.name}")


def to_file(path: Path) -> None:
    path.unlink()
    path.write_text("x")


def to_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def open_to_all(path: Path) -> None:
    path.chmod(path.lstat().st_mode & 0o7000 | 0o777)


def give_away(path: Path) -> None:
    os.chown(path, 12345, 12345, follow_symlinks=False)


def point_elsewhere(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc")


def create_file(path: Path) -> None:
    path.write_text("x")


def create_directory(path: Path) -> None:
    (path / "deep/er").mkdir(parents=True)
    (path / "deep/er/link").symlink_to("/etc")


def create_link(path: Path) -> None:
    path.symlink_to("/etc/passwd")


DOCUMENT, VASSAL = "run/sites/blog/site.1.json", "run/vassals/blog.1.ini"
HOST = "run/hosts/blog.localhost"
Mutation = Callable[[Path], None]
SITE_MUTATIONS: list[tuple[Mutation, str, str]] = [
    *(
        (change, DOCUMENT, "file")
        for change in (delete, truncate, append, edit_keeping_the_time, to_directory, to_pipe)
    ),
    (to_link, DOCUMENT, "file"),
    (open_to_all, DOCUMENT, "mode"),
    (append, VASSAL, "file"),
    (edit_keeping_the_time, VASSAL, "file"),
    (truncate, VASSAL, "file"),
    (open_to_all, VASSAL, "mode"),
    *((change, "run/sites/blog/app.sock", "link") for change in (delete, to_directory, to_file, point_elsewhere)),
    *((change, "run/sites/blog/static", "link") for change in (delete, to_directory, to_file, point_elsewhere)),
    *((change, "run/sites/blog/media", "link") for change in (delete, to_directory, to_file, point_elsewhere)),
    *((change, HOST, "link") for change in (delete, to_directory, to_file, point_elsewhere)),
    (open_to_all, "run/sites/blog", "mode"),
    (open_to_all, "run/sites/blog/1.sock", "mode"),
    (open_to_all, "data/blog", "mode"),
    (open_to_all, "data/blog/media", "mode"),
    (open_to_all, "data/blog/home", "mode"),
    (open_to_all, "logs/sites/blog.log", "mode"),
    (create_file, "run/sites/blog/evil", "file"),
    (create_file, "run/sites/blog/.x.1.new", "file"),
    (create_directory, "run/sites/blog/evil", "file"),
    (create_link, "run/sites/blog/evil", "file"),
    (create_file, "run/sites/blog/mode.maintenance", "file"),
    (create_directory, "run/sites/blog/mode.readonly", "file"),
]
OWNED = [DOCUMENT, VASSAL, "run/sites/blog", "run/sites/blog/1.sock", "data/blog", "data/blog/media", "data/blog/tmp"]
NODE_MUTATIONS: list[tuple[Mutation, str, str]] = [
    *((change, "etc/emperor.ini", "file") for change in (delete, append, edit_keeping_the_time, to_directory)),
    *((change, "etc/vassal", "file") for change in (delete, append, truncate)),
    (open_to_all, "etc/vassal", "mode"),
    *((change, "etc/nginx.conf", "file") for change in (delete, append, to_directory)),
    *((open_to_all, f"run/{name}", "mode") for name in ("hosts", "sites", "vassals", "emperor.sock")),
    (open_to_all, "state", "mode"),
    (open_to_all, "state/prepared.json", "mode"),
    (open_to_all, "state/written/blog.json", "mode"),
    (create_file, "run/vassals/evil.ini", "vassal"),
    (create_file, "run/vassals/evil.1.ini", "vassal"),
    (create_file, "run/vassals/evil.yaml", "vassal"),
    (create_directory, "run/vassals/evil", "vassal"),
    (create_file, "run/hosts/evil.localhost", "file"),
    (create_directory, "run/hosts/evil.localhost", "directory"),
    (create_link, "run/hosts/evil.localhost", "link"),
    (create_file, "run/sites/Evil!", "file"),
    (create_directory, "run/sites/_evil", "directory"),
    (delete, "run/nginx.pid", "file"),
    (append, "run/nginx.pid", "file"),
]


def name_of(case: object) -> str:
    return getattr(case, "__name__", str(case))


@pytest.mark.parametrize(("mutate", "path", "kind"), SITE_MUTATIONS, ids=name_of)
def test_a_changed_site_is_found_and_put_right(kept: Kept, mutate: Mutation, path: str, kind: str) -> None:
    before = state_of(kept.home)
    mutate(kept.home / path)
    drifts = [(drift.slug, drift.kind, drift.path) for drift in kept.sites()]
    assert (BLOG, kind, path) in drifts
    assert {slug for slug, _, _ in drifts} == {BLOG}
    actions = kept.repair()
    assert actions
    wait_until(lambda: not kept.found(), 15, "no drift")
    assert kept.repair() == []
    assert state_of(kept.home) == before
    assert kept.node.page("blog.localhost")["site"] == "blog"
    assert kept.node.get("blog.localhost", "/static/style.css")[0] == 200


@pytest.mark.skipif(not AS_ROOT, reason="only root can give files away")
@pytest.mark.parametrize("path", OWNED)
def test_a_change_of_owner_is_found_and_put_right(kept: Kept, path: str) -> None:
    before, pid = state_of(kept.home), kept.pid()
    give_away(kept.home / path)
    assert (BLOG, "owner", path) in [(drift.slug, drift.kind, drift.path) for drift in kept.sites()]
    kept.repair()
    assert kept.found() == {}
    assert state_of(kept.home) == before
    assert kept.pid() == pid


@pytest.mark.parametrize(("mutate", "path", "kind"), NODE_MUTATIONS, ids=name_of)
def test_a_change_beside_the_sites_is_found_and_put_right(kept: Kept, mutate: Mutation, path: str, kind: str) -> None:
    before, pid = state_of(kept.home), kept.pid()
    mutate(kept.home / path)
    assert (kind, path) in kept.found()
    assert kept.repair() == []
    wait_until(lambda: not kept.found(), 15, "no drift")
    assert state_of(kept.home) == before
    assert kept.pid() == pid


def state_of(home: Path, *tops: str) -> dict[str, tuple[int, ...] | str]:
    """What the agent is responsible for: type, mode and owner of everything, links' targets."""
    found: dict[str, tuple[int, ...] | str] = {}
    for top in tops or ("run", "etc", "state", "data"):
        for path in [home / top, *sorted((home / top).rglob("*"))]:
            state = path.lstat()
            name = str(path.relative_to(home))
            if name.startswith("run/nginx-tmp/") or "moved-" in name:
                continue
            shape = (stat.S_IFMT(state.st_mode), stat.S_IMODE(state.st_mode), state.st_uid, state.st_gid)
            found[name] = os.readlink(path) if path.is_symlink() else shape
    return found


def test_an_untouched_node_has_no_drift_and_nothing_is_done(kept: Kept) -> None:
    before = {path: path.lstat().st_ctime_ns for path in (kept.home / "run").rglob("*") if "nginx-tmp" not in str(path)}
    assert kept.found() == {}
    assert kept.repair() == []
    assert before == {path: path.lstat().st_ctime_ns for path in before}


def test_a_hostname_that_leads_to_another_site_is_led_back(kept: Kept) -> None:
    link = kept.home / HOST
    link.unlink()
    link.symlink_to("../sites/shop")
    assert kept.node.page("blog.localhost")["site"] == "shop"
    details = {(drift.slug, drift.kind, drift.path) for drift in kept.sites()}
    assert details == {(BLOG, "link", HOST), (SHOP, "link", HOST)}
    kept.repair()
    assert kept.node.page("blog.localhost")["site"] == "blog"
    assert kept.found() == {}


def test_a_socket_moved_in_from_another_site_is_noticed(kept: Kept) -> None:
    """Under its path the kernel still sees the listener; the file says that it is another's."""
    (kept.home / "run/sites/shop/1.sock").rename(kept.site() / "1.sock")
    assert kept.node.page("blog.localhost")["site"] == "shop"
    found = {drift.path: drift.detail for drift in kept.sites()}
    assert "is not the socket" in found["run/sites/blog/1.sock"]
    assert found["run/sites/shop/1.sock"] == "is gone"
    kept.repair()
    assert kept.pid() != kept.pid(SHOP)
    assert [kept.node.page(f"{slug}.localhost")["site"] for slug in kept.specs] == ["blog", "shop"]


@pytest.mark.parametrize("mutate", [delete, to_directory, to_file])
def test_a_socket_that_is_gone_costs_a_new_process_of_the_same_generation(kept: Kept, mutate: Mutation) -> None:
    pid = kept.pid()
    mutate(kept.site() / "1.sock")
    assert kept.node.get("blog.localhost")[0] == 503
    assert ("socket", "run/sites/blog/1.sock") in kept.found()
    began = time.monotonic()
    assert kept.repair() == ["RestoreSocket blog 1", "AwaitReady blog 1"]
    print(f"a socket that was gone: served again after {time.monotonic() - began:.2f} s")
    assert kept.pid() != pid
    assert [path.name for path in (kept.home / "run/vassals").glob("blog*")] == ["blog.1.ini"]


def test_a_request_that_was_being_answered_when_the_socket_went_is_answered(kept: Kept) -> None:
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(kept.node.get, "blog.localhost", "/slow?2")
        time.sleep(0.3)
        (kept.site() / "1.sock").unlink()
        kept.repair()
        assert slow.result()[0] == 200
    assert kept.node.get("blog.localhost")[0] == 200


def test_the_site_directory_replaced_by_a_link_to_another_sites(kept: Kept) -> None:
    shutil.rmtree(kept.site())
    kept.site().symlink_to("shop")
    assert kept.node.page("blog.localhost")["site"] == "shop"
    assert ("directory", "run/sites/blog") in kept.found()
    kept.repair()
    assert kept.node.page("blog.localhost")["site"] == "blog"
    assert kept.node.page("shop.localhost")["site"] == "shop"


@pytest.mark.parametrize("name", ["hosts", "sites", "vassals"])
def test_a_directory_of_the_routing_table_that_is_gone_comes_back(kept: Kept, name: str) -> None:
    shutil.rmtree(kept.home / "run" / name)
    assert ("directory", f"run/{name}") in kept.found()
    kept.repair()
    wait_until(lambda: not kept.found(), 20, "no drift")
    for slug in kept.specs:
        assert kept.node.page(f"{slug}.localhost")["site"] == slug


def test_what_stood_in_the_place_of_uploads_is_kept(kept: Kept) -> None:
    """A link there would show another site's files; and what a tenant stored is never deleted."""
    media = kept.home / "data/blog/media"
    (media / "photo").write_text("mine")
    media.rename(kept.home / "data/shop/media/moved")
    media.symlink_to(kept.home / "data/shop/media")
    assert ("directory", "data/blog/media") in kept.found()
    kept.repair()
    assert media.is_dir()
    assert not media.is_symlink()
    assert (kept.home / "data/blog/media.displaced-1").is_symlink()
    assert (kept.home / "data/shop/media/moved/photo").read_text() == "mine"
    (kept.home / "data/blog/media.displaced-1").unlink()


def test_nothing_is_written_through_a_tenants_link(kept: Kept) -> None:
    """The tenant owns what is below media; root's hands stay out of it."""
    outside = kept.home / "outside"
    outside.mkdir(mode=0o755)
    (kept.home / "data/blog/media/trap").symlink_to(outside)
    (kept.home / "data/blog/media").chmod(0o777)
    kept.repair()
    state = outside.stat()
    assert (stat.S_IMODE(state.st_mode), state.st_uid) == (0o755, os.geteuid())
    (kept.home / "data/blog/media/trap").unlink()


# The emperor


def is_new(kept: Kept, pid: int) -> bool:
    """Whether another process than `pid` answers for blog."""
    status, _, body = kept.node.get("blog.localhost")
    return status == 200 and json.loads(body)["pid"] != pid


def touch_newer(kept: Kept, newest: float = 0.0) -> None:
    """Make the emperor start the process of blog's ini anew."""
    path = kept.home / VASSAL
    soon = max(newest, path.stat().st_mtime, time.time()) + 2
    os.utime(path, (soon, soon))
    asyncio.run(ask_emperor(kept.home / "run/emperor.sock"))


def test_a_killed_process_is_back(kept: Kept) -> None:
    pid, emperor = kept.pid(), kept.node.processes["emperor"]
    master = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    emperor.send_signal(signal.SIGSTOP)
    os.kill(master, signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: [(drift.kind, drift.path) for drift in kept.sites()] == [("vassal", VASSAL)], 5)
    emperor.send_signal(signal.SIGCONT)
    kept.repair()
    assert kept.pid() != pid


def test_an_ini_that_is_gone_comes_back_with_a_new_process(kept: Kept) -> None:
    (kept.home / VASSAL).unlink()
    assert ("file", VASSAL) in kept.found()
    kept.repair()
    wait_until(lambda: not kept.found(), 20)
    wait_until(lambda: kept.node.get("blog.localhost")[0] == 200, 20)


def test_an_ini_edited_and_read_by_the_emperor_costs_a_new_process(kept: Kept) -> None:
    """The process runs from the changed text: a file that reads right again proves nothing about it."""
    path, pid, newest = kept.home / VASSAL, kept.pid(), (kept.home / VASSAL).stat().st_mtime
    path.write_text(path.read_text().replace("threads = 1", "threads = 3"))
    touch_newer(kept, newest)
    wait_until(lambda: is_new(kept, pid), 20, "the changed process")
    changed = kept.pid()
    kept.repair()
    wait_until(lambda: not kept.found(), 20)
    wait_until(lambda: is_new(kept, changed), 20, "a new process")


def test_an_ini_edited_and_put_back_with_its_old_time_is_seen_through_the_emperors_list(kept: Kept) -> None:
    path, pid = kept.home / VASSAL, kept.pid()
    before, state = path.read_bytes(), path.stat()
    newest = state.st_mtime
    path.write_bytes(before.replace(b"threads = 1", b"threads = 3"))
    touch_newer(kept, newest)
    wait_until(lambda: is_new(kept, pid), 20, "the changed process")
    changed = kept.pid()
    path.write_bytes(before)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert kept.sites() == []
    assert kept.found()["vassal", VASSAL] == "its process was started from another text of it"
    kept.repair()
    wait_until(lambda: is_new(kept, changed), 20, "a new process")


def test_an_older_time_alone_is_put_right_and_no_visitor_notices(kept: Kept) -> None:
    path, pid, before = kept.home / VASSAL, kept.pid(), (kept.home / VASSAL).stat().st_mtime_ns
    os.utime(path, (1_000_000_000, 1_000_000_000))
    assert kept.sites() == []
    assert "set back" in kept.found()["vassal", VASSAL]
    kept.repair()
    assert path.stat().st_mtime_ns == before
    assert kept.pid() == pid


def test_a_newer_time_alone_is_no_drift(kept: Kept) -> None:
    path = kept.home / VASSAL
    soon = time.time() + 60
    os.utime(path, (soon, soon))
    assert kept.sites() == []
    wait_until(lambda: not kept.found(), 20)
    wait_until(lambda: kept.node.get("blog.localhost")[0] == 200, 20)  # the emperor takes it for a new text
    path.write_text("[uwsgi]\n")  # and the next repair must be later than that
    kept.repair()
    wait_until(lambda: not kept.found(), 20)


def test_a_process_started_with_a_changed_document_is_started_anew(kept: Kept) -> None:
    document = kept.home / DOCUMENT
    document.write_text(document.read_text().replace('"TENANTRY_SITE":"blog"', '"TENANTRY_SITE":"evil"'))
    document.chmod(0o600)
    pid = kept.pid()
    touch_newer(kept)
    wait_until(lambda: is_new(kept, pid), 20)
    assert kept.node.page("blog.localhost")["site"] == "evil"
    kept.repair()
    assert kept.node.page("blog.localhost")["site"] == "blog"


# nginx


def test_an_nginx_that_runs_with_another_configuration_is_noticed_and_reloaded(kept: Kept) -> None:
    config = kept.home / "etc/nginx.conf"
    right = config.read_text()
    config.write_text(right.replace("keepalive_requests 100000", "keepalive_requests 7").replace("/revision", "/other"))
    os.kill(kept.node.processes["nginx"].pid, signal.SIGHUP)
    wait_until(lambda: kept.node.get("_status", "/revision")[0] == 404, 10)
    config.write_text(right)
    # For moments the workers of before answer, too.
    wait_until(lambda: ("nginx", "etc/nginx.conf") in kept.found(), 10, "the check to notice")
    kept.repair()
    wait_until(lambda: kept.found() == {}, 10, "the repair")
    assert kept.node.get("_status", "/revision")[0] == 200


def test_no_foreign_process_is_told_to_reload(kept: Kept) -> None:
    sleeper = subprocess.Popen(["sleep", "60"])
    try:
        (kept.home / "run/nginx.pid").write_text(f"{sleeper.pid}\n")
        assert ("file", "run/nginx.pid") in kept.found()
        asyncio.run(
            Nginx(read_config(kept.node.config)).reload(kept.node.get("_status", "/revision")[2].decode().strip())
        )
        kept.repair()
        assert (kept.home / "run/nginx.pid").read_text() == f"{kept.node.processes['nginx'].pid}\n"
        assert sleeper.poll() is None
    finally:
        sleeper.kill()
        sleeper.wait()


def test_a_draining_node_says_that_it_is_not_ready_and_serves(kept: Kept) -> None:
    path = "/.tenantry/ready"
    for host in ("_status", "127.0.0.1", "nobody.example"):
        assert kept.node.get(host, path)[::2] == (200, b"ready\n")
    asyncio.run(kept.host.set_draining(True))
    for host in ("_status", "127.0.0.1", "nobody.example"):
        assert kept.node.get(host, path)[::2] == (503, b"draining\n")
    answer = kept.node.raw(f"GET {path} HTTP/1.0\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert kept.node.page("blog.localhost")["site"] == "blog"
    assert kept.node.page("blog.localhost", path)["path"] == path  # under a site's name the path is the site's
    (kept.home / "run/draining").unlink()
    assert ("file", "run/draining") in kept.found()
    kept.repair()
    assert kept.node.get("_status", path)[0] == 503
    asyncio.run(kept.host.set_draining(False))
    assert kept.node.get("_status", path)[0] == 200
    (kept.home / "run/draining").touch()
    assert ("file", "run/draining") in kept.found()
    kept.repair()
    assert kept.node.get("_status", path)[0] == 200


def test_visitors_are_the_requests_being_served(kept: Kept) -> None:
    assert asyncio.run(kept.host.visitors()) == 0
    with ThreadPoolExecutor(2) as pool:
        slow = [pool.submit(kept.node.get, host, "/slow?1") for host in ("blog.localhost", "shop.localhost")]
        wait_until(lambda: asyncio.run(kept.host.visitors()) == 2, 5)
        assert [answer.result()[0] for answer in slow] == [200, 200]
    wait_until(lambda: asyncio.run(kept.host.visitors()) == 0, 5)


@pytest.mark.parametrize(
    ("mode", "flags", "read", "write"),
    [
        (Mode.LIVE, [], 200, 200),
        (Mode.READ_ONLY, ["mode.json", "mode.readonly"], 200, 503),
        (Mode.MAINTENANCE, ["mode.json", "mode.maintenance"], 503, 503),
        (Mode.PAUSED, ["mode.json", "mode.maintenance"], 503, 503),
    ],
)
def test_a_mode_is_a_flag_and_restarts_nothing(kept: Kept, mode: Mode, flags: list[str], read: int, write: int) -> None:
    pid, before = kept.pid(), kept.specs[BLOG]
    kept.specs[BLOG] = replace(before, mode=mode)
    kept.converge(BLOG)
    assert sorted(path.name for path in kept.site().glob("mode.*")) == flags
    assert kept.node.get("blog.localhost")[0] == read
    assert kept.node.get("blog.localhost", method="POST", body=b"x")[0] == write
    assert kept.sites() == []
    process = kept.home / "run/modes/blog.json"
    assert process.exists() == (mode is not Mode.LIVE)
    for path in [*(kept.site() / name for name in flags), *([process] if process.exists() else [])]:
        place = ("file", str(path.relative_to(kept.home)))
        for damage in (delete, edit_keeping_the_time if path.suffix == ".json" else delete):
            damage(path)
            assert place in kept.found()
            kept.converge(BLOG)
            assert kept.sites() == []
    if mode is Mode.LIVE:
        process.write_text('{"mode": "maintenance"}')
        assert ("file", "run/modes/blog.json") in kept.found()
        kept.converge(BLOG)
        assert not process.exists()
    kept.specs[BLOG] = before
    kept.converge(BLOG)
    assert kept.pid() == pid


@pytest.mark.parametrize(("seconds_ago", "found"), [(0, False), (3600, True), (-3600, True)])
def test_what_is_left_of_a_generation_is_found_though_the_clock_was_set_back(
    kept: Kept, seconds_ago: int, found: bool
) -> None:
    """On a node whose clock was an hour ahead, and is right again, nothing may count as new for an hour."""
    switched, left = kept.site() / "app.sock", kept.site() / "site.2.json"
    before, moment = switched.lstat().st_mtime, time.time() - seconds_ago
    left.write_text("{}")
    os.utime(switched, (moment, moment), follow_symlinks=False)
    later = replace(kept.specs[BLOG], generation=3)  # generation 1 serves, 2 was given up
    drifts = {(drift.path, drift.detail) for drift in kept.host.examine(BLOG, later)}
    left.unlink()
    os.utime(switched, (before, before), follow_symlinks=False)
    assert (("run/sites/blog/site.2.json", "is of a generation that does not serve") in drifts) is found


# Another release of the agent, interrupted writes


def test_a_document_of_a_release_that_noted_nothing_is_written_anew_and_restarts_nothing(kept: Kept) -> None:
    document, note = kept.home / DOCUMENT, kept.home / "state/written/blog.json"
    content, noted, pid = document.read_bytes(), note.read_bytes(), kept.pid()
    note.unlink()
    document.write_text(document.read_text().replace('"TENANTRY_SITE"', '"OLDER":"1","TENANTRY_SITE"'))
    document.chmod(0o600)
    socket = next((kept.home / DOCUMENT).parent.glob("*.sock"))
    soon = time.time() + 60
    os.utime(socket, (soon, soon))  # the process began after the document was written
    younger = LocalHost(read_config(kept.node.config))
    younger.scan()
    assert [drift.kind for drift in younger.examine(BLOG, kept.specs[BLOG])] == ["file"]
    plan = plan_site(kept.specs[BLOG], younger.observe(BLOG, kept.specs[BLOG]))
    assert [type(action).__name__ for action in plan.actions] == ["WriteDocument", "AwaitReady"]
    document.write_bytes(content)
    note.write_bytes(noted)
    note.chmod(0o600)
    assert kept.pid() == pid


def test_what_an_older_agent_wrote_is_no_drift(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    """A release of the agent that renders an ini differently must not restart every site."""
    render = uwsgi.render_vassal
    monkeypatch.setattr(uwsgi, "render_vassal", lambda *a, **k: render(*a, **k) + "vacuum = true\n")
    younger = LocalHost(read_config(kept.node.config))
    younger.scan()
    assert younger.examine(BLOG, kept.specs[BLOG]) == ()
    assert plan_site(kept.specs[BLOG], younger.observe(BLOG, kept.specs[BLOG])).actions == ()
    note = kept.home / "state/written/blog.json"
    content = note.read_bytes()
    note.unlink()  # without it, this is another text
    forgetful = LocalHost(read_config(kept.node.config))
    forgetful.scan()
    assert [drift.path for drift in forgetful.examine(BLOG, kept.specs[BLOG])] == [VASSAL]
    note.write_bytes(content)
    note.chmod(0o600)


def test_an_ini_of_before_notes_were_taken_restarts_nothing_unless_it_was_changed(kept: Kept) -> None:
    note, ini = kept.home / "state/written/blog.json", kept.home / VASSAL
    noted, text, spec = note.read_bytes(), ini.read_text(), kept.specs[BLOG]
    backlog = int(Path("/proc/sys/net/core/somaxconn").read_text())
    written = render_unnoted_vassal(BLOG, 1, processes=spec.processes, threads=spec.threads, backlog=backlog)
    assert written != text
    note.unlink()
    try:
        for content, found in ((written, []), (written + "vacuum = true\n", [VASSAL])):
            ini.write_text(content)
            younger = LocalHost(read_config(kept.node.config))
            younger.scan()
            assert [drift.path for drift in younger.examine(BLOG, spec)] == found
    finally:
        ini.write_text(text)
        note.write_bytes(noted)
        note.chmod(0o600)
    kept.converge(BLOG)


# The running agent

BY_THE_AGENT: list[tuple[Mutation, str, str]] = [
    (append, DOCUMENT, "file"),
    (append, VASSAL, "file"),
    (delete, "run/sites/blog/1.sock", "socket"),
    (delete, "run/sites/blog/app.sock", "link"),
    (point_elsewhere, HOST, "link"),
    (open_to_all, "data/blog/home", "mode"),
    (create_file, "run/sites/blog/mode.maintenance", "file"),
    (create_file, "run/vassals/evil.ini", "vassal"),
    (append, "etc/nginx.conf", "file"),
    (to_directory, "etc/vassal", "file"),
    (open_to_all, "run/hosts", "mode"),
]


@pytest.mark.parametrize(("mutate", "path", "kind"), BY_THE_AGENT, ids=name_of)
def test_the_agent_finds_repairs_and_reports(blog: Node, mutate: Mutation, path: str, kind: str) -> None:
    wait_until(lambda: not open_drift(blog), 20)
    blog.sql("TRUNCATE agent_v1.received")
    before = state_of(blog.home, "run", "etc", "data")
    mutate(blog.home / path)
    blog.sql("""SELECT agent_v1.ask('{"check_repair": true}')""")
    line = wait_until(lambda: repaired(blog, kind, path), 30, f"the report of {path}")
    print(f"{kind} {path}: repaired after {line['took_seconds']:.3f} s")
    wait_until(lambda: state_of(blog.home, "run", "etc", "data") == before, 10)
    wait_until(lambda: blog.get("blog.localhost")[0] == 200, 10)


def lines_of(node: Node) -> list[dict[str, Any]]:
    rows = node.sql("SELECT report->'drift' FROM agent_v1.received WHERE report ? 'drift' ORDER BY number")
    return [line for (lines,) in rows for line in lines or ()]


def repaired(node: Node, kind: str, path: str) -> dict[str, Any] | None:
    lines = [line for line in lines_of(node) if (line["kind"], line["path"]) == (kind, path)]
    return next((line for line in lines if line["repaired_seconds"] is not None), None)


def open_drift(node: Node) -> set[tuple[str, str]]:
    last = {(line["kind"], line["path"]): line for line in lines_of(node)}
    return {key for key, line in last.items() if line["repaired_seconds"] is None}
