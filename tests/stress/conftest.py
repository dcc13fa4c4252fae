"""Fixtures of the stress tests: the node's lab, and the measurements of `bench` that the tests hold to promises."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))  # `bench` is no part of the distribution

if "node_lab" not in sys.modules:
    _SPEC = importlib.util.spec_from_file_location("node_lab", ROOT / "tests" / "node" / "lab.py")
    assert _SPEC is not None
    assert _SPEC.loader is not None
    lab = importlib.util.module_from_spec(_SPEC)
    sys.modules["node_lab"] = lab
    _SPEC.loader.exec_module(lab)
lab = sys.modules["node_lab"]


@pytest.fixture(scope="session")
def postgres() -> Iterator["lab.Postgres"]:
    if lab.reachable_python() is None or not Path("/usr/sbin/nginx").exists():
        pytest.skip("needs nginx and a Python of this version that every user can execute")
    if not list(Path("/usr/lib/postgresql").glob("*/bin/initdb")):
        pytest.skip("needs PostgreSQL")
    with lab.running_postgres() as cluster:
        yield cluster


@pytest.fixture
def node(postgres: "lab.Postgres") -> Iterator["lab.Node"]:
    """A prepared home without processes, over an empty desired state."""
    made = lab.Node(postgres)
    try:
        made.prepare()
        yield made
    finally:
        made.close()
