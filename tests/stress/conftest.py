"""Fixtures of the stress tests: the node's lab, and the measurements of `bench` that the tests hold to promises."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tenantry.testing.postgres import has_postgres

ROOT = Path(__file__).parents[2]
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))  # `bench` is no part of the distribution


def _load(name: str, path: Path) -> ModuleType:
    """Load a module beside the tests, which importlib mode does not put on the path."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


lab = _load("node_lab", ROOT / "tests" / "node" / "lab.py")
_load("stress_world", ROOT / "tests" / "stress" / "world.py")
_load("stress_mutations", ROOT / "tests" / "stress" / "mutations.py")


@pytest.fixture(scope="session")
def postgres() -> Iterator["lab.Postgres"]:
    if lab.reachable_python() is None or not Path("/usr/sbin/nginx").exists():
        pytest.skip("needs nginx and a Python of this version that every user can execute")
    if not has_postgres():
        pytest.skip("needs PostgreSQL")
    with lab.running_postgres() as cluster:
        yield cluster


@pytest.fixture
def node(postgres: "lab.Postgres") -> Iterator["lab.Node"]:
    """A prepared home without processes, over an empty desired state."""
    with lab.prepared(postgres) as made:
        yield made
