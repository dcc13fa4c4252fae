"""Which Python a build takes, and that its user can execute it."""

import os
import sys
from pathlib import Path

import pytest

from tenantry.control.releases.building.context import StepFailed
from tenantry.control.releases.building.interpreters import choose
from tenantry.interpreters import Interpreter, find_interpreters, make_reachable, probe, reachable_by_others


def python(version: str, path: str = "/usr/bin/python3") -> Interpreter:
    major, minor, micro = map(int, version.split("."))
    return Interpreter((major, minor, micro), Path(path), Path("/usr"))


# One of this machine that only its owner reaches, if there is one; what is not there is reached by nobody.
HIDDEN = next((one.path for one in find_interpreters() if not reachable_by_others(one.path)), Path("/nonexistent"))
FOUND = [python("3.13.0", str(HIDDEN)), python("3.12.4", "/bin/sh"), python("3.11.2", "/bin/sh")]


def test_asked_for_decides() -> None:
    assert choose(FOUND, "3.11", "3.12", ">=3.13", None).version_text == "3.11.2"
    assert choose(FOUND, "3.12.4", "", "", None).version_text == "3.12.4"
    assert choose(FOUND, sys.executable, "", "", None).version == sys.version_info[:3]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("3.9", r"no Python 3.9 .* Found: 3.13.0, 3.12.4, 3.11.2"),
        ("latest", "not a Python version"),
        ("/bin/sh", "is not a CPython"),
    ],
)
def test_what_is_not_there_is_said(asked: str, message: str) -> None:
    with pytest.raises(StepFailed, match=message):
        choose(FOUND, asked, "", "", None)


def test_the_project_decides_next() -> None:
    assert choose(FOUND, "", "3.11", "", None).version_text == "3.11.2"
    assert choose(FOUND, "", "", "<3.12", None).version_text == "3.11.2"
    assert choose(FOUND, "", "3.8", ">=3.12", None).version_text == "3.13.0"
    with pytest.raises(StepFailed, match=r"requires-python '>=4'.*Found: 3.13.0"):
        choose(FOUND, "", "", ">=4", None)
    with pytest.raises(StepFailed, match="not a version range"):
        choose(FOUND, "", "", "about three", None)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives builds a user of their own")
def test_as_root_one_that_the_projects_user_reaches_comes_first() -> None:
    assert choose(FOUND, "", "", "", 1_900_010_001).version_text == "3.12.4"
    assert choose(FOUND, "", "", ">=3.13", 1_900_010_001).version_text == "3.13.0"


def test_this_one_is_found_once_and_outside_of_its_virtualenv() -> None:
    found = find_interpreters()
    own = [one for one in found if one.version == sys.version_info[:3] and one.prefix == Path(sys.base_prefix)]
    assert len(own) == 1
    assert len({one.path for one in found}) == len(found)
    assert all("venv" not in one.path.parts for one in found)


def test_what_is_no_python_is_none() -> None:
    assert probe(Path("/bin/false")) is None
    assert probe(Path("/nonexistent")) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be where others cannot follow")
def test_a_hidden_interpreter_is_copied_and_runs_as_another_user(home: Path) -> None:
    hidden = [one for one in find_interpreters() if not reachable_by_others(one.path)]
    if not hidden:
        pytest.skip("every Python of this machine can be reached by all")
    uid = 1_900_010_001
    copied = make_reachable(hidden[0], home, uid)
    assert copied.path.is_relative_to(home / "pythons" / hidden[0].version_text)
    assert probe(copied.path, uid) == copied
    before = os.stat(copied.path).st_mtime_ns
    assert make_reachable(hidden[0], home, uid) == copied
    assert os.stat(copied.path).st_mtime_ns == before
    assert [path.name for path in (home / "pythons").iterdir()] == [hidden[0].version_text]
