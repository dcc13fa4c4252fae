"""What is copied of a project, and what is not."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tenantry.control.releases.building.commands import BuildLog
from tenantry.control.releases.building.fetch import commit_of, copy_directory, is_git_url


@pytest.fixture
def log(tmp_path: Path) -> Iterator[BuildLog]:
    log = BuildLog(tmp_path / "log")
    yield log
    log.close()


def test_code_is_copied_and_rubbish_is_not(tmp_path: Path, log: BuildLog) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    for name in ("app/__pycache__", ".git/objects", "node_modules/x", "env/lib", "empty"):
        (source / name).mkdir(parents=True)
    (source / "env/pyvenv.cfg").touch()
    (source / "manage.py").write_text("x")
    (source / "manage.py").chmod(0o744)
    (source / ".env").write_text("A=1")
    (source / "app/old.pyc").touch()
    target.mkdir()
    assert copy_directory(source, target, log) == []
    assert sorted(str(path.relative_to(target)) for path in target.rglob("*")) == [".env", "app", "empty", "manage.py"]
    assert (target / "manage.py").stat().st_mode & 0o777 == 0o755
    assert (target / ".env").stat().st_mode & 0o777 == 0o644


def test_links_stay_links_inside_and_are_dropped_outside(tmp_path: Path, log: BuildLog) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "app").mkdir(parents=True)
    (source / "app/real").write_text("x")
    (source / "relative").symlink_to("app/real")
    (source / "app/absolute").symlink_to(source / "app/real")
    (source / "directory").symlink_to("app")
    (source / "passwd").symlink_to("/etc/passwd")
    (source / "up").symlink_to("../outside")
    (source / "sneaky").symlink_to("app/../../outside")
    (tmp_path / "outside").write_text("secret")
    os.mkfifo(source / "pipe")
    target.mkdir()
    warnings = copy_directory(source, target, log)
    links = {str(path.relative_to(target)): os.readlink(path) for path in target.rglob("*") if path.is_symlink()}
    assert links == {"relative": "app/real", "app/absolute": "real", "directory": "app"}
    assert sorted(warning.split()[2 if warning.startswith("The") else 0] for warning in warnings) == [
        "passwd",
        "pipe",
        "sneaky",
        "up",
    ]
    assert "passwd points outside" in log.tail


@pytest.mark.parametrize("url", ["https://x.org/a.git", "ssh://git@x.org/a", "git@x.org:a/b.git", "file:///srv/a"])
def test_git_addresses(url: str) -> None:
    assert is_git_url(url)


@pytest.mark.parametrize(
    "text", ["/srv/shop", "ext::sh -c id", "-u@x:y", "https://a b", "git@x.org::a", "https://x\n", ""]
)
def test_not_git_addresses(text: str) -> None:
    assert not is_git_url(text)


@pytest.mark.parametrize(
    ("files", "commit"),
    [
        ({}, ""),
        ({"HEAD": "b" * 40 + "\n"}, "b" * 40),
        ({"HEAD": "ref: refs/heads/main\n", "refs/heads/main": "c" * 40 + "\n"}, "c" * 40),
        ({"HEAD": "ref: refs/heads/main\n", "packed-refs": f"# x\n{'d' * 40} refs/heads/main\n"}, "d" * 40),
        ({"HEAD": "ref: refs/heads/../../../secret\n"}, ""),
        ({"HEAD": "ref: refs/heads/main\n"}, ""),
    ],
)
def test_the_commit_is_read_without_running_git(tmp_path: Path, files: dict[str, str], commit: str) -> None:
    for name, text in files.items():
        path = tmp_path / ".git" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert commit_of(tmp_path) == commit
