"""What is refused as a home, and what the message says to do."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from tenantry.embedded.errors import HomeUnusable
from tenantry.embedded.home import MAX_PATH_BYTES, check_home, create_home, make_layout


def test_a_new_directory_is_looked_at_and_made_later(place: Path) -> None:
    home = check_home(place / "one" / "two")
    assert home.root == place / "one" / "two"
    assert not (place / "one").exists()
    create_home(home)
    assert list(home.root.iterdir()) == []


def test_a_link_is_followed(place: Path) -> None:
    (place / "real").mkdir()
    (place / "link").symlink_to("real")
    assert check_home(place / "link").root == place / "real"


def test_a_long_path_names_the_limit_and_makes_nothing(place: Path) -> None:
    path = place / ("x" * MAX_PATH_BYTES)
    with pytest.raises(HomeUnusable, match=f"at most {MAX_PATH_BYTES}.*--home"):
        check_home(path)
    assert not path.exists()


@pytest.mark.parametrize("name", ["a b", 'a"b', "a;b", "a\nb", "a$b", "a%b", "a{b", "ä", "-a"])
def test_characters_that_configuration_files_cannot_hold(place: Path, name: str) -> None:
    with pytest.raises(HomeUnusable, match="letters, digits"):
        check_home(place / name)
    assert not (place / name).exists()


@pytest.mark.parametrize("name", ["a.b", "A_b-c", ".hidden"])
def test_ordinary_characters(place: Path, name: str) -> None:
    assert check_home(place / name).root == place / name
    assert list(place.iterdir()) == []


def test_a_directory_with_other_things_in_it(place: Path) -> None:
    (place / "thesis.txt").write_text("years of work")
    with pytest.raises(HomeUnusable, match=r"thesis\.txt.*empty directory"):
        check_home(place)
    assert (place / "thesis.txt").read_text() == "years of work"


def test_what_an_interrupted_first_up_left_is_no_obstacle(place: Path) -> None:
    for name in ("venv", "cache", "lock", "etc", "logs", "secrets", "postgres"):
        (place / name).mkdir()
    assert check_home(place).root == place


def test_not_writable(place: Path, as_somebody: None) -> None:
    if place.stat().st_uid == os.geteuid():
        place.chmod(0o555)
    with pytest.raises(HomeUnusable, match=r"not writable.*--home"):
        check_home(place)
    with pytest.raises(HomeUnusable, match=r"cannot be made.*--home"):
        check_home(place / "below")


def test_a_file_in_the_way(place: Path) -> None:
    (place / "file").touch()
    for path in (place / "file", place / "file" / "home"):
        with pytest.raises(HomeUnusable, match="cannot be made"):
            check_home(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's servers run as other users")
def test_root_needs_a_home_that_others_can_reach(place: Path) -> None:
    (place / "closed").mkdir(mode=0o700)
    with pytest.raises(HomeUnusable, match=r"chmod o\+x .*/closed"):
        check_home(place / "closed" / "home")
    assert not (place / "closed" / "home").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs two users")
def test_a_home_of_somebody_else(place: Path) -> None:
    (place / "config.json").write_text("{}")
    os.chown(place / "config.json", 65534, 65534)
    with pytest.raises(HomeUnusable, match="was made by nobody"):
        check_home(place)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"f_bavail": 1}, "MB free.*Make room"), ({"f_favail": 3}, "3 more files"), ({"f_files": 0, "f_favail": 0}, None)],
)
def test_a_full_disk(place: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, int], message: str | None) -> None:
    space = {"f_bavail": 10**9, "f_frsize": 4096, "f_files": 10**6, "f_favail": 10**6, **change}
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(**space))
    if message is None:
        check_home(place / "home")
        return
    with pytest.raises(HomeUnusable, match=message):
        check_home(place / "home")
    assert not (place / "home").exists()


def test_the_layout_does_not_depend_on_the_umask(place: Path) -> None:
    home = check_home(place / "home")
    before = os.umask(0o077)
    try:
        make_layout(home, None)
        make_layout(home, None)
    finally:
        os.umask(before)
    modes = {name: (home.root / name).stat().st_mode & 0o7777 for name in (".", "etc", "logs", "secrets", "postgres")}
    assert modes == {".": 0o755, "etc": 0o755, "logs": 0o750, "secrets": 0o711, "postgres": 0o755}
