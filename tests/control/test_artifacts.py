"""The artifact store: packing, the directory, S3 (a server on loopback that checks signatures), the API for nodes."""

import hashlib
import os
import stat
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from tenantry.control.access.actors import Actor
from tenantry.control.changelog.models import Change
from tenantry.control.config import Artifacts, ControlConfig, parse_config
from tenantry.control.errors import NotFound
from tenantry.control.fleet import services as fleet
from tenantry.control.releases import services
from tenantry.control.releases.artifacts import (
    ArtifactMissing,
    DirectoryStore,
    PackingCancelled,
    StoreError,
    publish,
    store_of,
)
from tenantry.control.releases.artifacts.packing import Packed, pack, pack_apart
from tenantry.control.releases.artifacts.publishing import remove_staged
from tenantry.control.releases.artifacts.s3 import S3Store
from tenantry.control.releases.models import Release

from .conftest import FACTS, Api, Live
from .s3 import BUCKET, REGION, Front, serve_s3

CONTENT = os.urandom(700_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()
PACKED = Packed(DIGEST, len(CONTENT))


@pytest.fixture
def frozen(tmp_path: Path) -> Path:
    """A release's directory, with one of everything."""
    release = tmp_path / "demo-1"
    for name in ("src/app", "static", "venv/bin"):
        (release / name).mkdir(parents=True)
    (release / "release.json").write_text("{}")
    (release / "src/app/models.py").write_text("x = 1\n")
    (release / "src/app/models.py").chmod(0o640)
    (release / "static/app.css").write_bytes(os.urandom(300_000))
    os.link(release / "static/app.css", release / "static/copy.css")
    (release / "venv/bin/python").symlink_to("/usr/bin/python3")
    (release / "venv/bin/tool").write_text("#!/bin/sh\n")
    (release / "venv/bin/tool").chmod(0o6750)
    (release / ".build").mkdir()
    os.utime(release / "static/app.css", (1_700_000_000.7, 1_700_000_000.7))
    return release


def members(path: Path) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(path) as tar:
        return {member.name: member for member in tar}


# Packing


def test_an_archive_holds_the_release_and_gives_no_rights(frozen: Path, tmp_path: Path) -> None:
    packed = pack(frozen, tmp_path / "one")
    assert hashlib.sha256((tmp_path / "one").read_bytes()).hexdigest() == packed.digest
    assert (tmp_path / "one").stat().st_size == packed.size
    found = members(tmp_path / "one")
    assert list(found) == sorted(found), "sorted: directories come before what they hold"
    assert found.keys() == {
        *("release.json", "src", "src/app", "src/app/models.py", "static", "static/app.css", "static/copy.css"),
        *("venv", "venv/bin", "venv/bin/python", "venv/bin/tool"),
    }
    assert {(member.uid, member.gid, member.uname, member.gname) for member in found.values()} == {(0, 0, "", "")}
    assert (found["src/app/models.py"].mode, found["venv/bin/tool"].mode) == (0o640, 0o750)
    assert found["static/copy.css"].isreg(), "a name of the same file is a file of its own"
    assert found["venv/bin/python"].linkname == "/usr/bin/python3"
    assert found["static/app.css"].mtime == 1_700_000_000, "nginx makes ETags of it: the same on every node"


def test_the_same_directory_gives_the_same_bytes(frozen: Path, tmp_path: Path) -> None:
    one, two = pack(frozen, tmp_path / "one"), pack_apart(frozen, tmp_path / "two", lambda: False)
    assert one == two
    (frozen / "src/app/models.py").write_text("x = 2\n")
    assert pack(frozen, tmp_path / "three").digest != one.digest


def test_packing_can_be_cancelled(frozen: Path, tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "artifacts")
    with pytest.raises(PackingCancelled):
        publish(frozen, store, lambda: True)
    assert list((tmp_path / "artifacts").iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_full_disk_leaves_nothing(frozen: Path, tmp_path: Path) -> None:
    small = tmp_path / "artifacts"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "none", str(small)], check=False, timeout=10)
    if mounted.returncode != 0:
        pytest.skip("this machine does not let root mount")
    try:
        with pytest.raises(OSError, match="No space left"):
            publish(frozen, DirectoryStore(small))
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", str(small)], check=True, timeout=10)


# The directory


def test_a_directory_keeps_artifacts_for_control_only(frozen: Path, tmp_path: Path) -> None:
    group = 54_321 if os.geteuid() == 0 else None
    store = DirectoryStore(tmp_path / "artifacts", group)
    packed = publish(frozen, store)
    assert publish(frozen, store) == packed, "again is no error"
    path = store.locate(packed.digest)
    assert path == tmp_path / "artifacts" / f"{packed.digest}.tar.gz"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o750
    if group is not None:
        assert path.stat().st_gid == path.parent.stat().st_gid == group
    (tmp_path / "artifacts/.demo-2.1.new").write_text("half")
    assert remove_staged(store) == [".demo-2.1.new"]
    assert list(path.parent.iterdir()) == [path]
    store.remove(packed.digest)
    store.remove(packed.digest)
    with pytest.raises(ArtifactMissing, match=r"is missing. Restore it from a backup"):
        store.locate(packed.digest)


# The configuration


def configured(**artifacts: str) -> Artifacts:
    return parse_config({"home": "/srv/t", "database": {}, "artifacts": artifacts}).artifacts


def test_the_configuration_says_where() -> None:
    assert parse_config({"home": "/srv/t", "database": {}}).artifacts == Artifacts()
    assert store_of(ControlConfig(home=Path("/srv/t"))).staging == Path("/srv/t/artifacts")
    elsewhere = ControlConfig(home=Path("/srv/t"), artifacts=configured(directory="/mnt/shared"))
    assert store_of(elsewhere).staging == Path("/mnt/shared")
    s3 = configured(kind="s3", bucket="b", secret_key="very secret")
    assert "very secret" not in repr(s3)
    store = store_of(ControlConfig(home=Path("/srv/t"), artifacts=s3))
    assert isinstance(store, S3Store)
    assert store.staging == Path("/srv/t/artifacts")


@pytest.mark.parametrize(
    ("artifacts", "message"),
    [
        ({"kind": "ftp"}, "artifacts.kind"),
        ({"kind": "s3"}, "artifacts.bucket"),
        ({"directory": "relative"}, "artifacts.directory"),
    ],
)
def test_a_wrong_configuration_is_refused(artifacts: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        configured(**artifacts)


def test_boto3_is_imported_only_for_s3() -> None:
    script = (
        "import sys\nfrom tenantry.control.config import ControlConfig\n"
        "from tenantry.control.releases.artifacts import store_of\nstore_of(ControlConfig())\n"
        "sys.exit('boto3' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


# S3


@pytest.fixture(scope="module")
def s3_server() -> Iterator[Front]:
    with serve_s3() as front:
        yield front


@pytest.fixture
def s3(s3_server: Front) -> Artifacts:
    return Artifacts("s3", "", BUCKET, s3_server.address, REGION, "releases/", s3_server.access, s3_server.secret)


def test_s3_keeps_an_artifact_and_hands_it_out(s3: Artifacts, frozen: Path, tmp_path: Path) -> None:
    store = S3Store(s3, tmp_path / "staging")
    packed = publish(frozen, store)
    assert list((tmp_path / "staging").iterdir()) == []
    address = store.locate(packed.digest)
    assert f"/artifacts/releases/{packed.digest}.tar.gz?" in address
    assert "X-Amz-Expires=300" in address
    answer = httpx.get(address)
    assert hashlib.sha256(answer.content).hexdigest() == packed.digest
    part = httpx.get(address, headers={"Range": "bytes=100-"})
    assert (part.status_code, part.content) == (206, answer.content[100:])
    for forged in (address.partition("?")[0], address[:-1] + ("1" if address[-1] == "0" else "0")):
        assert httpx.get(forged).status_code == 403, "without the right signature nobody gets it"
    store.remove(packed.digest)
    with pytest.raises(ArtifactMissing, match="'artifacts' at http"):
        store.locate(packed.digest)


@pytest.mark.parametrize(
    "wrong",
    [{"secret_key": "wrong"}, {"access_key": "AKIAWRONG"}, {"bucket": "absent"}, {"endpoint": "http://127.0.0.1:9"}],
)
def test_what_s3_refuses_is_said(s3: Artifacts, frozen: Path, tmp_path: Path, wrong: dict[str, str]) -> None:
    store = S3Store(replace(s3, **wrong), tmp_path / "staging")
    with pytest.raises(StoreError, match="Could not keep an artifact in the bucket"):
        publish(frozen, store)
    assert list((tmp_path / "staging").iterdir()) == []


# The API


@pytest.fixture
def node_token(admin: Actor, cluster: Any) -> str:
    _, text = fleet.create_join_token(admin, ttl=timedelta(hours=1))
    return fleet.join(text, name="web-1", version="1").node_token


@pytest.fixture
def published(project: str) -> str:
    services.publish_release("demo-1", f"sha256:{DIGEST}", len(CONTENT))
    return DIGEST


def stored(home: Path) -> None:
    (home / "artifacts").mkdir(exist_ok=True)
    (home / "artifacts" / f"{DIGEST}.tar.gz").write_bytes(CONTENT)


def test_a_node_fetches_an_artifact(live: Live, node_token: str, published: str) -> None:
    stored(live.home)
    url = f"{live.url}/api/v1/agent/artifacts/{published}"
    headers = {"Authorization": f"Bearer {node_token}"}
    answer = httpx.get(url, headers=headers, timeout=30)
    assert (answer.status_code, answer.headers["Content-Length"]) == (200, str(len(CONTENT)))
    assert answer.headers["Content-Type"] == "application/gzip"
    assert answer.content == CONTENT
    rest = httpx.get(url, headers=headers | {"Range": "bytes=600000-"}, timeout=30)
    assert (rest.status_code, rest.content) == (206, CONTENT[600_000:])
    assert rest.headers["Content-Range"] == f"bytes 600000-699999/{len(CONTENT)}"
    for other in ("bytes=-5", "bytes=5-9", "bytes=700000-", "bytes=0-", "lines=5-", "bytes=five-"):
        assert httpx.get(url, headers=headers | {"Range": other}, timeout=30).status_code == 200, other


def test_others_get_nothing(live: Live, node_token: str, published: str) -> None:
    stored(live.home)
    url = f"{live.url}/api/v1/agent/artifacts"
    own = {"Authorization": f"Bearer {node_token}"}
    for headers in ({}, {"Authorization": "Bearer tnn_wrong"}, live.headers, {"Authorization": node_token}):
        assert httpx.get(f"{url}/{published}", headers=headers, timeout=30).status_code == 401, headers
    # A file is there, but no release has it.
    (live.home / "artifacts" / f"{'0' * 64}.tar.gz").write_text("not a release's")
    assert httpx.get(f"{url}/{'0' * 64}", headers=own, timeout=30).status_code == 404
    for wrong in ("..%2fcontrol.json", "A" * 64, "0" * 63, f"{published}.tar.gz"):
        assert httpx.get(f"{url}/{wrong}", headers=own, timeout=30).status_code in (404, 422), wrong
    (live.home / "artifacts" / f"{published}.tar.gz").unlink()
    missing = httpx.get(f"{url}/{published}", headers=own, timeout=30)
    assert missing.status_code == 404
    assert "Restore it from a backup" in missing.json()["detail"]


def test_with_s3_a_node_is_sent_there(
    settings: Any, s3: Artifacts, node_token: str, published: str, tmp_path: Path
) -> None:
    settings.TENANTRY = replace(settings.TENANTRY, home=tmp_path, artifacts=s3)
    api = Api(node_token)
    assert api("GET", f"/agent/artifacts/{published}").status_code == 404, "not in the bucket yet"
    staged = tmp_path / "staged"
    staged.write_bytes(CONTENT)
    store_of(settings.TENANTRY).put(staged, PACKED)
    answer = api("GET", f"/agent/artifacts/{published}")
    assert answer.status_code == 307
    assert httpx.get(answer.headers["Location"]).content == CONTENT
    settings.TENANTRY = replace(settings.TENANTRY, artifacts=replace(s3, endpoint="http://127.0.0.1:9"))
    away = api("GET", f"/agent/artifacts/{published}")
    assert away.status_code == 503
    assert "Could not find an artifact in the bucket 'artifacts' at http://127.0.0.1:9" in away.json()["detail"]


# Services


def test_publishing_is_noted_once(project: str) -> None:
    services.publish_release("demo-1", "sha256:" + "a" * 64, 5)
    services.publish_release("demo-1", "sha256:" + "a" * 64, 5)
    release = Release.objects.get(name="demo-1")
    assert (release.artifact, release.artifact_size) == ("sha256:" + "a" * 64, 5)
    assert Change.objects.filter(type="release.published").count() == 1
    with pytest.raises(NotFound):
        services.publish_release("demo-2", "sha256:" + "a" * 64, 5)


def test_a_built_release_has_its_artifact_from_the_start(admin: Actor) -> None:
    services.add_project(admin, services.ProjectRequest(name="shop", source="/srv/shop"))
    services.finish_release("shop-1", replace(FACTS, artifact="sha256:" + "b" * 64, artifact_size=7))
    release = Release.objects.get(name="shop-1")
    assert (release.artifact, release.artifact_size) == ("sha256:" + "b" * 64, 7)
