"""Step fetch: the project's source, from a directory or a git repository, into `releases/<name>/src`."""

import os
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from tenantry.control.releases.building.commands import BuildLog, Command, Runner
from tenantry.control.releases.building.context import StepFailed

LEFT_OUT = frozenset(
    {
        ".bzr",
        ".git",
        ".hg",
        ".mypy_cache",
        ".nox",
        ".pytest_cache",
        ".ruff_cache",
        ".svn",
        ".tox",
        "__pycache__",
        "node_modules",
    }
)

_URL = re.compile(r"(?:https?|ssh|git|file)://[^\s]+\Z")
_SCP = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*@[A-Za-z0-9][A-Za-z0-9.-]*:[^\s:][^\s]*\Z")
_REF = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./+-]{0,199}\Z")


def is_git_url(source: str) -> bool:
    """True when `source` is an address for `git`, not a directory. Only https, http, ssh, git and file are known."""
    return bool(_URL.match(source) or _SCP.match(source))


def copy_directory(source: Path, target: Path, log: BuildLog) -> list[str]:
    """Copy `source` into `target` (which exists and is empty); returns warnings.

    Version control, caches, `node_modules` and virtualenvs are left out. Links inside the project stay links; one that
    points out of the project is left out, for it would give the project's code a file of the machine's.
    """
    root = os.path.realpath(source)
    warnings: list[str] = []
    for entry, relative in _walk(root):
        goal = target / relative
        kind = entry.stat(follow_symlinks=False).st_mode
        if stat.S_ISLNK(kind):
            link = _inner_link(root, entry.path)
            if link is None:
                warnings.append(f"The link {relative} points outside of the project and was left out.")
            else:
                goal.symlink_to(link)
        elif stat.S_ISDIR(kind):
            goal.mkdir()
        elif stat.S_ISREG(kind):
            _copy_file(entry.path, goal)
        else:
            warnings.append(f"{relative} is neither a file, a directory nor a link and was left out.")
    for warning in warnings:
        log.say(warning)
    return warnings


def _walk(root: str) -> Iterator[tuple["os.DirEntry[str]", str]]:
    """Every entry to copy with its path below `root`, a directory before what is in it."""
    pending = [root]
    while pending:
        with os.scandir(pending.pop()) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        for entry in found:
            if entry.name in LEFT_OUT or entry.name.endswith((".pyc", ".pyo")):
                continue
            if entry.is_dir(follow_symlinks=False):
                if os.path.lexists(os.path.join(entry.path, "pyvenv.cfg")):  # noqa: PTH118 - DirEntry paths are str
                    continue
                pending.append(entry.path)
            yield entry, os.path.relpath(entry.path, root)


def _inner_link(root: str, path: str) -> str | None:
    """The relative text of a link that stays within `root`, or None."""
    goal = os.path.realpath(path)
    if goal != root and not goal.startswith(root + os.sep):
        return None
    text = os.readlink(path)  # noqa: PTH115
    return os.path.relpath(goal, os.path.dirname(path)) if os.path.isabs(text) else text  # noqa: PTH117, PTH120


def _copy_file(source: str, target: Path) -> None:
    reading = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(reading, "rb") as content, target.open("xb") as copy:  # noqa: PTH123 - a descriptor, not a path
        mode = os.fstat(content.fileno()).st_mode
        shutil.copyfileobj(content, copy, 1_048_576)
        os.fchmod(copy.fileno(), 0o755 if mode & 0o100 else 0o644)


def drop_outside_links(root: Path, log: BuildLog) -> list[str]:
    """Remove links below `root` that point out of it (a clone brings them as they are); returns warnings."""
    real = os.path.realpath(root)
    warnings = []
    for directory, directories, files in os.walk(real):
        for name in directories + files:
            path = os.path.join(directory, name)  # noqa: PTH118
            if os.path.islink(path) and (  # noqa: PTH114
                os.path.isabs(os.readlink(path)) or _inner_link(real, path) is None  # noqa: PTH115, PTH117
            ):
                os.unlink(path)  # noqa: PTH108
                relative = os.path.relpath(path, real)
                warnings.append(f"The link {relative} points outside of the project and was left out.")
    for warning in warnings:
        log.say(warning)
    return warnings


def clone(url: str, ref: str, target: Path, scratch: Path, runner: Runner, seconds: float) -> str:
    """Fetch one commit of a repository into `target`; returns its full hash.

    git runs as the project's user with none of the machine's configuration: no credentials, prompts, hooks, submodules
    or transports that run commands.
    """
    if shutil.which("git") is None:
        raise StepFailed("git is not installed. Install it (apt install git), or give the path of a directory.")
    if not is_git_url(url):
        raise StepFailed(f"{url!r} is not an address that git can fetch over https, ssh, git or file.")
    if ref and not _REF.match(ref):
        raise StepFailed(f"{ref!r} is not the name of a branch, a tag or a commit.")
    environment = _git_environment(scratch)

    def git(*argv: str) -> str:
        command = Command(("git", *argv), target, environment, seconds)
        return runner.run(command, f"git {argv[0]} of {url} failed")

    git("init", "--quiet", "--template=", ".")
    git("fetch", "--quiet", "--depth=1", "--no-tags", "--no-recurse-submodules", "--", url, ref or "HEAD")
    git("checkout", "--quiet", "--detach", "FETCH_HEAD")
    commit = git("rev-parse", "HEAD").strip()
    shutil.rmtree(target / ".git")
    return commit


def _git_environment(scratch: Path) -> dict[str, str]:
    configuration = {
        "safe.directory": "*",  # a local repository may belong to somebody else; nothing of it is executed
        "core.hooksPath": "/dev/null",
        "core.symlinks": "true",
        "protocol.allow": "never",
        "protocol.https.allow": "always",
        "protocol.http.allow": "always",
        "protocol.ssh.allow": "always",
        "protocol.git.allow": "always",
        "protocol.file.allow": "always",
    }
    config = scratch / "gitconfig"
    lines = []
    for key, value in configuration.items():
        section, _, name = key.rpartition(".")
        head, _, sub = section.partition(".")
        lines.append(f'[{head} "{sub}"]\n' if sub else f"[{head}]\n")
        lines.append(f"\t{name} = {value}\n")
    config.write_text("".join(lines))
    config.chmod(0o644)
    network = ("SSL_CERT_FILE", "SSL_CERT_DIR", "GIT_SSL_CAINFO", "HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy")
    return {name: os.environ[name] for name in network if name in os.environ} | {
        "GIT_ALLOW_PROTOCOL": "https:http:ssh:git:file",
        "GIT_ASKPASS": "/bin/false",
        "GIT_CONFIG_GLOBAL": str(config),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_SSH_COMMAND": "ssh -o BatchMode=yes -o StrictHostKeyChecking=accept-new",
        "GIT_TERMINAL_PROMPT": "0",
        "HOME": str(scratch),
        "LANG": "C.UTF-8",
        "PATH": "/usr/local/bin:/usr/bin:/bin",
    }


def commit_of(directory: Path) -> str:
    """Return the commit that `directory` has checked out, or "". Reads files only: git would obey its configuration."""
    try:
        git = directory / ".git"
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head if re.fullmatch(r"[0-9a-f]{40,64}", head) else ""
        name = head.removeprefix("ref: ")
        if not re.fullmatch(r"refs/[A-Za-z0-9_./+-]+", name) or ".." in name:
            return ""
        loose = git / name
        if loose.is_file():
            return loose.read_text().strip()[:64]
        for line in (git / "packed-refs").read_text().splitlines():
            commit, _, packed = line.partition(" ")
            if packed == name:
                return commit[:64]
    except (OSError, UnicodeDecodeError):
        pass
    return ""
