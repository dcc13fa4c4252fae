"""Fixtures of the tests with several machines: skipped, with the reason, where machines cannot be made."""

import importlib.util
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

HERE = Path(__file__).parent


def _load(name: str, path: Path) -> ModuleType:
    """Load a module or package beside the tests under `name`: importlib mode does not put them on the path."""
    if name in sys.modules:
        return sys.modules[name]
    places = [str(path.parent)] if path.name == "__init__.py" else None
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=places)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


node_lab = _load("node_lab", HERE.parent / "node" / "lab.py")
lab: Any = _load("cluster_lab", HERE / "lab" / "__init__.py")


@pytest.fixture(scope="session")
def hosts() -> None:
    """Skip where hosts cannot be made, and say why."""
    reason = lab.why_no_network()
    if reason is None and node_lab.reachable_python() is None:
        reason = "needs a Python of this version that every user can execute"
    if reason is None and shutil.which("nginx", path="/usr/sbin:/usr/bin") is None:
        reason = "needs nginx"
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture(scope="session")
def golden(hosts: None, tmp_path_factory: pytest.TempPathFactory, django_db_blocker: Any) -> Path:
    """The data directory that every test's PostgreSQL begins with."""
    directory = tmp_path_factory.mktemp("golden") / "data"
    with django_db_blocker.unblock():
        lab.make_golden(directory)
    return directory


@pytest.fixture
def make_cluster(golden: Path, django_db_blocker: Any) -> Iterator[Callable[..., Any]]:
    """A function that makes a cluster of so many nodes, which is gone after the test."""
    with ExitStack() as stack, django_db_blocker.unblock():
        yield lambda nodes, **options: stack.enter_context(lab.cluster(golden, nodes, **options))


@pytest.fixture
def network(hosts: None) -> Iterator[Any]:
    with lab.network() as made:
        yield made
