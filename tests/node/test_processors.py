"""The groups of both versions, as directories: what is read of them, who may give way, and what is not counted yet."""

from pathlib import Path

import pytest

from tenantry.node.effects import processors
from tenantry.node.effects.processors import ProcessorGroups
from tenantry.node.layout import Layout


class Machine:
    """A home with sites, and directories that stand for groups."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch, *, apart: bool) -> None:
        self.layout = Layout(path / "home")
        self.shared = path / "cpu"
        self.counted = path / "cpuacct" if apart else self.shared
        found = {"cpu": str(self.shared)} | ({"cpuacct": str(self.counted)} if apart else {})
        monkeypatch.setattr(processors, "find_groups", lambda home: found)
        for place in (self.shared, self.counted):
            place.mkdir(exist_ok=True)

    def site(self, slug: str, serving: int) -> None:
        """Have visitors led to this generation."""
        directory = self.layout.site(slug)  # type: ignore[arg-type]
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "app.sock").unlink(missing_ok=True)
        (directory / "app.sock").symlink_to(f"{serving}.sock")

    def group(self, name: str, *, idle: int = 0, counted: bool = True) -> Path:
        group = self.shared / name
        group.mkdir()
        (group / "cpu.idle").write_text(f"{idle}")
        if counted:
            (self.counted / name).mkdir(exist_ok=True)
        return group / "cpu.idle"


def test_time_is_read_of_either_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(tmp_path, monkeypatch, apart=False)
    groups = ProcessorGroups(machine.layout)
    assert groups.used_by_all() is None
    (machine.shared / "cpu.stat").write_text("usage_usec 2500000\nuser_usec 1\n")
    machine.group("old.1")
    machine.group("new.12")
    (machine.shared / "old.1" / "cpuacct.usage").write_text("1500000000\n")
    (machine.shared / "new.12" / "cpu.stat").write_text("nr_periods 0\nusage_usec 250000\n")
    machine.group("gone.1")
    (machine.shared / "no generation").mkdir()
    assert groups.used_by_all() == 2.5
    assert groups.used() == {"old.1": 1.5, "new.12": 0.25}


def test_who_gives_way_serves_and_what_ends_is_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(tmp_path, monkeypatch, apart=False)
    groups = ProcessorGroups(machine.layout)
    machine.site("blog", 3)
    old, new = machine.group("blog.3"), machine.group("blog.4", idle=1)  # the new one loads
    assert groups.give_way(frozenset({"blog.3", "blog.4", "gone.1"})) == {"blog.3"}
    assert (old.read_text(), new.read_text()) == ("1", "1")
    machine.site("blog", 4)
    new.write_text("0")  # the agent had it step forward, and has the old one give way while it ends
    assert groups.give_way(frozenset()) == frozenset()
    assert (old.read_text(), new.read_text()) == ("1", "0")
    assert groups.give_way(frozenset({"blog.4"})) == {"blog.4"}
    groups.give_way(frozenset())
    assert new.read_text() == "0"


def test_while_one_is_not_counted_nobody_is_known_to_take_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(tmp_path, monkeypatch, apart=True)
    groups = ProcessorGroups(machine.layout)
    machine.group("blog.1")
    (machine.counted / "blog.1" / "cpuacct.usage").write_text("1000000000")
    assert groups.used() == {"blog.1": 1.0}
    former = machine.group("former.1", counted=False).parent
    (former / "cgroup.procs").write_text("12\n")
    assert groups.used() == {}
    assert (machine.counted / "former.1" / "cgroup.procs").read_text() == "12"
    assert groups.used() == {"blog.1": 1.0}, "the kernel tells the other's time from now on"
    (machine.shared / "broken.1").mkdir()  # nothing says which its processes are
    for _ in range(2):
        assert groups.used() == {}
    assert not (machine.counted / "broken.1").exists()


@pytest.mark.timeout(10)
def test_a_site_that_starts_processes_without_end_does_not_hold_the_agent_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(tmp_path, monkeypatch, apart=True)
    former = machine.group("former.1", counted=False).parent
    (former / "cgroup.procs").symlink_to("/proc/sys/kernel/random/uuid")  # another one at each look
    assert ProcessorGroups(machine.layout).used() == {}
    assert (machine.counted / "former.1" / "cgroup.procs").exists()
