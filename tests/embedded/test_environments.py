"""The platform's virtualenv is whole, also after an installation that was cut off."""

import importlib
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tenantry.embedded.signals import Interruption

ROOT = Path(__file__).parents[2]


@pytest.fixture
def environments(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of bin/ that makes virtualenvs."""
    monkeypatch.syspath_prepend(str(ROOT / "bin"))
    return importlib.import_module("_uv")


def imports(venv: Path, module: str) -> bool:
    command = [venv / "bin" / "python", "-c", f"import {module}"]
    return subprocess.run(command, capture_output=True, timeout=60).returncode == 0


def test_an_installation_that_was_cut_off_is_made_anew(environments: Any, tmp_path: Path) -> None:
    interruption = Interruption()
    uv = environments.need_uv(interruption)
    venv = tmp_path / "venv"
    arguments = ["--no-dev", "--no-emit-workspace"]
    environments._install(interruption, uv, venv, sys.executable, arguments, renew=False)
    assert imports(venv, "django.core")
    # What a Ctrl-C in the middle leaves: a package's metadata without all of its modules.
    shutil.rmtree(next(venv.glob("lib/python3*/site-packages/django/core")))
    assert next(venv.glob("lib/python3*/site-packages/django-*.dist-info"))
    environments._install(interruption, uv, venv, sys.executable, arguments, renew=False)
    assert imports(venv, "django.core")
