"""The tests' labs, for measurements: one node of real parts (`node_lab`), and several machines (`lab`)."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

TESTS = Path(__file__).parents[1] / "tests"


def load_module(name: str, path: Path) -> ModuleType:
    """Load a module or package below tests/, which is no package itself."""
    places = [str(path.parent)] if path.name == "__init__.py" else None
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=places)
    if spec is None or spec.loader is None:
        raise RuntimeError(f"{path} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


node_lab: Any = load_module("node_lab", TESTS / "node" / "lab.py")
lab: Any = load_module("cluster_lab", TESTS / "cluster" / "lab" / "__init__.py")
