"""What holds a site to its limits besides its own process: control groups, flags for nginx, the size of its files."""

import asyncio
import contextlib
import json
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tenantry.node import vassal
from tenantry.node.config import Config
from tenantry.node.effects.files import remove, write_file
from tenantry.node.layout import Layout, parse_vassal
from tenantry.node.probes import entries
from tenantry.node.render.engine import STOP_SECONDS
from tenantry.node.vassal import find_groups
from tenantry.spec.limits import DEFAULT_LIMITS, Limits
from tenantry.spec.names import Slug

logger = logging.getLogger(__name__)

MEASURE_SECONDS = 120.0  # for the files of one site; more are not counted to the end
FLAG_MODE = 0o644
LEFT_SECONDS = STOP_SECONDS + 5.0  # uWSGI kills its workers before
GONE_SECONDS = 5.0  # in which the processes of a group that is to be removed end
_STEP_SECONDS = 0.05


def needs_long(limits: Limits) -> bool:
    """Whether nginx has to wait longer for the site than it does for others."""
    return limits.request_seconds > DEFAULT_LIMITS.request_seconds


class SiteLimits:
    """This machine's means against a site that takes too much. Groups are made by the wrapper, and removed here."""

    def __init__(self, config: Config, giving_way: Callable[[], frozenset[str]] = frozenset) -> None:
        """`giving_way`: the generations that are to have less of the processor than is usual."""
        self._layout = config.layout
        self._giving_way = giving_way
        self._crowded: dict[str, float] = {}  # groups of generations that are no more, since when they have processes

    def controllers(self) -> frozenset[str]:
        """Return the control groups' controllers that this machine offers."""
        return frozenset(find_groups(str(self._layout.home))) & set(vassal.CONTROLLERS)

    def note_groups(self) -> None:
        """Remember where the groups are: `down` may be run from another session, which has other groups around it."""
        groups = json.dumps(find_groups(str(self._layout.home)), sort_keys=True)
        write_file(_note(self._layout), groups.encode(), mode=0o600)

    def set_long(self, slug: Slug, limits: Limits | None) -> None:
        """Have nginx wait for the site as long as its requests may take."""
        self._flag(self._layout.long / slug, limits is not None and needs_long(limits))

    def set_full(self, slug: Slug, full: bool) -> None:
        """Have nginx refuse uploads to the site, or take them again."""
        self._flag(self._layout.full / slug, full)

    def _flag(self, path: Path, up: bool) -> None:
        if up and not path.exists():
            write_file(path, b"", mode=FLAG_MODE)
        elif not up:
            remove(path)

    def flagged(self) -> frozenset[Slug]:
        """Return the sites that have a flag."""
        return frozenset(Slug(name) for place in (self._layout.long, self._layout.full) for name in entries(place))

    def is_here(self, slug: Slug) -> bool:
        """Whether anything of the site is on the node."""
        return os.path.lexists(self._layout.site(slug))

    def remove_old_groups(self) -> None:
        """Remove the groups of generations that are no more. What is still in one when its processes must have ended
        was left behind, and is ended: a site leaves a limit of its memory with each generation otherwise.
        """
        crowded = set()
        directories = set(find_groups(str(self._layout.home)).values())
        for directory in directories:
            for name in entries(Path(directory)):
                made = parse_vassal(f"{name}.ini")
                if made is None or os.path.lexists(self._layout.vassal(*made)):
                    continue
                try:
                    os.rmdir(f"{directory}/{name}")  # noqa: PTH106
                except OSError:
                    crowded.add(name)
        now = time.monotonic()
        self._crowded = {name: self._crowded.get(name, now) for name in crowded}
        for name, since in self._crowded.items():
            if now - since > LEFT_SECONDS:
                self._empty(name, [Path(directory) / name for directory in directories])
        remove_abandoned_groups()

    def _empty(self, name: str, groups: list[Path]) -> None:
        """End all processes in the groups of a generation that is no more: first it may not start others."""
        slug, generation = parse_vassal(f"{name}.ini") or ("", 0)
        left = {pid for group in groups for pid in _processes(group)}
        # A site on demand may wake at this moment. What was listed before its ini came is not its own.
        if not left or os.path.lexists(self._layout.vassal(Slug(slug), generation)):
            return
        for group in groups:
            with contextlib.suppress(OSError):
                (group / "pids.max").write_text("0")  # set anew when the group is entered again
        left |= {pid for group in groups for pid in _processes(group)}
        logger.warning("%s is no more, and %d of its processes are left: they are killed", name, len(left))
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def bring_forward(self) -> None:
        """Give the generations that visitors are led to their share, where they still have less: none does by itself.

        It was tried by an agent that ended, or by one that knows nothing of this, or its process was started anew
        between the last question and the switch.
        """
        groups = find_groups(str(self._layout.home))
        for name in {name for kind in ("cpu", vassal.ASIDE) for name in entries(Path(groups.get(kind, "/nowhere")))}:
            made = parse_vassal(f"{name}.ini")
            if made is None or str(made[1]) not in vassal.leads(str(self._layout.site(made[0]))):
                continue
            if vassal.is_behind(name, groups, gives_way=name in self._giving_way()):
                logger.warning("%s serves visitors and had less than its share of the processor", name)
                vassal.step_forward(name, groups, percent=100)

    def kills(self) -> dict[str, int]:
        """Return how many processes the kernel ended at the limit of memory, by generation («blog.3»)."""
        directory = find_groups(str(self._layout.home)).get("memory")
        if directory is None:
            return {}
        return {
            name: _kills(Path(directory) / name) for name in entries(Path(directory)) if parse_vassal(f"{name}.ini")
        }

    async def disk_mb(self, slug: Slug) -> int | None:
        """Return the size of the site's files, None when it could not be told in time.

        `du` goes through them without following links, below everybody else's priority.
        """
        command = ["nice", "-n", "19", "du", "-skx", "--", str(self._layout.data(slug)), str(self._layout.log(slug))]
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
        try:
            async with asyncio.timeout(MEASURE_SECONDS):
                output, _ = await process.communicate()
        except TimeoutError:
            return None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        sizes = [int(line.split()[0]) for line in output.splitlines()]  # a file that went meanwhile is left out
        return sum(sizes) // 1024 if sizes else None


async def remove_groups(layout: Layout) -> list[str]:
    """Remove every control group of this home; return those that are still there: processes are in them."""
    left = dict.fromkeys(_noted(layout))
    for _ in range(int(GONE_SECONDS / _STEP_SECONDS)):
        for path in list(left):
            if _remove_tree(path):
                del left[path]
        if not left:
            break
        await asyncio.sleep(_STEP_SECONDS)
    return list(left)


def remove_abandoned_groups() -> None:
    """Remove the groups of homes that are no more: deleted, instead of stopped with `tenantry down`."""
    around = {str(Path(path).parent) for path in find_groups("/").values()}
    for directory in around:
        for name in entries(Path(directory)):
            home = vassal.home_of_group(name)
            if home is not None and not os.path.lexists(home):
                _remove_tree(f"{directory}/{name}")


def _remove_tree(path: str) -> bool:
    for name in entries(Path(path)):
        with contextlib.suppress(OSError):
            os.rmdir(f"{path}/{name}")  # noqa: PTH106  the files of a group are no entries to be removed
    with contextlib.suppress(OSError):
        os.rmdir(path)  # noqa: PTH106
    return not os.path.lexists(path)


def _noted(layout: Layout) -> Iterator[str]:
    """The groups in use and those an agent noted, as far as they are control groups of this home's name."""
    own = set(find_groups(str(layout.home)).values())
    names = {vassal.group_name(str(layout.home), aside=aside) for aside in (False, True)}
    names |= {Path(path).name for path in own}
    with contextlib.suppress(OSError, ValueError, AttributeError):
        own |= {path for path in json.loads(_note(layout).read_bytes()).values() if isinstance(path, str)}
    for path in sorted(own):
        if Path(path).name in names and path.startswith("/sys/fs/cgroup/"):
            yield path


def _note(layout: Layout) -> Path:
    return layout.state / "groups.json"


def _processes(group: Path) -> list[int]:
    try:
        return [int(pid) for pid in (group / "cgroup.procs").read_text().split()]
    except OSError:
        return []


def _kills(group: Path) -> int:
    for name in ("memory.events", "memory.oom_control"):
        with contextlib.suppress(OSError):
            words = [line.split() for line in (group / name).read_text().splitlines()]
            return sum(int(value) for key, value in words if key == "oom_kill")
    return 0
