"""A running node that lacks a release, or finds it damaged, while visitors come."""

import json
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from node_lab import Node, wait_until

from tenantry.control.releases.artifacts.packing import pack
from tenantry.control.releases.building.freeze import digest_of

MEND_SECONDS = 75.0  # 60 are promised from the damage to its finding; then it is unpacked


@pytest.fixture
def published(node: Node, tmp_path: Path) -> dict[str, Any]:
    """A node that reads artifacts from a directory; the part of a site's document that names a release it lacks."""
    store = tmp_path / "artifacts"
    store.mkdir()
    config = json.loads(node.config.read_text())
    node.config.write_text(json.dumps(config | {"artifact_directory": str(store)}))
    node.release("demo-2")
    directory = node.home / "releases/demo-2"
    digest = digest_of(directory)
    (directory / "release.json").write_text(json.dumps({"digest": digest}))
    packed = pack(directory, store / "new")
    (store / "new").rename(store / f"{packed.digest}.tar.gz")
    shutil.rmtree(directory)
    node.release("demo-1")
    node.start_nginx()
    node.start_emperor()
    node.start_agent()
    return {"digest": digest, "artifact": f"sha256:{packed.digest}", "artifact_size": packed.size, "python": "3.11"}


def test_a_release_that_is_not_here_is_fetched_and_served(node: Node, published: dict[str, Any]) -> None:
    document = node.document("blog", 1, "demo-2", release_changes=published)
    node.reported("blog", node.put(document))
    assert node.page("blog.localhost")["version"] == "demo-2"
    assert node.get("blog.localhost", "/static/style.css")[0] == 200
    status = os.stat(node.home / "releases/demo-2/src/app.py")
    assert node.uid_base is None or status.st_gid == node.uid_base + 10_001


def test_a_damaged_release_is_mended_and_visitors_do_not_notice(node: Node, published: dict[str, Any]) -> None:
    document = node.document("blog", 1, "demo-2", release_changes=published)
    node.reported("blog", node.put(document))
    stylesheet = node.home / "releases/demo-2/static/style.css"
    whole = stylesheet.read_bytes()
    failures: list[Any] = []
    stop = threading.Event()

    def visit() -> None:
        while not stop.wait(0.02):
            answer = node.get("blog.localhost")
            if answer[0] != 200:
                failures.append(answer)

    before = node.page("blog.localhost")["pid"]
    visitor = threading.Thread(target=visit)
    visitor.start()
    try:
        stylesheet.write_bytes(whole.swapcase())
        began = time.monotonic()
        wait_until(lambda: stylesheet.read_bytes() == whole, MEND_SECONDS, "the release is mended")
        print(f"damage -> mended: {time.monotonic() - began:.1f} s")
        time.sleep(1)
    finally:
        stop.set()
        visitor.join()
    assert failures == []
    assert node.page("blog.localhost")["pid"] == before, "the process that ran goes on"
    assert [path.name for path in (node.home / "releases").glob(".*.old")] == [".demo-2.1.old"]


@pytest.mark.long
def test_a_site_serves_on_and_says_so_while_its_damaged_release_cannot_be_fetched(
    node: Node, published: dict[str, Any], tmp_path: Path
) -> None:
    document = node.document("blog", 1, "demo-2", release_changes=published)
    revision = node.put(document)
    node.reported("blog", revision)
    pid = node.page("blog.localhost")["pid"]
    (tmp_path / "artifacts").rename(tmp_path / "away")
    shutil.move(node.home / "releases/demo-2/static", tmp_path / "static")
    node.stop("agent")  # it verifies 10 s after its start
    node.start_agent()
    told = wait_until(lambda: (node.last_report("blog") or {})["message"], MEND_SECONDS, "what is amiss")
    assert "the release is damaged (static is missing" in told
    assert "artifact store does not have" in told
    report = node.last_report("blog")
    assert report is not None
    assert (report["state"], report["revision"], report["generation"]) == ("serving", revision, 1)
    # Also with no file of the release left, it is the process that answers.
    shutil.move(node.home / "releases/demo-2", tmp_path / "demo-2")
    other = node.put(document | {"hostnames": ["blog.localhost", "second.localhost"]})
    node.reported("blog", other, "serving")
    assert node.page("second.localhost")["pid"] == pid
    (tmp_path / "away").rename(tmp_path / "artifacts")
    wait_until(lambda: (node.last_report("blog") or {})["message"] == "", MEND_SECONDS, "that it is whole")
    assert (node.home / "releases/demo-2/static/style.css").exists()
    assert node.page("blog.localhost")["pid"] == pid
