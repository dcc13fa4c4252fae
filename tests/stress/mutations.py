"""What a person with an editor, a script gone wrong or a disk does to a node: one random damage at a time."""

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stress_world import World

NOBODY = 65534
HOUR_SECONDS = 3600.0

State = tuple[Any, ...] | None


@dataclass
class Mutation:
    """One damage. `slug` None: of the node itself. `whole` tells whether it was undone."""

    name: str
    slug: str | None
    path: Path
    whole: Callable[[], bool]
    at: float = field(default_factory=time.time)
    undone_at: float | None = None
    found: float | None = None  # by the node's own word, on the same clock
    repaired: float | None = None


def state_of(path: Path) -> State:
    """Return what is at a path: its type, mode, owner, and content or target. None: nothing."""
    try:
        state = os.lstat(path)
    except OSError:
        return None
    found: tuple[Any, ...] = (stat.S_IFMT(state.st_mode), stat.S_IMODE(state.st_mode), state.st_uid, state.st_gid)
    if stat.S_ISLNK(state.st_mode):
        return (*found, os.readlink(path))
    if stat.S_ISREG(state.st_mode) and "logs" not in path.parts:
        with contextlib.suppress(FileNotFoundError):
            return (*found, path.read_bytes())
    return found


# What is done to a path


def delete(path: Path) -> None:
    path.unlink()


def edit(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"\n# edited\n")


def edit_older(path: Path) -> None:
    """An edit that no comparison of times notices."""
    before = path.stat()
    edit(path)
    os.utime(path, (before.st_atime - HOUR_SECONDS, before.st_mtime - HOUR_SECONDS))


def edit_same_time(path: Path) -> None:
    before = path.stat()
    edit(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def truncate(path: Path) -> None:
    os.truncate(path, 0)


def chmod(path: Path) -> None:
    path.chmod(stat.S_IMODE(path.stat().st_mode) ^ 0o022)


def chown(path: Path) -> None:
    os.chown(path, NOBODY, NOBODY, follow_symlinks=False)


def swap(path: Path, target: str) -> None:
    path.unlink()
    path.symlink_to(target)


def dangle(path: Path) -> None:
    swap(path, "nowhere-at-all")


def to_file(path: Path) -> None:
    """A directory, or a link, becomes a file."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
    path.write_text("a file now")


def replace_by_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


FILE_DEEDS = (delete, edit, edit_older, edit_same_time, truncate, chmod, chown, replace_by_directory)


class Mutator:
    """Damages a world at random. No more than one damage at a time of any site, or of the node."""

    def __init__(self, world: World, seed: int) -> None:
        self._world = world
        self._run = world.node.home / "run"
        self._random = random.Random(seed)
        self._count = 0

    def of_site(self, slug: str, other: str) -> Mutation:
        """Damage something of the site; `other` is where swapped links lead."""
        directory = self._run / "sites" / slug
        generation = (directory / "app.sock").readlink().name.removesuffix(".sock")
        ini = self._run / "vassals" / f"{slug}.{generation}.ini"
        document = directory / f"site.{generation}.json"
        host = self._run / "hosts" / f"{slug}.localhost"
        data = self._world.node.home / "data" / slug
        chance = self._random
        match chance.choice(("file", "file", "link", "link", "socket", "process", "directory", "foreign", "log")):
            case "file":
                return self._do(slug, chance.choice((ini, document)), chance.choice(FILE_DEEDS))
            case "link":
                of_sleep = ((directory / "serving", f"{other}.sock"), (directory / "idle", "3"))
                path, target = chance.choice(
                    (
                        *(of_sleep if self._world.is_on_demand(slug) else ()),
                        (directory / "app.sock", f"../{other}/app.sock"),
                        (directory / "static", "../../../releases/demo-2/static"),
                        (directory / "media", f"../../../data/{other}/media"),
                        (host, f"../sites/{other}"),
                    )
                )
                deeds = (delete, dangle, to_file, replace_by_directory, lambda path: swap(path, target))
                return self._do(slug, path, chance.choice(deeds))
            case "socket":
                return self._do(slug, directory / f"{generation}.sock", chance.choice((delete, chmod, chown)))
            case "process":
                return self._kill(slug, f"{slug}.{generation}")
            case "directory":
                path, deed = chance.choice(
                    (
                        (directory, chmod),
                        (directory, chown),
                        (directory, to_file),
                        (directory, shutil.rmtree),
                        (data / "media", chmod),
                        (data / "home", chown),
                        (data / "tmp", shutil.rmtree),
                        (data / "tmp", to_file),
                    )
                )
                return self._do(slug, path, deed)
            case "log":
                return self._do(
                    slug, self._world.node.home / "logs" / "sites" / f"{slug}.log", chance.choice((chmod, chown))
                )
            case _:
                self._count += 1
                path = chance.choice(
                    (
                        directory / f"foreign-{self._count}",
                        directory / "mode.maintenance",
                        directory / "mode.readonly",
                        directory / "mode.json",
                        self._run / "modes" / f"{slug}.json",
                        self._run / "hosts" / f"stolen-{self._count}.localhost",
                        self._run / "vassals" / f"{slug}.{900 + self._count}.ini",
                    )
                )
                return self._add(slug, path)

    def of_node(self) -> Mutation:
        """Damage something that belongs to no site."""
        home = self._world.node.home
        chance = self._random
        self._count += 1
        path, deed = chance.choice(
            (
                *((home / "etc" / "nginx.conf", deed) for deed in FILE_DEEDS),
                (home / "etc" / "emperor.ini", edit),
                (home / "etc" / "emperor.ini", delete),
                (home / "etc" / "vassal", edit_older),
                (home / "etc" / "vassal", chmod),
                (home / "run" / "vassals", chmod),
                (home / "state" / "head.json", chmod),
                (home / "state", chown),
                (home / "run" / "hosts" / f"nobody-{self._count}.localhost", None),
                (home / "run" / "vassals" / f"nobody-{self._count}.1.ini", None),
                (home / "run" / "vassals" / f"Foreign_{self._count}.ini", None),
                (home / "run" / "sites" / f"nobody-{self._count}", None),
                (home / "run" / "draining", None),
            )
        )
        return self._add(None, path) if deed is None else self._do(None, path, deed)

    def _do(self, slug: str | None, path: Path, deed: Callable[[Path], None]) -> Mutation:
        before = state_of(path)
        name = f"{getattr(deed, '__name__', 'swap').strip('<>').replace('lambda', 'swap')} {path.name}"
        mutation = Mutation(name, slug, path, lambda: state_of(path) == before and self._serves(slug))
        deed(path)
        return mutation

    def _add(self, slug: str | None, path: Path) -> Mutation:
        mutation = Mutation(f"add {path.name}", slug, path, lambda: not os.path.lexists(path) and self._serves(slug))
        if path.parent.name == "hosts":
            path.symlink_to(f"../sites/{slug or 'nobody'}")
        elif path.parent.name == "sites":
            path.mkdir()
        else:
            path.write_text("[uwsgi]\nmaster = true\n" if path.suffix == ".ini" else "")
        return mutation

    def _kill(self, slug: str, title: str) -> Mutation:
        before = self._processes(title)
        path = self._run / "vassals" / f"{title}.ini"
        mutation = Mutation("kill process", slug, path, lambda: self._runs_anew(title, before) and self._serves(slug))
        for pid in before:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return mutation

    def _runs_anew(self, title: str, before: set[int]) -> bool:
        now = self._processes(title)
        return bool(now) and not now & before

    def _processes(self, title: str) -> set[int]:
        """Return the processes of one generation: the one the emperor knows, and its children."""
        with socket.socket(socket.AF_UNIX) as emperor:
            emperor.connect(str(self._run / "emperor.sock"))
            with emperor.makefile("rb") as answer:
                vassals = json.load(answer)["vassals"]
        masters = [vassal["pid"] for vassal in vassals if vassal["id"] == f"{title}.ini"]
        found = set(masters)
        for pid in masters:
            with contextlib.suppress(OSError):
                found |= set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
        return found

    def _serves(self, slug: str | None) -> bool:
        return slug is None or self._world.visit(f"{slug}.localhost") == (200, slug.encode())
