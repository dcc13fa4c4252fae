"""Releases on a node: fetched, verified, closed, made to run here, replaced when damaged, removed when unused."""

import asyncio
import contextlib
import datetime
import gzip
import hashlib
import io
import ipaddress
import json
import logging
import os
import pickle
import shutil
import signal
import ssl
import stat
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tenantry.control.releases.artifacts.packing import pack
from tenantry.control.releases.building.freeze import digest_of
from tenantry.interpreters import find_interpreters, reachable_by_others
from tenantry.node.config import Config, ControlAccess
from tenantry.node.effects import manifest, progress, releases, relocation, unpacking
from tenantry.node.effects.releases import Releases
from tenantry.node.errors import NodeError, NotReady, Transient
from tenantry.spec.names import Slug
from tenantry.spec.sites import ReleaseName, ReleaseSpec

AS_ROOT = os.geteuid() == 0
BASE = 1_700_000_000 if AS_ROOT else None
OWNER = BASE + 10_007 if BASE is not None else None
NAME = ReleaseName(Slug("demo"), 1)
INTERPRETER = next((one for one in find_interpreters() if reachable_by_others(one.path)), None)
pytestmark = pytest.mark.skipif(INTERPRETER is None, reason="needs a Python that every user can execute")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Built:
    """A release as a build leaves it, and its archive."""

    directory: Path
    store: Path
    spec: ReleaseSpec

    @property
    def file(self) -> Path:
        return self.store / f"{(self.spec.artifact or '').removeprefix('sha256:')}.tar.gz"


def make_home() -> Path:
    directory = Path(tempfile.mkdtemp(prefix="tnt-rel-", dir="/tmp"))
    directory.chmod(0o711)
    (directory / "state").mkdir()
    (directory / "run/sites").mkdir(parents=True)
    return directory


@pytest.fixture
def home() -> Iterator[Path]:
    directory = make_home()
    yield directory
    shutil.rmtree(directory)


def write_release(directory: Path) -> None:
    assert INTERPRETER is not None
    for name in ("src/app", "static", "venv/bin", "venv/lib/python3.11/site-packages"):
        (directory / name).mkdir(parents=True)
    (directory / "src/manage.py").write_text("print('manage')\n")
    (directory / "src/app/models.py").write_text("x = 1\n")
    (directory / "src/latest").symlink_to("app")
    (directory / "static/app.css").write_text("body {}\n")
    (directory / "venv/bin/python").symlink_to(INTERPRETER.path)
    (directory / "venv/bin/python3").symlink_to("python")
    (directory / "venv/bin/old-script").write_text(f"#!{directory}/venv/bin/python\nprint('ran')\n")
    (directory / "venv/lib/python3.11/site-packages/shop.pth").write_text(f"{directory}/src\n{directory}0/other\n")
    version = INTERPRETER.version_text
    (directory / "venv/pyvenv.cfg").write_text(f"home = {INTERPRETER.path.parent}\nversion_info = {version}\n")
    for path in directory.rglob("*"):
        if not path.is_symlink():
            public = path.relative_to(directory).parts[0] == "static"
            executable = path.is_dir() or path.parent.name == "bin"
            path.chmod((0o755 if executable else 0o644) if public else (0o750 if executable else 0o640))
    directory.chmod(0o751)


@pytest.fixture
def built(tmp_path: Path) -> Built:
    directory, store = tmp_path / "builder/releases/demo-1", tmp_path / "artifacts"
    store.mkdir()
    write_release(directory)
    return publish(directory, store)


def publish(directory: Path, store: Path) -> Built:
    digest = digest_of(directory)
    (directory / "release.json").write_text(json.dumps({"name": "demo-1", "digest": digest}))
    (directory / "release.json").chmod(0o644)
    packed = pack(directory, store / "new")
    (store / "new").rename(store / f"{packed.digest}.tar.gz")
    spec = ReleaseSpec(
        NAME, digest, "a:b", "s", "manage.py", "static", True, f"sha256:{packed.digest}", packed.size, "3.11.2", 7
    )
    return Built(directory, store, spec)


def config_of(home: Path, store: Path | None = None, control: ControlAccess | None = None) -> Config:
    return Config(
        home=home,
        node="b",
        bind="127.0.0.1",
        http_port=80,
        uid_base=BASE,
        nginx_group=None,
        database_host="127.0.0.1",
        database_port=5432,
        redis_socket=None,
        dsn="",
        platform_keys=("k",),
        control=control,
        artifact_directory=store,
    )


def fetched(home: Path, built: Built) -> Releases:
    node = Releases(config_of(home, built.store))
    asyncio.run(node.ensure(built.spec))
    return node


def hidden(home: Path) -> list[str]:
    return sorted(path.name for path in (home / "releases").iterdir() if path.name.startswith("."))


def refusal(home: Path, built: Built, kind: type[Exception] = Transient, node: Releases | None = None) -> str:
    """What `ensure` says; afterwards nothing of the release is here."""
    before = (home / "releases/demo-1").exists()
    with pytest.raises(kind) as raised:
        asyncio.run((node or Releases(config_of(home, built.store))).ensure(built.spec))
    assert (home / "releases/demo-1").exists() == before
    assert hidden(home) == []
    return str(raised.value)


# Fetching and unpacking


def test_a_fetched_release_is_as_the_build_left_it(home: Path, built: Built) -> None:
    node = Releases(config_of(home, built.store))
    assert not node.present(built.spec)
    asyncio.run(node.ensure(built.spec))
    assert node.present(built.spec)
    release = home / "releases/demo-1"
    for path in [built.directory, *built.directory.rglob("*")]:
        here = release / path.relative_to(built.directory)
        status, expected = here.lstat(), path.lstat()
        assert status.st_mode == expected.st_mode, here
        if not path.is_symlink() and path.is_file() and path.name not in ("old-script", "shop.pth"):
            assert here.read_bytes() == path.read_bytes()
            assert path.name == "pyvenv.cfg" or int(status.st_mtime) == int(expected.st_mtime), here
        if OWNER is not None:
            owner = {"demo-1": (0, OWNER), "release.json": (0, 0)}.get(here.name, (OWNER, OWNER))
            assert (status.st_uid, status.st_gid) == owner, here
    assert hidden(home) == []
    assert asyncio.run(node.verify(NAME)) is None
    assert Releases(config_of(home)).present(built.spec), "also for the next agent, which has no store"


def test_texts_that_name_the_builders_home_name_this_one(home: Path, built: Built) -> None:
    fetched(home, built)
    release = home / "releases/demo-1"
    script = release / "venv/bin/old-script"
    assert script.read_text().startswith(f"#!{release}/venv/bin/python\n")
    assert stat.S_IMODE(script.stat().st_mode) == 0o750
    ran = subprocess.run([script], capture_output=True, text=True, user=OWNER, group=OWNER, timeout=30, check=True)
    assert ran.stdout == "ran\n"
    paths = (release / "venv/lib/python3.11/site-packages/shop.pth").read_text()
    assert paths == f"{release}/src\n{built.directory}0/other\n", "a longer name is another directory"


def test_what_is_here_is_not_fetched_again(home: Path, built: Built) -> None:
    node = fetched(home, built)
    built.file.unlink()
    asyncio.run(node.ensure(built.spec))


@pytest.mark.parametrize("change", [{"digest": "sha256:other"}, {"name": ReleaseName(Slug("demo"), 2)}])
def test_another_release_is_not_present(home: Path, built: Built, change: dict[str, Any]) -> None:
    node = fetched(home, built)
    assert not node.present(replace(built.spec, **change))


def test_a_release_that_was_not_published_is_waited_for(home: Path, built: Built) -> None:
    built.spec = replace(built.spec, artifact=None, artifact_size=None)
    (home / "releases").mkdir()
    assert "was not published yet" in refusal(home, built)


def test_a_wrong_digest_names_both_and_a_mended_store_heals(home: Path, built: Built) -> None:
    clock = Clock()
    node = Releases(config_of(home, built.store), clock=clock)
    whole = built.file.read_bytes()
    built.file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    words = refusal(home, built, node=node)
    assert built.spec.artifact is not None
    assert built.spec.artifact in words
    assert words.count("sha256:") == 2
    assert "nothing was changed" in words
    built.file.write_bytes(whole)
    assert refusal(home, built, node=node) == words, "within the pause nobody tries"
    clock.now = 1.1
    asyncio.run(node.ensure(built.spec))
    assert node.present(built.spec)


@pytest.mark.parametrize(("content", "words"), [(b"", "(0 bytes of"), (None, "is longer than its")])
def test_a_wrong_size_is_refused(home: Path, built: Built, content: bytes | None, words: str) -> None:
    built.file.write_bytes(built.file.read_bytes() + b"x" if content is None else content)
    assert words in refusal(home, built)


def test_a_failure_is_not_tried_again_for_longer_and_longer(home: Path, built: Built) -> None:
    clock, tries = Clock(), 0
    node = Releases(config_of(home, built.store), clock=clock)
    built.file.rename(built.file.with_suffix(".away"))
    original = releases.fetch

    def count(*arguments: Any) -> None:
        nonlocal tries
        tries += 1
        original(*arguments)

    releases.fetch = count
    try:
        for second in range(100):
            clock.now = float(second)
            refusal(home, built, node=node)
    finally:
        releases.fetch = original
    assert 5 <= tries <= 8


def test_those_who_ask_at_once_share_one_download(home: Path, built: Built) -> None:
    with serving(built) as server:
        node = Releases(config_of(home, control=server.access))

        async def together() -> None:
            await asyncio.gather(*(node.ensure(built.spec) for _ in range(50)))

        asyncio.run(together())
        assert len(server.asked) == 1


def test_an_agent_that_ends_leaves_nothing_and_another_waiter_is_not_disturbed(home: Path, built: Built) -> None:
    with serving(built, delay_seconds=0.4) as server:
        node = Releases(config_of(home, control=server.access))

        async def impatient() -> None:
            first, second = asyncio.create_task(node.ensure(built.spec)), asyncio.create_task(node.ensure(built.spec))
            await asyncio.sleep(0.1)
            first.cancel()
            await second

        asyncio.run(impatient())
        assert node.present(built.spec)
        shutil.rmtree(home / "releases")

        async def ending() -> None:
            asyncio.create_task(Releases(config_of(home, control=server.access)).ensure(built.spec))  # noqa: RUF006
            await asyncio.sleep(0.1)

        asyncio.run(ending())
        assert os.listdir(home / "releases") == []


def test_leftovers_of_a_killed_agent_are_removed_at_the_next_start(home: Path, built: Built) -> None:
    (home / "releases/.demo-1.4711.new/tree/src").mkdir(parents=True)
    (home / "releases/.demo-2.4711.new").mkdir()
    fetched(home, built)
    assert hidden(home) == []


KILLED = """
import asyncio, pickle, sys
from tenantry.node.effects.releases import Releases
config, spec = pickle.loads(sys.stdin.buffer.read())
asyncio.run(Releases(config).ensure(spec))
"""


@pytest.mark.parametrize("milliseconds", [0, 5, 10, 20, 40, 80, 160])
def test_a_killed_agent_leaves_a_whole_release_or_none(home: Path, built: Built, milliseconds: int) -> None:
    process = subprocess.Popen([sys.executable, "-c", KILLED], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdin is not None
    process.stdin.write(pickle.dumps((config_of(home, built.store), built.spec)))
    process.stdin.close()
    deadline = time.monotonic() + 20
    while not (home / "releases").exists() and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(milliseconds / 1000)
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    node = Releases(config_of(home, built.store))
    asyncio.run(node.clean())
    if node.present(built.spec):
        assert asyncio.run(node.verify(NAME)) is None
    else:
        assert not (home / "releases/demo-1").exists()
    asyncio.run(node.ensure(built.spec))
    assert asyncio.run(node.verify(NAME)) is None
    assert hidden(home) == []


# The disk


def test_a_disk_without_room_is_told_before_anything_is_fetched(
    home: Path, built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpacking, "RESERVE_BYTES", 1 << 60)
    built.file.unlink()  # it would be missed later
    words = refusal(home, built)
    assert "MiB free, and the release needs" in words
    assert "make room" in words


@pytest.mark.skipif(not AS_ROOT, reason="only root can mount a small disk")
def test_a_disk_that_fills_up_is_said_and_room_heals(home: Path, built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    (built.directory / "static/large").write_bytes(os.urandom(3_000_000))
    built = publish(built.directory, built.store)
    monkeypatch.setattr(unpacking, "check_space", lambda *_: None)
    (home / "releases").mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(home / "releases")]
    if subprocess.run(command, check=False, timeout=10).returncode != 0:
        pytest.skip("this machine does not let root mount")
    try:
        clock = Clock()
        node = Releases(config_of(home, built.store), clock=clock)
        assert "demo-1 cannot be brought here: No space left on device" in refusal(home, built, node=node)
        subprocess.run(["mount", "-o", "remount,size=64m", str(home / "releases")], check=True, timeout=10)
        clock.now = 2.0
        asyncio.run(node.ensure(built.spec))
        assert node.present(built.spec)
    finally:
        subprocess.run(["umount", str(home / "releases")], check=True, timeout=10)


# Archives that no build makes


def member(name: str, kind: bytes = tarfile.REGTYPE, mode: int = 0o640, link: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.mode, made.linkname = kind, mode, link
    return made


DIRECTORY = tarfile.DIRTYPE
SKELETON = [member(name, DIRECTORY, 0o750) for name in ("src", "venv", "venv/bin")]


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([member("/etc/evil")], "leads out"),
        ([member("../evil")], "leads out"),
        ([member("src/../../evil")], "leads out"),
        ([member("src//evil")], "leads out"),
        ([member("./src/evil")], "leads out"),
        ([member("other/evil")], "no such part"),
        ([member("src/evil", tarfile.LNKTYPE, link="/etc/passwd")], "neither a file"),
        ([member("src/evil", tarfile.LNKTYPE, link="release.json")], "neither a file"),
        ([member("src/evil", tarfile.CHRTYPE)], "neither a file"),
        ([member("src/evil", tarfile.BLKTYPE)], "neither a file"),
        ([member("src/evil", tarfile.FIFOTYPE)], "neither a file"),
        ([member("src/evil", mode=0o4750)], "gives rights"),
        ([member("src/evil", mode=0o2750)], "gives rights"),
        ([member("src/evil", DIRECTORY, 0o1777)], "gives rights"),
        ([member("src/way", tarfile.SYMTYPE, link="/tmp"), member("src/way/evil")], "no directory of the release"),
        ([member("src/absent/evil")], "no directory of the release"),
        ([member("src/evil"), member("src/evil")], "comes twice"),
        ([member("src/evil", tarfile.SYMTYPE, link="/tmp/evil"), member("src/evil")], "comes twice"),
        ([], "lacks release.json"),
        ([member("release.json")], "lacks venv/pyvenv.cfg"),
    ],
)
def test_an_archive_with_what_no_release_has_is_refused(
    home: Path, built: Built, members: list[tarfile.TarInfo], reason: str
) -> None:
    built = archive(built, [*SKELETON, *members])
    words = refusal(home, built, NotReady)
    assert words.startswith("the artifact is refused")
    assert reason in words
    assert not Path("/tmp/evil").exists()


def archive(built: Built, members: list[tarfile.TarInfo]) -> Built:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for one in members:
            content = json.dumps({"digest": built.spec.digest}).encode() if one.name == "release.json" else b""
            one.size = len(content)
            tar.addfile(one, io.BytesIO(content))
    data = gzip.compress(plain.getvalue())
    digest = hashlib.sha256(data).hexdigest()
    (built.store / f"{digest}.tar.gz").write_bytes(data)
    return Built(
        built.directory, built.store, replace(built.spec, artifact=f"sha256:{digest}", artifact_size=len(data))
    )


def test_a_virtualenv_that_is_a_link_elsewhere_is_refused(home: Path, built: Built, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    link = member("venv/bin", tarfile.SYMTYPE, link=str(victim))
    built = archive(built, [*SKELETON[:2], link, member("release.json"), member("venv/pyvenv.cfg")])
    assert "lacks venv/bin" in refusal(home, built, NotReady)
    assert list(victim.iterdir()) == []


def test_a_file_that_is_no_archive_is_said_so(home: Path, built: Built) -> None:
    (built.store / f"{hashlib.sha256(b'x' * 99).hexdigest()}.tar.gz").write_bytes(b"x" * 99)
    artifact = "sha256:" + hashlib.sha256(b"x" * 99).hexdigest()
    built.spec = replace(built.spec, artifact=artifact, artifact_size=99)
    assert "cannot be unpacked" in refusal(home, built)


def test_another_releases_archive_is_refused(home: Path, built: Built) -> None:
    built.spec = replace(built.spec, digest="sha256:other")
    assert "holds another release than demo-1" in refusal(home, built, NotReady)


# The interpreter


def test_an_interpreter_that_is_elsewhere_here_is_found(home: Path, built: Built) -> None:
    assert INTERPRETER is not None
    link = built.directory / "venv/bin/python"
    link.unlink()
    link.symlink_to("/opt/builder/pythons/bin/python3")
    text = f"home = /opt/builder/pythons/bin\nversion_info = {INTERPRETER.version_text}\n"
    (built.directory / "venv/pyvenv.cfg").write_text(text)
    fetched(home, publish(built.directory, built.store))
    release = home / "releases/demo-1"
    script = "import sys, json; print(sys.prefix, json.__file__, sys.version_info[:2] == tuple(map(int, sys.argv[1:])))"
    version = [str(part) for part in INTERPRETER.version[:2]]
    argv = [release / "venv/bin/python3", "-c", script, *version]
    answer = subprocess.run(argv, capture_output=True, text=True, user=OWNER, group=OWNER, timeout=30, check=True)
    prefix, library, same = answer.stdout.split()
    assert (prefix, same) == (str(release / "venv"), "True")
    assert Path(library).is_file()
    assert not os.readlink(release / "venv/bin/python").startswith("/opt/builder")


def test_a_python_that_is_not_here_is_named_with_the_way_to_get_it(home: Path, built: Built) -> None:
    (built.directory / "venv/pyvenv.cfg").write_text("home = /usr/bin\nversion_info = 3.99.1\n")
    words = refusal(home, publish(built.directory, built.store), NotReady)
    assert "was built with Python 3.99, which this node does not have" in words
    assert "apt install python3.99" in words


def test_what_a_person_must_mend_is_tried_again_soon_after(
    home: Path, built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    node = Releases(config_of(home, built.store), clock=clock)
    monkeypatch.setattr(relocation, "probe", lambda *_: None)
    monkeypatch.setattr(relocation, "find_interpreters", list)
    for _ in range(9):
        assert "which this node does not have (found: none)" in refusal(home, built, NotReady, node)
        clock.now += 5.1
    monkeypatch.undo()
    asyncio.run(node.ensure(built.spec))
    assert node.present(built.spec)


@pytest.mark.skipif(not AS_ROOT, reason="without root everything is one user's")
def test_a_projects_program_in_place_of_the_interpreter_never_runs_as_the_agent(home: Path, built: Built) -> None:
    trace = home / "trace"
    trace.mkdir()
    trace.chmod(0o777)
    trap = home / "trap"
    trap.write_text(f"#!/bin/sh\nid -u >> {trace}/uids\nexit 1\n")
    trap.chmod(0o755)
    link = built.directory / "venv/bin/python"
    link.unlink()
    link.symlink_to(trap)
    fetched(home, publish(built.directory, built.store))
    assert (trace / "uids").read_text().split() == [str(OWNER)]
    assert os.readlink(home / "releases/demo-1/venv/bin/python") != str(trap)


# Over the network


class Server:
    """Control's part, or a store's: hands out one artifact over HTTPS or HTTP, and remembers what it was asked."""

    def __init__(self, url: str, ca: Path | None) -> None:
        self.asked: list[dict[str, str]] = []
        self.access = ControlAccess(url, ca, "tnn_secret")
        self.sent = 0  # bytes of an answer without an end


@contextlib.contextmanager
def serving(
    built: Built,
    *,
    tls: "tuple[Any, Path] | None" = None,
    delay_seconds: float = 0.0,
    break_at: int = 0,
    redirect: str = "",
    status: int = 200,
    endless: bool = False,
    drip: str = "",
) -> Iterator[Server]:
    content = built.file.read_bytes()
    breaks = [break_at] if break_at else []

    class Answers(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            made.asked.append({"path": self.path, **{name.lower(): value for name, value in self.headers.items()}})
            time.sleep(delay_seconds)
            if redirect:
                self.send_response(307)
                self.send_header("Location", redirect)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            body, code = content, status
            if status != 200:
                body = json.dumps({"detail": "The node's token is not valid."}).encode()
            if endless:
                self.send_response(code)
                self.end_headers()
                self.close_connection = True
                with contextlib.suppress(OSError):
                    while True:
                        self.wfile.write(bytes(1 << 16))
                        made.sent += 1 << 16
            if drip:
                length = "" if drip == "body without a length" else f"Content-Length: {len(body)}\r\n"
                head = f"HTTP/1.1 {code} X\r\n{length}".encode()
                whole = head + b"\r\n" + body
                at = len(head) if drip == "head" else len(head) + 2
                self.close_connection = True
                with contextlib.suppress(OSError):
                    self.wfile.write(whole[:at])
                    for byte in b"X-A: " * 1000 if drip == "head" else whole[at:]:
                        self.wfile.write(bytes([byte]))
                        time.sleep(0.05)
                return
            offset = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
            if offset:
                body, code = body[offset:], 206
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if breaks:
                self.wfile.write(body[: breaks.pop()])
                self.close_connection = True
                return
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    if tls is not None:
        server.socket = tls[0].wrap_socket(server.socket, server_side=True)
    scheme = "http" if tls is None else "https"
    made = Server(f"{scheme}://127.0.0.1:{server.server_port}", tls[1] if tls else None)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


@pytest.fixture
def make_tls(tmp_path: Path) -> Callable[[str], tuple[Any, Path]]:
    """A server's TLS context for 127.0.0.1 and the file with its authority."""

    def make(name: str) -> tuple[Any, Path]:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
            )
            .sign(key, hashes.SHA256())
        )
        ca = tmp_path / f"{name}.pem"
        ca.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        private = tmp_path / f"{name}.key"
        private.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(ca, private)
        return context, ca

    return make


def test_control_is_asked_with_the_nodes_token_over_tls(
    home: Path, built: Built, make_tls: Callable[[str], tuple[Any, Path]]
) -> None:
    with serving(built, tls=make_tls("own")) as server:
        node = Releases(config_of(home, control=server.access))
        asyncio.run(node.ensure(built.spec))
        assert node.present(built.spec)
        (asked,) = server.asked
        assert asked["path"] == f"/api/v1/agent/artifacts/{built.file.name.removesuffix('.tar.gz')}"
        assert asked["authorization"] == "Bearer tnn_secret"


def test_another_authority_is_not_believed(
    home: Path, built: Built, make_tls: Callable[[str], tuple[Any, Path]]
) -> None:
    with serving(built, tls=make_tls("own")) as server:
        access = replace(server.access, ca=make_tls("other")[1])
        words = refusal(home, built, node=Releases(config_of(home, control=access)))
        assert "certificate verify failed" in words.lower()
        assert server.asked == []


def test_the_store_that_control_sends_to_gets_no_token_and_its_address_is_not_logged(
    home: Path, built: Built, make_tls: Callable[[str], tuple[Any, Path]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with serving(built) as store:
        address = f"{store.access.url}/bucket/x.tar.gz?X-Amz-Signature=abc"
        with serving(built, tls=make_tls("own"), redirect=address) as server:
            asyncio.run(Releases(config_of(home, control=server.access)).ensure(built.spec))
        (asked,) = store.asked
        assert asked["path"] == "/bucket/x.tar.gz?X-Amz-Signature=abc"
        assert "authorization" not in asked
    assert "Signature" not in caplog.text


def test_a_broken_transfer_goes_on_where_it_ended(home: Path, built: Built) -> None:
    with serving(built, break_at=700) as server:
        asyncio.run(Releases(config_of(home, control=server.access)).ensure(built.spec))
        assert [asked.get("range") for asked in server.asked] == [None, "bytes=700-"]
    assert (home / "releases/demo-1/release.json").is_file()


def test_what_control_answers_is_passed_on(home: Path, built: Built) -> None:
    with serving(built, status=401) as server:
        words = refusal(home, built, node=Releases(config_of(home, control=server.access)))
    assert "answered 401: The node's token is not valid." in words
    words = refusal(home, built, node=Releases(config_of(home, control=server.access)))
    assert "could not be fetched" in words
    assert "refused" in words.lower()


def test_a_store_that_never_ends_its_refusal_is_not_listened_to(home: Path, built: Built) -> None:
    with serving(built, status=500, endless=True) as server:
        words = refusal(home, built, node=Releases(config_of(home, control=server.access)))
        assert "answered 500" in words
        assert len(words) < 1_000
        assert server.sent < 64 << 20, "what the kernel holds, and no more"


@pytest.mark.parametrize(
    ("drip", "status"), [("body", 200), ("body", 500), ("body without a length", 200), ("head", 200)]
)
def test_a_store_that_drips_is_left_and_asked_again(
    home: Path, built: Built, monkeypatch: pytest.MonkeyPatch, drip: str, status: int
) -> None:
    monkeypatch.setattr(progress, "WINDOW_SECONDS", 0.5)
    began = time.monotonic()
    with serving(built, drip=drip, status=status) as server:
        words = refusal(home, built, node=Releases(config_of(home, control=server.access)))
    assert "brings less than 1024 bytes a second" in words
    assert time.monotonic() - began < 5
    with serving(built) as server:
        asyncio.run(Releases(config_of(home, control=server.access)).ensure(built.spec))
    assert (home / "releases/demo-1/release.json").is_file()


def test_a_store_that_drips_to_another_place_over_tls_is_left(
    home: Path, built: Built, monkeypatch: pytest.MonkeyPatch, make_tls: Callable[[str], tuple[Any, Path]]
) -> None:
    monkeypatch.setattr(progress, "WINDOW_SECONDS", 0.5)
    tls = make_tls("own")
    with (
        serving(built, tls=tls, drip="body") as store,
        serving(built, tls=tls, redirect=f"{store.access.url}/x.tar.gz") as server,
    ):
        words = refusal(home, built, node=Releases(config_of(home, control=server.access)))
    assert "brings less than 1024 bytes a second" in words


@pytest.mark.parametrize("drip", ["body", "head"])
def test_a_store_that_is_slow_is_waited_for_until_the_agent_ends(
    home: Path, built: Built, monkeypatch: pytest.MonkeyPatch, drip: str
) -> None:
    monkeypatch.setattr(progress, "WINDOW_SECONDS", 0.5)
    monkeypatch.setattr(progress, "RATE_BYTES", 10 if drip == "body" else 0)

    async def ask() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(node.ensure(built.spec), 1.2)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    with serving(built, drip=drip) as server:
        node = Releases(config_of(home, control=server.access))
        began = time.monotonic()
        asyncio.run(ask())  # it waits for the thread that fetches
        assert time.monotonic() - began < 3


# Whole or not


def spoil_content(release: Path) -> str:
    path = release / "src/manage.py"
    before = path.stat()
    path.write_text("print('mangle')\n")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    return "src/manage.py has another content"


def spoil_size(release: Path) -> str:
    (release / "static/app.css").write_text("")
    return "static/app.css has 0 bytes instead of 8"


def spoil_mode(release: Path) -> str:
    (release / "venv/bin/old-script").chmod(0o4755)
    return "venv/bin/old-script has the mode 4755 instead of 0750"


def spoil_link(release: Path) -> str:
    (release / "src/latest").unlink()
    (release / "src/latest").symlink_to("/etc")
    return "src/latest points elsewhere"


def spoil_kind(release: Path) -> str:
    (release / "src/app/models.py").unlink()
    (release / "src/app/models.py").mkdir()
    return "src/app/models.py is no longer a file"


def spoil_missing(release: Path) -> str:
    shutil.rmtree(release / "src/app")
    return "src/app is missing; src/app/models.py is missing"


def spoil_many(release: Path) -> str:
    shutil.rmtree(release / "venv")
    return "and 7 more"


SPOILS = [spoil_content, spoil_size, spoil_mode, spoil_link, spoil_kind, spoil_missing, spoil_many]


@pytest.mark.parametrize("spoil", SPOILS)
def test_damage_is_found_named_and_mended(home: Path, built: Built, spoil: Callable[[Path], str]) -> None:
    node = fetched(home, built)
    words = spoil(home / "releases/demo-1")
    assert words in (asyncio.run(node.verify(NAME)) or "")
    assert not node.present(built.spec)
    asyncio.run(node.ensure(built.spec))
    assert node.present(built.spec)
    assert asyncio.run(node.verify(NAME)) is None
    assert hidden(home) == []


@pytest.mark.skipif(not AS_ROOT, reason="without root sites may write there")
def test_foreign_files_and_owners_are_damage_and_bytecode_is_not(home: Path, built: Built) -> None:
    node = fetched(home, built)
    (home / "releases/demo-1/src/__pycache__").mkdir()
    (home / "releases/demo-1/src/__pycache__/manage.cpython-311.pyc").write_bytes(b"x")
    assert asyncio.run(node.verify(NAME)) is None
    (home / "releases/demo-1/src/evil.py").write_text("")
    assert asyncio.run(node.verify(NAME)) == "src/evil.py is not of the release"
    (home / "releases/demo-1/src/evil.py").unlink()
    assert asyncio.run(node.verify(NAME)) is None
    assert node.present(built.spec)
    os.chown(home / "releases/demo-1/src/manage.py", 0, 0)
    assert "src/manage.py belongs to 0:0" in (asyncio.run(node.verify(NAME)) or "")


def test_an_unchanged_release_is_not_read_again(home: Path, built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    original = manifest._Pace.hash

    def note(self: Any, path: Path) -> str:
        read.append(path)
        return original(self, path)

    node = fetched(home, built)
    monkeypatch.setattr(manifest._Pace, "hash", note)
    assert asyncio.run(node.verify(NAME)) is None
    assert read == [], "it was hashed when it was unpacked"
    (home / "releases/demo-1/src/manage.py").touch()
    assert asyncio.run(node.verify(NAME)) is None
    assert [path.name for path in read] == ["manage.py"]
    fresh = Releases(config_of(home))
    assert asyncio.run(fresh.verify(NAME)) is None
    assert len(read) > 4, "an agent that just started has seen nothing yet"


def test_a_release_that_was_built_here_is_recorded_at_first_sight(home: Path, built: Built) -> None:
    (home / "releases").mkdir()
    shutil.copytree(built.directory, home / "releases/demo-1", symlinks=True)
    node = Releases(config_of(home, built.store))
    assert node.present(built.spec)
    assert asyncio.run(node.verify(NAME)) is None
    assert (home / "state/releases/demo-1.json").is_file()
    assert "has another content" in ((spoil_content(home / "releases/demo-1") and asyncio.run(node.verify(NAME))) or "")


def test_a_record_of_a_newer_release_of_the_agent_is_said_and_left_alone(home: Path, built: Built) -> None:
    fetched(home, built)
    record = home / "state/releases/demo-1.json"
    newer = json.dumps({"version": 2, "origin": "elsewhere", "what": "is not known yet"})
    record.write_text(newer)
    node = Releases(config_of(home, built.store))
    with pytest.raises(NodeError, match=r"written by a newer release \(version 2, this one knows 1\)"):
        asyncio.run(node.verify(NAME))
    (home / "state/releases.unused.json").write_text('{"demo-1": 0}')
    assert asyncio.run(node.collect(frozenset())) == []
    assert record.read_text() == newer
    assert node.present(built.spec)


@pytest.mark.skipif(not AS_ROOT, reason="without root sites may write there")
def test_a_release_that_was_changed_before_it_was_first_seen_is_damaged(home: Path, built: Built) -> None:
    (home / "releases").mkdir()
    shutil.copytree(built.directory, home / "releases/demo-1", symlinks=True)
    spoil_content(home / "releases/demo-1")
    node = Releases(config_of(home, built.store))
    assert "does not have the digest of its release.json" in (asyncio.run(node.verify(NAME)) or "")
    asyncio.run(node.ensure(built.spec))
    assert asyncio.run(node.verify(NAME)) is None


def test_a_release_without_its_interpreter_is_not_present(home: Path, built: Built) -> None:
    fetched(home, built)
    (home / "releases/demo-1/venv/bin/python").unlink()
    node = Releases(config_of(home, built.store))
    assert not node.present(built.spec)
    asyncio.run(node.ensure(built.spec))
    assert node.present(built.spec)


def test_an_unpublished_release_is_present_while_it_can_be_started(home: Path, built: Built) -> None:
    node = fetched(home, built)
    unpublished = replace(built.spec, artifact=None, digest="sha256:of-another-record")
    spoil_content(home / "releases/demo-1")
    assert asyncio.run(node.verify(NAME)) is not None
    assert node.present(unpublished), "nothing could be fetched in its place"
    assert not node.present(built.spec)
    shutil.rmtree(home / "releases/demo-1/src")
    fresh = Releases(config_of(home))
    assert not fresh.present(unpublished)


def test_a_missing_release_is_said_so(home: Path, built: Built) -> None:
    assert asyncio.run(Releases(config_of(home)).verify(NAME)) == "releases/demo-1 is missing"


WORKS = "import os, sys, time; sys.path.insert(0, ''); print('up', flush=True); sys.stdin.readline(); import app.models"


def test_processes_on_a_replaced_release_keep_their_directory(home: Path, built: Built) -> None:
    node = fetched(home, built)
    release = home / "releases/demo-1"
    argv = [str(release / "venv/bin/python"), "-c", WORKS]
    with subprocess.Popen(
        argv, cwd=release / "src", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, user=OWNER, group=OWNER
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "up\n"
        spoil_size(release)
        assert asyncio.run(node.verify(NAME)) is not None
        asyncio.run(node.ensure(built.spec))
        assert hidden(home) == [".demo-1.1.old"]
        assert asyncio.run(node.collect(frozenset({NAME}))) == []
        process.stdin.write("\n")
        process.stdin.close()
        assert process.wait(30) == 0, "it imported from its working directory after the exchange"
    assert asyncio.run(node.collect(frozenset({NAME}))) == [".demo-1.1.old"]
    assert hidden(home) == []


def test_a_replacement_is_one_step(home: Path, built: Built) -> None:
    node = fetched(home, built)
    stop, missing = threading.Event(), []

    def watch() -> None:
        while not stop.is_set():
            if not (home / "releases/demo-1/src/manage.py").exists():
                missing.append(time.monotonic())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        for _ in range(5):
            spoil_size(home / "releases/demo-1")
            assert asyncio.run(node.verify(NAME)) is not None
            asyncio.run(node.ensure(built.spec))
    finally:
        stop.set()
        thread.join()
    assert missing == []


# Removing


def age(home: Path, days: float) -> None:
    path = home / "state/releases.unused.json"
    path.write_text(
        json.dumps({name: moment - days * 86_400 for name, moment in json.loads(path.read_bytes()).items()})
    )


def test_what_nobody_uses_for_a_week_is_removed(home: Path, built: Built) -> None:
    node = fetched(home, built)
    assert asyncio.run(node.collect(frozenset({NAME}))) == []
    assert asyncio.run(node.collect(frozenset())) == []
    age(home, 6.9)
    assert asyncio.run(Releases(config_of(home)).collect(frozenset())) == []
    age(home, 0.2)
    assert asyncio.run(node.collect(frozenset())) == ["demo-1"]
    assert not node.present(built.spec)
    assert os.listdir(home / "releases") == []
    assert not (home / "state/releases/demo-1.json").exists()


def test_use_begins_the_week_anew(home: Path, built: Built) -> None:
    node = fetched(home, built)
    asyncio.run(node.collect(frozenset()))
    age(home, 8)
    asyncio.run(node.collect(frozenset({NAME})))
    assert asyncio.run(node.collect(frozenset())) == []


def test_what_a_generation_runs_on_stays(home: Path, built: Built) -> None:
    node = fetched(home, built)
    asyncio.run(node.collect(frozenset()))
    age(home, 8)
    (home / "run/sites/blog").mkdir()
    document = home / "run/sites/blog/site.3.json"
    document.write_text(json.dumps({"cwd": str(home / "releases/demo-1/src")}))
    assert asyncio.run(node.collect(frozenset())) == []
    document.unlink()
    assert asyncio.run(node.collect(frozenset())) == ["demo-1"]


def test_the_builders_releases_stay(home: Path, built: Built) -> None:
    node = fetched(home, built)
    shutil.copytree(built.directory, home / "releases/demo-9", symlinks=True)
    asyncio.run(node.collect(frozenset()))
    age(home, 8)
    (home / "releases/.built-here").touch()
    assert asyncio.run(node.collect(frozenset())) == []
    (home / "releases/.built-here").unlink()
    assert asyncio.run(node.collect(frozenset())) == ["demo-1"], "what was not fetched stays in any case"
