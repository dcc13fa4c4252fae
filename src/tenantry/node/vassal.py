"""The emperor's wrapper: binds a site's socket, opens its log, becomes the site's user, starts its uWSGI.

A standalone script of the standard library: `prepare` copies it to `<home>/etc/vassal` and the emperor executes it
as `vassal --ini <slug>.<generation>.ini` in `run/vassals`. As root it reads only files that root alone can write.
`tenantry.node exec` uses the same steps to run a command as the site.

Steps, in this order: 1 urgency · 2 read site.<generation>.json · 3 log · 4 activity · 5 socket · 6 control groups ·
7 limits · 8 user · 9 directory · 10 exec. An interruption leaves at most a socket nobody listens on, which the next
start replaces.
"""

# pathlib would cost 10 ms at every start of a site. json and socket cost 10 ms, too: after the process stood aside.
# ruff: noqa: PTH102, PTH106, PTH108, PTH110, PTH112, PTH115, PTH119, PTH120, PTH208, S606
import fcntl
import os
import resource
import sys
import time

PR_SET_NO_NEW_PRIVS = 38
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
LOADING_SHARE = 10  # percent
CPU_SHARES = (("cpu.weight", 100), ("cpu.shares", 1024))  # what a control group of version 2, or 1, begins with
PERIOD_US = 100_000  # in which a bound of the processor is counted; both versions begin with it
VISITED_SECONDS = 5.0
LOADING_NICENESS = 10  # a ninth of the processor beside somebody who wants all of it: where there are no groups
NICE_LIMIT = 20  # allows niceness 0
LAST_CAPABILITY = 63  # the kernel answers EINVAL beyond its own last one
BACKLOG_MAX = 1024
MEBIBYTE = 1 << 20
CONTROLLERS = ("memory", "pids", "cpu", "cpuacct")  # the last in version 1 only: its time is counted apart there
ASIDE = "aside"  # beside them: the group, of version 1's processor, of those who give way
ROUNDS_MAX = 20
PROCESSES_MAX = 512  # and threads, where the document does not say
SOCKET_MODE = 0o660
OOM_SCORE = 500  # a machine without memory left ends the largest site's process, no server that all of them need
EMPEROR_VARIABLE = "UWSGI_EMPEROR_FD"  # the number in it grows with every vassal of the emperor
EMPEROR_FD = 4  # ... so it is moved, else it would one day be the number the ini expects the socket under
ACTIVITY = "activity"  # in the site's directory: its time is that of the last request
ACTIVITY_FD = 5  # where the process finds it; others it cannot reach
FREE_FD = 100  # beyond every number with a meaning
SLUG_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")


def main(argv: list[str]) -> None:
    """Become the process of the generation named by `--ini`; returns only by raising."""
    slug, generation = parse_arguments(argv)
    name = f"{slug}.{generation}"
    home = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    groups = find_groups(home)
    serving = leads(f"{home}/run/sites/{slug}")
    another = bool(serving) and generation not in serving
    bound = processor_bound() if another and is_visited(home) else None
    aside = another and stand_aside(name, groups, bound)
    document = read_document(f"{home}/run/sites/{slug}/site.{generation}.json")
    environment = dict(document["environment"])
    open_log(document)
    activity = open_activity(document)
    kept = {document["socket"]["fd"]: bind_socket(document["socket"]), ACTIVITY_FD: activity}
    environment["TENANTRY_ACTIVITY_FD"] = str(ACTIVITY_FD)
    if EMPEROR_VARIABLE in os.environ:
        kept[EMPEROR_FD] = int(os.environ[EMPEROR_VARIABLE])
        environment[EMPEROR_VARIABLE] = str(EMPEROR_FD)
    keep_only(kept)
    enter_groups(name, document["limits"], groups, but="cpu" if aside else None)
    adopt_orphans()
    if generation in serving:
        step_forward(name, groups, percent=100)  # whatever it was when it was tried
    elif not aside:
        step_back(f"{groups.get('cpu')}/{name}", bound, another=another)
    become(document)
    os.execve(document["argv"][0], document["argv"], environment)


def parse_arguments(argv: list[str]) -> tuple[str, str]:
    """Return slug and generation from `--ini <slug>.<generation>.ini`; SystemExit for anything else."""
    name = argv[2] if len(argv) == 3 and argv[1] == "--ini" else ""
    slug, _, rest = name.partition(".")
    generation = rest.removesuffix(".ini")
    if not rest.endswith(".ini") or not SLUG_LETTERS.issuperset(slug) or not slug:
        raise SystemExit(f"vassal: not the ini of a generation: {name!r}")
    if not generation.isascii() or not generation.isdigit():
        raise SystemExit(f"vassal: not a generation: {name!r}")
    return slug, generation


def read_document(path: str) -> dict:  # type: ignore[type-arg]
    """Return the document; a link in its place is refused."""
    import json

    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        document: dict = json.load(file)  # type: ignore[type-arg]
    if document["version"] != 1:
        raise SystemExit(f"vassal: {path} has version {document['version']}; run `prepare` of the same release")
    return document


def open_log(document: dict) -> None:  # type: ignore[type-arg]
    """Make the site's log standard output and error. The site may write and read it, control may read it."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
    descriptor = os.open(document["log"]["path"], flags, 0o640)
    os.fchmod(descriptor, 0o640)  # the emperor's umask hides it from control, too
    user = document["user"]
    if user is not None:
        os.fchown(descriptor, user["uid"], document["log"]["gid"])
    os.set_blocking(descriptor, True)
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)


def open_activity(document: dict) -> int:  # type: ignore[type-arg]
    """Open what has the time of the site's last request; it is now. The site's own to touch.

    A pipe: its time is as good as a file's, and a tenant can put nothing into it that takes room on the disk.
    """
    path = f"{os.path.dirname(document['socket']['path'])}/{ACTIVITY}"
    try:
        os.mkfifo(path, 0o600)
    except FileExistsError:
        pass
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    user = document["user"]
    if user is not None:
        os.fchown(descriptor, user["uid"], user["gid"])
    os.utime(descriptor)
    return descriptor


def bind_socket(place: dict) -> int:  # type: ignore[type-arg]
    """Return a listening socket, connectable by its owner and nginx's group from the first moment."""
    import socket

    path, gid = place["path"], place["gid"]
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    old_mask = os.umask(0o777 & ~SOCKET_MODE)
    old_gid = os.getegid()
    if gid is not None:
        os.setegid(gid)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    if gid is not None:
        os.setegid(old_gid)
    os.umask(old_mask)
    listener.listen(place.get("backlog", BACKLOG_MAX))  # the kernel takes no more than net.core.somaxconn
    return listener.detach()


def keep_only(places: dict) -> None:  # type: ignore[type-arg]
    """Move the descriptor `places[number]` to each `number`; close every other one but the standard three."""
    aside = {number: fcntl.fcntl(descriptor, fcntl.F_DUPFD, FREE_FD) for number, descriptor in places.items()}
    os.closerange(3, FREE_FD)
    for number, descriptor in aside.items():
        os.dup2(descriptor, number, inheritable=True)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in places:
            try:
                os.close(int(name))
            except OSError:
                pass  # the listing's own descriptor


def adopt_orphans() -> None:
    """Whatever a worker leaves behind becomes this process's child: it is known whose it is, and ends with it."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)


def leads(directory: str) -> list:  # type: ignore[type-arg]
    """Return the generations that visitors are led to: this one if it was ended and they wait for it, another, none."""
    found = []
    for link in ("app.sock", "app.http", "serving"):  # the last of a site that sleeps, and is being woken
        try:
            found.append(os.readlink(f"{directory}/{link}").partition(".")[0])
        except OSError:
            continue
    return [generation for generation in found if generation]  # where a site sleeps, a link leads to standby


def is_visited(home: str) -> bool:
    """Whether anybody visits a site of this node at present: nginx writes its log within a second."""
    try:
        return time.time() - os.lstat(f"{home}/logs/access.log").st_mtime < VISITED_SECONDS
    except OSError:
        return False


def processor_bound() -> int:
    """Return how much of all processors together may load while others serve, in percent of one.

    What loads fills the memory, which slows those who run beside it, however much it gives way.
    """
    return max(len(os.sched_getaffinity(0)) * 25, 50)


def step_back(group: str, bound: "int | None", *, another: bool) -> None:
    """While it loads, it must not slow those who serve. The agent takes this back when it is ready.

    Where visitors have another generation it gets what no other site wants; else, since somebody waits for it, some
    more. Only where that can be done: an ordinary user may not make a process more urgent again.
    """
    if another and set_idle(group, idle=True):
        set_bound(group, bound)
        return
    set_idle(group, idle=False)  # it may have been, when a process of before ended; an idle group takes no share
    if set_share(group, LOADING_SHARE):
        return
    if os.geteuid() == 0 or resource.getrlimit(resource.RLIMIT_NICE)[0] >= NICE_LIMIT:
        os.nice(LOADING_NICENESS)


def stand_aside(name: str, groups: dict, bound: "int | None") -> bool:  # type: ignore[type-arg]
    """Go, for the processor, into the group of those who give way to everything that runs beside the platform's sites.

    Within the group of all sites they would give way to sites alone, and take its weight from nginx and the database.
    `bound`: what this process and all it starts get of the processor at most, in percent of one.
    """
    aside = groups.get(ASIDE)
    if aside is None or not _may_be_moved():
        return False
    try:
        _make_place(aside, name)
        set_bound(f"{aside}/{name}", bound)
        _write(f"{aside}/{name}/cgroup.procs", str(os.getpid()))
    except OSError:
        return False  # a kernel before 5.15
    return True


def _may_be_moved() -> bool:
    """Whether the agent can move a process of another user: not where its root is root of a container only."""
    try:
        with open("/proc/self/uid_map") as file:  # noqa: PTH123
            return file.read().split() == ["0", "0", "4294967295"]
    except OSError:
        return False


def is_behind(name: str, groups: dict, *, gives_way: bool = False) -> bool:  # type: ignore[type-arg]
    """Whether a generation's processes have less of the processor than is usual; of one that `gives_way`, too little.

    An idle group has an idle group's share.
    """
    group = f"{groups.get('cpu')}/{name}"
    usual = [("cpu.cfs_quota_us", "-1"), ("cpu.max", f"max {PERIOD_US}")]
    if not gives_way:
        usual += [("cpu.idle", "0"), *((file, str(value)) for file, value in CPU_SHARES)]
    return os.path.isdir(f"{groups.get(ASIDE)}/{name}") or any(
        _read(f"{group}/{file}") not in ("", value) for file, value in usual
    )


def step_forward(name: str, groups: dict, *, percent: int) -> bool:  # type: ignore[type-arg]
    """Have a generation's processes take their part among the sites, with this share of what is usual.

    Returns whether none is left aside. Calling it again does no harm.
    """
    group, aside = f"{groups.get('cpu')}/{name}", f"{groups.get(ASIDE)}/{name}"
    if "cpu" in groups and os.path.isdir(aside):
        _make_group(groups["cpu"])
        _make_group(group)
    set_idle(group, idle=False)
    set_share(group, percent)
    set_bound(group, None)
    for _ in range(ROUNDS_MAX):  # what is moved may meanwhile have started something that is not
        for pid in _pids(aside):
            try:
                _write(f"{group}/cgroup.procs", pid)
            except OSError:
                continue  # it has ended
        try:
            os.rmdir(aside)
        except FileNotFoundError:
            return True
        except OSError:
            continue
        return True
    return False


def step_aside(name: str, groups: dict) -> None:  # type: ignore[type-arg]
    """Have a generation's processes give way to everything, as far as this machine can: nobody waits for them.

    What ends gives its memory back, which takes the kernel some ten milliseconds for each process.
    """
    aside = groups.get(ASIDE)
    if aside is None or not _may_be_moved():
        set_idle(f"{groups.get('cpu')}/{name}", idle=True)
        return
    try:
        _make_place(aside, name)
    except OSError:
        return  # a kernel before 5.15
    for pid in _pids(f"{groups['cpu']}/{name}"):
        try:
            _write(f"{aside}/{name}/cgroup.procs", pid)
        except OSError:
            continue  # it has ended


def _make_place(aside: str, name: str) -> None:
    """Make a generation's group among those who give way; OSError where the kernel cannot have any."""
    _make_directory(aside)
    _write(f"{aside}/cpu.idle", "1")
    _make_directory(f"{aside}/{name}")


def members(name: str, groups: dict) -> list:  # type: ignore[type-arg]
    """Return the numbers of a generation's processes, aside or among the sites, by its group of the processor."""
    places = {f"{groups[kind]}/{name}" for kind in ("cpu", ASIDE) if kind in groups}
    return [int(pid) for place in places for pid in _pids(place)]


def set_idle(group: str, *, idle: bool) -> bool:
    """Have whoever else wants the processor interrupt this group at once, or not; returns whether that could be done.

    A small share alone does not: its processes run to the end of their slice, and those who serve wait for it.
    """
    try:
        _write(f"{group}/cpu.idle", str(int(idle)))
    except OSError:
        return False
    return True


def set_bound(group: str, percent: "int | None") -> None:
    """Have a control group get at most this much, in percent of one processor, or take as much as there is."""
    quota = None if percent is None else PERIOD_US * percent // 100
    for file, value in (("cpu.max", f"{quota or 'max'} {PERIOD_US}"), ("cpu.cfs_quota_us", str(quota or -1))):
        try:
            _write(f"{group}/{file}", value)
        except OSError:
            continue  # of the other version, or no group at all


def set_share(group: str, percent: int) -> bool:
    """Give a control group this share of the processor, of what is usual; returns whether that could be done."""
    done = False
    for file, usual in CPU_SHARES:
        try:
            _write(f"{group}/{file}", str(usual * percent // 100))
            done = True
        except OSError:
            continue  # of the other version, or no group at all
    return done


def become(document: dict) -> None:  # type: ignore[type-arg]
    """Take the site's limits, user and directory. Afterwards nothing of root's rights is left, nor can be regained."""
    limits = document["limits"]
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    files = limits["open_files"] if hard == resource.RLIM_INFINITY else min(limits["open_files"], hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    if "file_mb" in limits:  # not in those of the release before
        size = limits["file_mb"] * MEBIBYTE
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump holds the site's secrets
    _write("/proc/self/oom_score_adj", str(OOM_SCORE))
    os.umask(0o027)
    user = document["user"]
    if user is not None:
        resource.setrlimit(resource.RLIMIT_NPROC, (limits["processes"], limits["processes"]))
        drop_capabilities()
        os.setgroups(user["groups"])
        os.setresgid(user["gid"], user["gid"], user["gid"])
        os.setresuid(user["uid"], user["uid"], user["uid"])
    forbid_new_privileges()
    os.chdir(document["cwd"])


def find_groups(home: str) -> dict:  # type: ignore[type-arg]
    """Return where this home's control groups belong, {controller: directory}, of the controllers that are to be had.

    And ASIDE, for the processor, in version 1: in version 2 the memory would not follow from one group to another.

    Version 1: below the group this process is in. Version 2: beside it, since a group with processes can have no
    groups with limits in it. What limits this process's own surroundings so limits the sites, too.
    """
    with open("/proc/self/cgroup") as file:  # noqa: PTH123
        lines = [line.rstrip("\n").split(":", 2) for line in file]
    own = {name: path for _, names, path in lines for name in names.split(",")}
    name = group_name(home)
    found: dict = {}  # type: ignore[type-arg]
    unified = ""
    with open("/proc/self/mountinfo") as file:  # noqa: PTH123
        for line in file:
            fields, _, rest = line.partition(" - ")
            root, place = fields.split()[3:5]
            kind, options = rest.split()[0], rest.split()[-1].split(",")
            if kind == "cgroup2":
                unified = unified or _own_group(place, root, own.get("", "/"), beside=True)
            elif kind == "cgroup":
                for controller in CONTROLLERS:
                    if controller in options:
                        found.setdefault(controller, f"{_own_group(place, root, own.get(controller, '/'))}/{name}")
    if "cpu" in found:
        found[ASIDE] = f"{os.path.dirname(found['cpu'])}/{group_name(home, aside=True)}"
    if found.get("cpuacct") == found.get("cpu"):  # mounted together: to enter the one would be to enter the other
        found.pop("cpuacct", None)
    if unified:
        for controller in _enabled(unified):
            found.setdefault(controller, f"{unified}/{name}")
    # Containers are often shown the groups read-only.
    return {controller: place for controller, place in found.items() if os.access(os.path.dirname(place), os.W_OK)}


def group_name(home: str, *, aside: bool = False) -> str:
    """Return the name of the group of all of a home's sites, or of those that stand aside."""
    return ("tenantry-aside" if aside else "tenantry") + home.replace("/", ":")


def home_of_group(name: str) -> "str | None":
    """Return the home whose sites' group has this name, None for another group's name."""
    prefix, separator, rest = name.partition(":")
    known = prefix in ("tenantry", "tenantry-aside")
    return f"/{rest.replace(':', '/')}" if separator and known and rest else None


def _own_group(place: str, root: str, path: str, *, beside: bool = False) -> str:
    """Return the directory of the group `path` in a file system mounted at `place`, which shows what is below `root`.

    With `beside` the one around it, except at the top.
    """
    inside = path[len(root) :] if root != "/" and path.startswith(root) else path
    parts = [part for part in inside.split("/") if part]
    if ".." in parts:
        return place
    return "/".join([place, *(parts[:-1] if beside else parts)])


def _enabled(directory: str) -> list:  # type: ignore[type-arg]
    """Return the controllers that groups in a group of version 2 have; those that are missing are asked for."""
    for controller in CONTROLLERS:
        try:
            _write(f"{directory}/cgroup.subtree_control", f"+{controller}")
        except OSError:
            pass  # not ours to give: what is enabled is read next
    try:
        with open(f"{directory}/cgroup.subtree_control") as file:  # noqa: PTH123
            return [controller for controller in file.read().split() if controller in CONTROLLERS]
    except OSError:
        return []


def enter_groups(name: str, limits: dict, groups: dict, *, but: "str | None" = None) -> None:  # type: ignore[type-arg]
    """Put this process, and all it starts, into a group of its own of each controller, or all but one.

    A site is started also without: `tenantry doctor` says what the machine lacks. Its log says it where it matters.
    """
    memory_mb = limits.get("memory_mb") or 0
    for controller, parent in groups.items():
        if controller in (ASIDE, but):
            continue
        if controller == "memory" and not memory_mb:
            continue  # a group of memory costs the kernel some, of each sleeping site too
        group = f"{parent}/{name}"
        try:
            _make_group(parent)
            _make_group(group)
            for file, value in _settings(group, memory_mb, limits.get("processes") or PROCESSES_MAX):
                _write(f"{group}/{file}", str(value))
            _write(f"{group}/cgroup.procs", str(os.getpid()))
        except OSError as error:
            if controller == "memory":
                os.write(2, f"vassal: no limit of memory: {error}\n".encode())
    if memory_mb and "memory" not in groups:
        os.write(2, b"vassal: no limit of memory: this machine offers no control group for it\n")


def _make_directory(path: str) -> bool:
    """Return whether it was not there."""
    try:
        os.mkdir(path, 0o755)
    except FileExistsError:
        return False
    return True


def _make_group(path: str) -> None:
    """Make a group; the first of a home weighs as much as all the platform's processes beside it."""
    if not _make_directory(path):
        return
    for file, value in (("cpu.weight", "1000"), ("cpu.shares", "10240")):
        if ":" in os.path.basename(path) and os.path.exists(f"{path}/{file}"):
            _write(f"{path}/{file}", value)
    if ":" in os.path.basename(path) and os.path.exists(f"{path}/cgroup.subtree_control"):
        _enabled(path)


def _pids(group: str) -> list:  # type: ignore[type-arg]
    """Return the numbers of the processes in a group, none of one that is not there."""
    return _read(f"{group}/cgroup.procs").split()


def _read(path: str) -> str:
    """Return what a file of a group says, nothing where it is not there."""
    try:
        with open(path) as file:  # noqa: PTH123
            return file.read().strip()
    except OSError:
        return ""


def _settings(group: str, memory_mb: int, processes: int) -> list:  # type: ignore[type-arg]
    """Return (file, value) of what the group's version and controllers have. Swap counts: a leak must not only slow."""
    size = memory_mb * MEBIBYTE if memory_mb else "max"
    wanted = [
        ("memory.max", size),
        ("memory.swap.max", 0 if memory_mb else "max"),
        ("memory.limit_in_bytes", size),
        ("memory.memsw.limit_in_bytes", size),
        ("pids.max", processes),
    ]
    return [(file, value) for file, value in wanted if os.path.exists(f"{group}/{file}")]


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def drop_capabilities() -> None:
    """Empty the bounding set: not even a program with file capabilities gives one back."""
    for capability in range(LAST_CAPABILITY + 1):
        if prctl(PR_CAPBSET_DROP, capability) != 0:
            break


def forbid_new_privileges() -> None:
    """No set-user-ID program works from here on."""
    if prctl(PR_SET_NO_NEW_PRIVS, 1) != 0:
        raise SystemExit("vassal: the kernel refused no_new_privs")


def prctl(option: int, value: int) -> int:
    """Call prctl(2); 0 is success."""
    import ctypes  # 2 ms: only after everything that can fail early

    return int(ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0))


if __name__ == "__main__":
    main(sys.argv)
