"""Processes by /proc: whose children they are, and how urgently they run."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Process:
    """One process. Its number alone may be another's later; with the time of its start, in clock ticks, it is not."""

    pid: int
    started: int


def children(pid: int) -> frozenset[Process]:
    """Return the children of a process that have not ended; none of one that is gone."""
    found = (find(child) for child in child_pids(pid))
    return frozenset(process for process in found if process is not None)


def child_pids(pid: int) -> list[int]:
    """Return the numbers of a process's children, those that have ended and were not waited for included."""
    try:
        return [int(child) for child in Path(f"/proc/{pid:d}/task/{pid:d}/children").read_text().split()]
    except OSError:
        return []


def find(pid: int) -> Process | None:
    """Return the process with this number, None when there is none or it has ended."""
    try:
        # The name, in parentheses, may hold anything.
        fields = Path(f"/proc/{pid:d}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else Process(pid, int(fields[19]))


def owner(pid: int) -> int | None:
    """Return the user of a process, None when it is gone. Whose `/proc/<pid>` is says less: it may be made root's."""
    try:
        status = Path(f"/proc/{pid:d}/status").read_text(errors="replace")
    except OSError:
        return None
    return int(status.partition("\nUid:")[2].split(None, 1)[0])


def processor_seconds(pid: int) -> float:
    """Return how much of the processor a process has used so far, 0 when it is gone."""
    try:
        fields = Path(f"/proc/{pid:d}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS


def descendants(process: Process) -> Iterator[Process]:
    """Yield a process and all below it, parents first."""
    yield process
    for child in children(process.pid):
        yield from descendants(child)


def set_priority(pid: int, niceness: int) -> None:
    """Give a process, all below it and all their threads this niceness, as far as it is allowed."""
    root = find(pid)
    for process in descendants(root) if root else ():
        try:
            for thread in os.listdir(f"/proc/{process.pid:d}/task"):  # noqa: PTH208  (names are wanted)
                os.setpriority(os.PRIO_PROCESS, int(thread), niceness)
        except OSError:
            continue  # it ended, or it belongs to somebody else
