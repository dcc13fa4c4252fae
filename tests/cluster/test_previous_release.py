"""A node of a release before this one, on this one's database; then this one takes over what it serves.

The agent is a real one, of a commit in the repository's history; its dependencies are this one's.
"""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cluster_lab import Cluster, Machine, control, wait_until

ROOT = Path(__file__).parents[2]
# The two states that were given out before this one. The first platform, whose nodes had no key, no orders and no
# modes: the oldest whose agents have to work. The first of several machines: what is upgraded to this one.
FIRST = "5d826b66ad36a6101496f4cfe17d4f101382b1c0"
CLUSTERS = "92f322ac0fbbee29fc557e09ac5ea0819bda060d"

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


def packages_of(commit: str, directory: Path) -> Path:
    """Return the packages of a commit; skip where the history does not reach that far."""
    if subprocess.run(["git", "-C", str(ROOT), "cat-file", "-e", f"{commit}^{{tree}}"], capture_output=True).returncode:
        pytest.skip(f"the repository's history does not reach {commit[:7]} (a shallow clone?)")
    archive = subprocess.run(
        ["git", "-C", str(ROOT), "archive", commit, "src"], check=True, capture_output=True, timeout=60
    )
    subprocess.run(["tar", "-x", "-C", str(directory)], input=archive.stdout, check=True, timeout=60)
    for path in (directory, *directory.parents[:-2]):
        path.chmod(0o755)
    return directory / "src"


def page(machine: Machine, hostname: str) -> dict[str, Any]:
    """Return what the application says of itself."""
    status, body = machine.get(hostname)
    assert status == 200
    return dict(json.loads(body))


def pid(machine: Machine, slug: str) -> int:
    """Return the process that answers for the site: one that was restarted is another."""
    answer = page(machine, f"{slug}.localhost")
    assert answer["site"] == slug
    return int(answer["pid"])


@pytest.mark.parametrize("commit", [FIRST, CLUSTERS], ids=["first", "clusters"])
def test_an_agent_of_before_works_and_is_followed_by_this_one(
    make_cluster: Callable[[int], Cluster], tmp_path: Path, commit: str
) -> None:
    cluster = make_cluster(0)
    machine = cluster.add_machine(code=packages_of(commit, tmp_path))

    for slug in ("always", "leaving", "plain"):
        control.create_site(slug, runtime="always_on")
    control.create_site("demand", runtime="on_demand")
    cluster.converge()
    processes = {slug: pid(machine, slug) for slug in ("always", "plain")}
    pid(machine, "demand")

    control.add_hostname("always", "more.example.test")
    control.remove_hostname("plain", "plain.localhost")
    control.add_hostname("plain", "plain.example.test")
    control.delete_site("leaving")
    cluster.converge()
    assert machine.serves("more.example.test", "always")
    assert machine.serves("plain.example.test", "plain")
    assert machine.get("plain.localhost")[0] == machine.get("leaving.localhost")[0] == 404
    assert cluster.sql("SELECT slug, state FROM node_site ORDER BY slug") == [
        (slug, "serving") for slug in ("always", "demand", "plain")
    ]

    control.set_mode("demand", "maintenance")
    cluster.converge()
    knows_modes = commit != FIRST
    assert machine.get("demand.localhost")[0] == (503 if knows_modes else 200)

    assert page(machine, "plain.example.test")["pid"] == processes["plain"]
    machine.upgrade()
    wait_until(lambda: said_by_this(cluster), what="a report of this release's agent")
    cluster.converge()
    wait_until(lambda: machine.get("demand.localhost")[0] == 503, what="the mode that the old agent may not know")
    control.set_mode("demand", "live")
    control.create_site("after")
    cluster.converge()
    assert machine.serves("after.localhost", "after")
    assert machine.serves("demand.localhost", "demand")
    assert machine.serves("more.example.test", "always")
    assert page(machine, "plain.example.test")["pid"] == processes["plain"], machine.output("agent")
    assert pid(machine, "always") == processes["always"], "nothing that serves as desired is restarted"
    assert cluster.conditions(machine) == {}


def said_by_this(cluster: Cluster) -> bool:
    """Whether this release's agent has reported: it says whether notifications arrive, once it has tried."""
    return cluster.sql("SELECT count(*) FROM node WHERE notifications AND version <> ''") == [(1,)]
