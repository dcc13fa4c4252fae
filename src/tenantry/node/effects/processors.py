"""How much of the processors each site takes, and who gives way: control groups of either version."""

import contextlib
from pathlib import Path

from tenantry.node import vassal
from tenantry.node.layout import Layout, parse_vassal
from tenantry.node.probes import entries
from tenantry.node.vassal import find_groups

_NANOSECONDS, _MICROSECONDS = 1e9, 1e6
COUNTED_PASSES = 3  # they start others meanwhile, which one that forks without end does for ever


class ProcessorGroups:
    """The sites' groups. They are made by the wrapper; without any, nobody is known to take anything."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        groups = find_groups(str(layout.home))
        self._shared = Path(groups.get("cpu", "/nowhere"))
        self._counted = Path(groups.get("cpuacct", self._shared))
        self.giving_way: frozenset[str] = frozenset()

    def used_by_all(self) -> float | None:
        """Return the seconds of processor time that all sites took so far, None where that is not counted."""
        return _used(self._counted)

    def used(self) -> dict[str, float]:
        """Return the seconds of processor time that each generation («blog.3») took so far.

        Nothing while one of them is not counted, started by a release that did not: others must not give way to it.
        """
        uncounted = _generations(self._shared) - _generations(self._counted)
        for name in uncounted:
            self._count(name)
        if uncounted:
            return {}
        found = {name: _used(self._counted / name) for name in _generations(self._counted)}
        return {name: used for name, used in found.items() if used is not None}

    def give_way(self, names: frozenset[str]) -> frozenset[str]:
        """Have these, and no others of those that did so far, take only what the other sites leave; return who does.

        Generations that no visitor is led to are left as they are: they load, or end. Kernels before 5.15 cannot.
        """
        for name in self.giving_way - names:
            if self._serves(name):
                vassal.set_idle(str(self._shared / name), idle=False)
        self.giving_way = frozenset(
            name for name in names if self._serves(name) and vassal.set_idle(str(self._shared / name), idle=True)
        )
        return self.giving_way

    def _serves(self, name: str) -> bool:
        made = parse_vassal(f"{name}.ini")
        return made is not None and str(made[1]) in vassal.leads(str(self._layout.site(made[0])))

    def _count(self, name: str) -> None:
        """Count the time of a generation's processes from now on, and of all that they start."""
        counted = self._counted / name
        try:
            counted.mkdir(exist_ok=True)
            for _ in range(COUNTED_PASSES):
                for pid in (self._shared / name / "cgroup.procs").read_text().split():
                    with contextlib.suppress(ProcessLookupError):
                        (counted / "cgroup.procs").write_text(pid)
        except OSError:  # it is gone, or may not be moved here
            with contextlib.suppress(OSError):  # as long as a process is in it, it stays
                counted.rmdir()


def _generations(group: Path) -> set[str]:
    return {name for name in entries(group) if parse_vassal(f"{name}.ini")}


def _used(group: Path) -> float | None:
    """Version 1 has a file of nanoseconds, version 2 a line of microseconds."""
    try:
        return int((group / "cpuacct.usage").read_text()) / _NANOSECONDS
    except OSError:
        pass  # not of version 1, or gone
    try:
        words = (group / "cpu.stat").read_text().split()
        return int(words[words.index("usage_usec") + 1]) / _MICROSECONDS
    except (OSError, ValueError):
        return None
