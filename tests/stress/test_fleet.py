"""Many agents on one PostgreSQL: a change reaches all of them, and none storms a server that comes back."""

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
from bench import fleet
outcome = fleet.run(int(sys.argv[1]), changes=int(sys.argv[2]), idle_seconds=float(sys.argv[3]))
print("OUTCOME", json.dumps(asdict(outcome)))
"""


def run(agents: int, changes: int, idle_seconds: float, seconds: int) -> dict[str, Any]:
    command = [sys.executable, "-c", RUN, str(agents), str(changes), str(idle_seconds)]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, timeout=seconds, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    said, _, outcome = done.stdout.rpartition("OUTCOME")
    print(said)
    return dict(json.loads(outcome))


def judge(outcome: dict[str, Any], attempts: int) -> None:
    """`attempts` within any second as the server sees them: in a crowded process one may come late, the next not."""
    applied = outcome["applied"]
    p99 = applied[int(len(applied) * 0.99) - 1]
    restart = outcome["restart"]
    print(f"{outcome['agents']} agents: applied p99 {p99:.2f} s; idle {outcome['idle']}; restart {restart}")
    assert p99 <= 2.0
    assert restart["most_per_second"] <= attempts


@pytest.mark.timeout(400)
def test_fifty_agents() -> None:
    outcome = run(50, 3, 5.0, 350)
    judge(outcome, attempts=2)
    assert outcome["restart"]["caught_up_seconds"] <= 15.0


@pytest.mark.long
@pytest.mark.timeout(1_800)
def test_a_thousand_agents() -> None:
    judge(run(1_000, 20, 60.0, 1_700), attempts=3)
