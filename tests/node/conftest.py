"""Fixtures of the node's tests: real parts, started once per worker where they are costly."""

import importlib.util
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tenantry.testing.postgres import has_postgres


def _load(name: str) -> Any:
    """Load a module beside the tests, which importlib mode does not put on the path, as `node_<name>`."""
    spec = importlib.util.spec_from_file_location(f"node_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[f"node_{name}"] = module
    spec.loader.exec_module(module)
    return module


lab = _load("lab")
_load("breakages")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = [name for name in ("nginx",) if shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin") is None]
    if not has_postgres():
        missing.append("PostgreSQL")
    if lab.reachable_python() is None:
        missing.append("a Python of this version that every user can execute")
    for item in items:
        if missing and "postgres" in getattr(item, "fixturenames", []):
            item.add_marker(pytest.mark.skip(reason=f"needs {', '.join(missing)}"))


@pytest.fixture(scope="session")
def postgres() -> Iterator["lab.Postgres"]:
    with lab.running_postgres() as cluster:
        yield cluster


@pytest.fixture
def node(postgres: "lab.Postgres") -> Iterator["lab.Node"]:
    """A prepared home without processes, over an empty desired state."""
    with lab.prepared(postgres) as made:
        yield made


@pytest.fixture
def serving(node: "lab.Node") -> "lab.Node":
    """A running node with one release, `demo-1`, and no sites."""
    return started(node)


@pytest.fixture(scope="module")
def blog(postgres: "lab.Postgres") -> Iterator["lab.Node"]:
    """A running node with the site `blog`, shared by the tests of a file: leave it as it was."""
    with lab.prepared(postgres) as made:
        started(made)
        made.reported("blog", made.put(made.document("blog", 1, "demo-1")))
        yield made


def started(node: "lab.Node") -> "lab.Node":
    node.release("demo-1")
    node.start_standby()
    node.start_nginx()
    node.start_emperor()
    node.start_agent()
    return node
