"""Where a home's control groups belong, for the arrangements of groups that machines have."""

import builtins
import io
import os
import shutil
from pathlib import Path

import pytest

from tenantry.node import vassal
from tenantry.node.effects.limits import remove_abandoned_groups

OTHERS = "21 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n22 21 0:5 / /proc rw - proc proc rw\n"


def arrange(monkeypatch: pytest.MonkeyPatch, groups: str, mounts: str, *, writable: bool = True) -> None:
    """Let the kernel answer so; every other file is the machine's own."""
    answers = {"/proc/self/cgroup": groups, "/proc/self/mountinfo": OTHERS + mounts}
    real = builtins.open

    def answer(path: str, *arguments: object) -> object:
        return io.StringIO(answers[path]) if path in answers else real(path, *arguments)  # type: ignore[call-overload]

    monkeypatch.setattr(builtins, "open", answer)
    monkeypatch.setattr(os, "access", lambda path, mode: writable)


def unified(tmp_path: Path, enabled: str, *groups: str) -> str:
    """A directory that looks like control groups of version 2; returns its line of the mounts."""
    for name in ("", *groups):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / name / "cgroup.subtree_control").write_text(enabled)
    return f"30 21 0:26 / {tmp_path} rw - cgroup2 cgroup2 rw,nsdelegate\n"


def test_version_1_groups_lie_below_the_platforms_own(monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = "".join(
        f"3{number} 21 0:2{number} / /sys/fs/cgroup/{names} rw - cgroup cgroup rw,{names}\n"
        for number, names in enumerate(("memory", "cpu,cpuacct", "pids"))
    )
    arrange(monkeypatch, "4:memory:/box\n2:cpu,cpuacct:/\n8:pids:/a/b\n0::/\n", mounts)
    assert vassal.find_groups("/var/lib/tenantry") == {
        "memory": "/sys/fs/cgroup/memory/box/tenantry:var:lib:tenantry",
        "cpu": "/sys/fs/cgroup/cpu,cpuacct/tenantry:var:lib:tenantry",
        "aside": "/sys/fs/cgroup/cpu,cpuacct/tenantry-aside:var:lib:tenantry",
        "pids": "/sys/fs/cgroup/pids/a/b/tenantry:var:lib:tenantry",
    }


def test_in_a_container_the_path_begins_with_what_is_mounted(monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = "31 21 0:21 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"
    arrange(monkeypatch, "4:memory:/docker/abc\n", mounts)
    assert vassal.find_groups("/h") == {"memory": "/sys/fs/cgroup/memory/tenantry:h"}
    arrange(monkeypatch, "4:memory:/../../elsewhere\n", mounts.replace("/docker/abc", "/"))
    assert vassal.find_groups("/h") == {"memory": "/sys/fs/cgroup/memory/tenantry:h"}


def test_version_2_groups_lie_beside_the_platforms_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mounts = unified(tmp_path, "cpuset cpu memory pids\n", "system.slice/tenantry.service/supervisor")
    (tmp_path / "system.slice/tenantry.service/cgroup.subtree_control").write_text("cpu memory")
    arrange(monkeypatch, "0::/system.slice/tenantry.service/supervisor\n", mounts)
    place = f"{tmp_path}/system.slice/tenantry.service/tenantry:h"
    monkeypatch.setattr(vassal, "_write", lambda path, text: None)  # the kernel's file takes «+memory» and shows all
    assert vassal.find_groups("/h") == {"memory": place, "cpu": place}


def test_without_a_controller_there_is_no_group(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mounts = unified(tmp_path, "")
    monkeypatch.setattr(vassal, "_write", lambda path, text: None)
    arrange(monkeypatch, "0::/\n", mounts)
    assert vassal.find_groups("/h") == {}
    arrange(monkeypatch, "0::/\n", "30 21 0:26 / /nowhere ro - cgroup2 cgroup2 ro\n")
    assert vassal.find_groups("/h") == {}
    arrange(
        monkeypatch, "4:memory:/\n", "31 21 0:21 / /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n", writable=False
    )
    assert vassal.find_groups("/h") == {}
    arrange(monkeypatch, "", "")
    assert vassal.find_groups("/h") == {}


def test_a_site_without_a_group_starts_and_its_log_says_what_is_missing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    vassal.enter_groups("blog.1", {"memory_mb": 0}, {})
    vassal.enter_groups("blog.1", {}, {"pids": str(tmp_path / "read" / "only")})
    assert capfd.readouterr().err == ""
    vassal.enter_groups("blog.1", {"memory_mb": 5}, {})
    vassal.enter_groups("blog.1", {"memory_mb": 5}, {"memory": str(tmp_path / "read" / "only")})
    said = capfd.readouterr().err.splitlines()
    assert said[0] == "vassal: no limit of memory: this machine offers no control group for it"
    assert said[1].startswith("vassal: no limit of memory: [Errno 2]")


def test_a_groups_name_tells_its_home() -> None:
    for home in ("/var/lib/tenantry", "/tmp/a-b.c/d", "/x"):
        for aside in (False, True):
            assert vassal.home_of_group(vassal.group_name(home, aside=aside)) == home
    for other in ("docker", "tenantry", "tenantry:", "system.slice", "x:tenantry:y", ""):
        assert vassal.home_of_group(other) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="control groups are root's")
def test_the_groups_of_a_deleted_home_go_and_others_stay(tmp_path: Path) -> None:
    gone, here = tmp_path / "gone", tmp_path / "here"
    here.mkdir()
    groups = [*vassal.find_groups(str(gone)).values(), *vassal.find_groups(str(here)).values()]
    if not groups:
        pytest.skip("this machine has no control groups")
    try:
        for group in groups:
            (Path(group) / "blog.1").mkdir(parents=True)
        remove_abandoned_groups()
        assert {path for path in groups if Path(path).exists()} == set(vassal.find_groups(str(here)).values())
    finally:
        shutil.rmtree(here)
        remove_abandoned_groups()
    assert not [path for path in groups if Path(path).exists()]
