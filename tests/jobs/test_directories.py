"""A site's directories: owned right, repeated safely, removed without following what a hostile site put there."""

import os
import stat
import subprocess
from pathlib import Path

import pytest

from tenantry.control.data.directories import (
    SiteOwner,
    make_site_directories,
    remove_site_directories,
    site_owner,
)


def modes(home: Path) -> dict[str, str]:
    return {
        name: f"{stat.S_IMODE((home / 'data/blog' / name).stat().st_mode):o}" for name in (".", "media", "home", "tmp")
    }


def test_directories_are_made_once_and_stay(home: Path, uid_base: int | None) -> None:
    owner = site_owner(uid_base, 17)
    make_site_directories(home, "blog", owner)
    (home / "data/blog/media/picture").write_text("x")
    make_site_directories(home, "blog", owner)
    assert modes(home) == {".": "711", "media": "2750", "home": "700", "tmp": "700"}
    assert (home / "data/blog/media/picture").read_text() == "x"
    if owner.uid is not None:
        assert (home / "data/blog").stat().st_uid == os.geteuid()
        media = (home / "data/blog/media").stat()
        assert (media.st_uid, media.st_gid) == (owner.uid, owner.media_gid)
        assert (home / "data/blog/home").stat().st_gid == owner.uid


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives sites users of their own")
def test_a_slug_used_again_gets_nothing_of_the_former_site(home: Path) -> None:
    make_site_directories(home, "blog", SiteOwner(1_900_020_001, 33))
    (home / "data/blog/media/old").write_text("x")
    make_site_directories(home, "blog", SiteOwner(1_900_020_002, 33))
    assert list((home / "data/blog/media").iterdir()) == []


def test_removal_deletes_links_not_what_they_point_at(home: Path, uid_base: int | None) -> None:
    outside = home / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    make_site_directories(home, "blog", site_owner(uid_base, 17))
    (home / "data/blog/media/link").symlink_to(outside)
    (home / "data/blog/home/loop").symlink_to(home / "data/blog")
    (home / "data/blog/home/closed").mkdir(mode=0o000)
    remove_site_directories(home, "blog")
    remove_site_directories(home, "blog")
    assert (outside / "precious").exists()
    assert list((home / "data").iterdir()) == []


def nest(directory: Path, levels: int) -> None:
    """Make directories in one another, deeper than any path can name."""
    at = os.open(directory, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=at)
        below = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)


def test_a_site_cannot_keep_itself_by_directories_that_are_nested_deep(home: Path, uid_base: int | None) -> None:
    make_site_directories(home, "blog", site_owner(uid_base, 17))
    for name in ("media", "home", "tmp"):
        nest(home / "data/blog" / name, 5_000)
    remove_site_directories(home, "blog")
    assert list((home / "data").iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
def test_what_cannot_be_removed_is_an_error_that_names_it(home: Path, uid_base: int | None) -> None:
    make_site_directories(home, "blog", site_owner(uid_base, 17))
    mounted = home / "data/blog/media/mounted"
    mounted.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", mounted], capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine lets nobody mount")
    try:
        with pytest.raises(OSError, match=r"\.removed-blog was not removed: .*media/mounted"):
            remove_site_directories(home, "blog")
    finally:
        subprocess.run(["umount", home / "data/.removed-blog/media/mounted"], check=True)


def test_a_link_in_place_of_media_is_not_followed(home: Path, uid_base: int | None) -> None:
    outside = home / "outside"
    outside.mkdir(mode=0o700)
    (home / "data/blog").mkdir(parents=True)
    (home / "data/blog/media").symlink_to(outside)
    with pytest.raises(OSError, match=r"Not a directory|Too many levels"):
        make_site_directories(home, "blog", site_owner(uid_base, 17))
    assert stat.S_IMODE(outside.stat().st_mode) == 0o700
