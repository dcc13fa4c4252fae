"""The last accepted state on disk: whatever breaks, what can be used is used, and what cannot is said."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tenantry.node.answer import Entry, parse_entry
from tenantry.node.desired import Head, Held
from tenantry.node.memory import LastKnown
from tenantry.spec.names import Slug

HEAD = Head("one", 10)


def entry(slug: str, **changes: Any) -> Entry:
    return parse_entry(
        {
            "slug": slug, "number": 1, "project_number": 1, "revision": 1, "present": True, "generation": 1,
            "mode": "live", "runtime": "always_on", "processes": 1, "threads": 1,
            "release": {"name": "demo-1", "digest": "d", "wsgi": "a:b", "settings": "s", "manage": "manage.py",
                        "static": None, "serve_media": False},
            "health_path": "/", "hostnames": [f"{slug}.localhost"], "database": "site_1", "sealed": "",
        } | changes
    )  # fmt: skip


@pytest.fixture
def state(tmp_path: Path) -> Path:
    (tmp_path / "sites").mkdir()
    return tmp_path


def saved(state: Path, *slugs: str) -> None:
    LastKnown(state).save(HEAD, [entry(slug) for slug in slugs])


def test_what_was_saved_is_loaded(state: Path) -> None:
    entries = (entry("blog").shifted(3), entry("shop"))
    head = Head("one", 10, Held("RemovalHeld", frozenset({Slug("blog")})))
    LastKnown(state).save(head, entries)
    remembered = LastKnown(state).load()
    assert (remembered.head, remembered.entries, remembered.problems) == (head, entries, ())
    assert LastKnown(state).load_site(Slug("blog")) == entries[0]
    LastKnown(state).save(head, [Entry(Slug("blog"), 11, None, None)])
    assert LastKnown(state).load().entries == entries[1:]


def test_what_the_previous_release_saved_is_loaded(state: Path) -> None:
    (state / "head.json").write_text('{"version": 1, "epoch": "one", "revision": 10}')
    (state / "sites" / "blog.json").write_text(json.dumps(dict(entry("blog").document or {})))
    assert LastKnown(state).load().entries == (entry("blog"),)


@pytest.mark.parametrize(("content", "count"), [(None, 1), (b"{", 0), (b"[3]", 0), (b'[{"site": null}]', 0), (b"", 0)])
def test_open_drifts_are_remembered_and_damaged_ones_are_not(state: Path, content: bytes | None, count: int) -> None:
    saved(state, "blog")
    line = {"site": "blog", "kind": "file", "path": "x", "detail": "d", "found_at": 1.5}
    LastKnown(state).save_drifts([line])
    if content is not None:
        (state / "drift.json").write_bytes(content)
    remembered = LastKnown(state).load()
    assert len(remembered.drifts) == count
    assert remembered.head == HEAD


def test_nothing_saved_is_no_problem(state: Path) -> None:
    remembered = LastKnown(state).load()
    assert (remembered.head, remembered.problems) == (None, ())


@pytest.mark.parametrize(
    "content", [b"", b"\0\0", b"{", b"[]", b"null", b'{"version": 1}', b'{"version": "x", "epoch": "e", "revision": 1}',
                b'{"version": 1, "epoch": "e", "revision": 1, "held": 3}']
)  # fmt: skip
def test_a_damaged_head_is_said_and_replaced_by_the_next_save(state: Path, content: bytes) -> None:
    saved(state, "blog")
    (state / "head.json").write_bytes(content)
    memory = LastKnown(state)
    remembered = memory.load()
    assert remembered.head is None
    assert "head.json is damaged" in remembered.problems[0]
    memory.save(HEAD, [entry("blog")])
    assert LastKnown(state).load().head == HEAD


@pytest.mark.parametrize("content", [b"", b"{torn", b"[]", b'{"slug": "shop"}', b'{"slug": "../x", "revision": 1}'])
def test_a_damaged_site_is_left_out_and_said_and_the_others_are_used(state: Path, content: bytes) -> None:
    saved(state, "blog", "shop", "wiki")
    (state / "sites" / "shop.json").write_bytes(content)
    memory = LastKnown(state)
    remembered = memory.load()
    assert [found.slug for found in remembered.entries] == ["blog", "wiki"]
    assert remembered.problems == ("state/sites/shop.json is damaged and not used",)
    memory.save(HEAD, [])
    assert LastKnown(state).load().problems == ()


def test_the_memory_of_a_newer_release_is_kept_until_the_database_was_heard_and_beyond(state: Path) -> None:
    saved(state, "blog")
    newer = b'{"version": 2, "epoch": "one", "revision": 10, "more": []}'
    (state / "head.json").write_bytes(newer)
    memory = LastKnown(state)
    remembered = memory.load()
    assert remembered.head is None
    assert "newer release (version 2" in remembered.problems[0]
    assert (state / "head.json").read_bytes() == newer
    memory.save(HEAD, [entry("blog")])
    assert (state / "head.json.newer").read_bytes() == newer
    assert LastKnown(state).load().head == HEAD


SAVING = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_memory import entry
from tenantry.node.desired import Head
from tenantry.node.memory import LastKnown
memory = LastKnown(Path({state!r}))
for revision in range(1, 1_000_000):
    memory.save(Head("one", revision), [entry(f"site{{n}}", revision=revision) for n in range(5)])
    print(revision, flush=True)
"""


def test_killed_while_saving_it_is_whole_and_not_older_than_what_was_saved(state: Path) -> None:
    code = SAVING.format(tests=str(Path(__file__).parent), state=str(state))
    dice = random.Random(7)
    for _ in range(15):
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            first = process.stdout.readline()
            time.sleep(dice.random() * 0.05)
            process.send_signal(signal.SIGKILL)
            revisions = [int(line) for line in [first, *process.stdout.read().splitlines()] if line.strip().isdigit()]
        remembered = LastKnown(state).load()
        assert remembered.problems == ()
        assert remembered.head is not None
        assert remembered.head.revision >= max(revisions)
        assert len(remembered.entries) == 5
        assert all(found.revision >= remembered.head.revision for found in remembered.entries)


def test_on_a_full_disk_the_last_good_state_stays(state: Path) -> None:
    saved(state, "blog")
    before = {path: path.read_bytes() for path in state.rglob("*.json")}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))  # the write fails in its middle, as on a full disk
    try:
        with pytest.raises(OSError):
            LastKnown(state).save(Head("one", 11), [entry("blog", revision=11)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert {path: path.read_bytes() for path in state.rglob("*.json")} == before
    assert not [path for path in state.rglob("*") if path.name.endswith(".new")]
    LastKnown(state).save(Head("one", 11), [entry("blog", revision=11)])
    assert LastKnown(state).load().head == Head("one", 11)


def test_what_is_remembered_is_for_the_agent_alone(state: Path) -> None:
    os.umask(os.umask(0))
    saved(state, "blog")
    assert {path.stat().st_mode & 0o777 for path in state.rglob("*.json")} == {0o600}
