"""The change log: nothing missed, nothing out of order, no gaps, whoever writes, rolls back, compacts and reads."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
# In a process of its own: it sets Django up for itself and starts others.
RUN = """
import json, sys
from dataclasses import asdict
from bench import changelog
print("OUTCOME", json.dumps(asdict(getattr(changelog, sys.argv[1])(int(sys.argv[2]), int(sys.argv[3])))))
"""


def run(name: str, writers: int, changes: int, seconds: int) -> dict[str, Any]:
    command = [sys.executable, "-c", RUN, name, str(writers), str(changes)]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, timeout=seconds, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    outcome = json.loads(done.stdout.rpartition("OUTCOME")[2])
    speed = outcome["changes"] / outcome["seconds"]
    print(f"{name}: {writers} writers, {outcome['changes']:,} changes, {speed:.0f} a second; {outcome}")
    return dict(outcome)


def judge(outcome: dict[str, Any], changes: int) -> None:
    assert outcome["changes"] >= changes
    assert outcome["rolled_back"] > changes / 10
    assert outcome["cut_off"]
    assert outcome["compactions"]
    assert outcome["compacted"]
    found = {name: outcome[name] for name in ("missed", "out_of_order", "gaps", "wrong_answers")}
    assert found == dict.fromkeys(found, 0)


def test_64_writers_and_readers_that_miss_nothing() -> None:
    judge(run("run", 64, 3_000, 200), 3_000)


def test_numbers_from_a_sequence_would_be_noticed() -> None:
    """What the measurement is worth: with the usual outbox it finds what readers miss."""
    assert run("run_naive", 64, 640, 100)["missed"] > 0


@pytest.mark.long
@pytest.mark.timeout(1_800)
def test_64_writers_100_000_changes() -> None:
    outcome = run("run", 64, 100_000, 1_700)
    judge(outcome, 100_000)
    assert outcome["full_answers"] > outcome["agents"], "no agent was ever older than the log's tail"
