"""What the scripts in bin/ share: find or install what is missing, make the virtualenv, then run the real thing.

Standard library only: it must work with a bare python3.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from _apt import install_packages, missing_packages
from _lockfile import renew_lock
from _uv import CHECKOUT, find_uv, make_development_environment, make_platform_environment

from tenantry.embedded.config import NODE, check_ports, choose_config, choose_node_config, load_config
from tenantry.embedded.errors import CommandFailed, EmbeddedError, Interrupted
from tenantry.embedded.home import check_home, create_home, make_layout
from tenantry.embedded.invitation import parse_invitation, pin_ca
from tenantry.embedded.lock import hold_lock
from tenantry.embedded.options import TOKEN_APART, TOKEN_VARIABLE, join_parser, up_parser
from tenantry.embedded.processes import find_processes
from tenantry.embedded.programs import need_postgres
from tenantry.embedded.signals import Interruption

_TESTS_FAILED = 1  # pytest's exit code
_AGAIN_MAX = 25  # more failures than this are no race
_STORIES = "tests/acceptance/"  # these files tell a story in order: a chapter alone means nothing
_MEMORY = CHECKOUT / ".pytest_cache" / "v" / "cache" / "lastfailed"
_USE_MEMORY = {"--lf", "--last-failed", "--ff", "--failed-first"}
_HELD_BACK = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(script: str, arguments: list[str]) -> int:
    """Run one script; return its exit code (it often ends in an exec instead)."""
    interruption = Interruption()
    interruption.listen()
    try:
        return _SCRIPTS[script](arguments, interruption)
    except Interrupted:
        print("\nStopped. Nothing is left running.", file=sys.stderr)
        return 130
    except CommandFailed as error:
        print(error.output, file=sys.stderr)
        print(f"\n{error}", file=sys.stderr)
        return 1
    except (EmbeddedError, OSError) as error:
        print(error, file=sys.stderr)
        return 1


def up(arguments: list[str], interruption: Interruption) -> int:
    """Prepare the machine and the home, then become `python -m tenantry.embedded up`."""
    options = up_parser("bin/up").parse_args(arguments)
    # Other users' servers read what is made here.
    os.umask(0o022)
    # Everything that can be refused without installing anything is refused first.
    home = check_home(options.home)
    config = choose_config(home, options)
    # Ports of a platform that runs, or of its orphans, are its own.
    if not find_processes(home, load_config(home)):
        check_ports(config)
    node = config.role == NODE
    install_packages(missing_packages(tests=False, uv=find_uv(home) is None, node=node), interruption)
    if not node:
        need_postgres()
    create_home(home)
    with hold_lock(home, interruption, print):
        if not node:
            make_layout(home, config.uid_base)
        wheel = make_platform_environment(interruption, home)
    demo = options.demo or CHECKOUT / "examples" / "demo"
    # Given twice, the last counts: these are absolute.
    rest = [*arguments, "--home", str(home.root), "--wheel", str(wheel), "--demo", str(demo.resolve())]
    return _become(interruption, [str(home.python), "-m", "tenantry.embedded", "up", *rest])


def join(arguments: list[str], interruption: Interruption) -> int:
    """Prepare the machine and the home of a node, then become `python -m tenantry.embedded join`."""
    options = join_parser("bin/join").parse_args(arguments)
    os.umask(0o022)
    # What can be refused is refused before anything is installed, and long before the token is used.
    home = check_home(options.home)
    if load_config(home) is None:
        check_ports(choose_node_config(home, options))
        pin_ca(parse_invitation(options.url, options.token))
    install_packages(missing_packages(tests=False, uv=find_uv(home) is None, node=True), interruption)
    create_home(home)
    with hold_lock(home, interruption, print):
        make_platform_environment(interruption, home)
    os.environ[TOKEN_VARIABLE] = options.token
    apart = [TOKEN_APART if argument == options.token else argument for argument in arguments]
    rest = [*apart, "--home", str(home.root)]
    return _become(interruption, [str(home.python), "-m", "tenantry.embedded", "join", *rest])


def test(arguments: list[str], interruption: Interruption) -> int:
    """Prepare the machine and run pytest. `--long` adds the tests marked long; the rest goes to pytest.

    Tests that fail while others load the machine are run once more, alone. Those that pass then are named as unsteady,
    and only what fails twice fails the run: a race that shows on a loaded machine is reported, not hidden.
    """
    install_packages(missing_packages(tests=True, uv=find_uv() is None), interruption)
    python = make_development_environment(interruption)
    marks = [] if "--long" in arguments else ["-m", "not long"]
    rest = [argument for argument in arguments if argument != "--long"]
    _enter_checkout()
    if not _USE_MEMORY.intersection(rest):
        _MEMORY.unlink(missing_ok=True)
    pytest = [str(python), "-m", "pytest"]
    # By file: some tell a story in order, and what a file shares (a platform that runs) is made once.
    # In the order of their names, which begins with the longest stories: else one of them would be left for the end.
    spread = ["-n", "3", "--dist", "loadfile", "--no-loadscope-reorder"]
    code = _run([*pytest, *spread, *marks, *rest])
    interruption.check()
    failed = _failed_tests()
    if code != _TESTS_FAILED or not 0 < len(failed) <= _AGAIN_MAX:
        return code
    print(f"bin/test: {len(failed)} failed. Once more, alone:", flush=True)
    files = list(dict.fromkeys(test.partition("::")[0] for test in failed))
    stories = [file for file in files if file.startswith(_STORIES)]
    others = [file for file in files if file not in stories]
    code = _run([*pytest, "--last-failed", *others]) if others else 0
    if stories:
        interruption.check()
        code = _run([*pytest, *marks, *stories]) or code
    if code == 0:
        print("bin/test: unsteady, failed beside others and passed alone:", *failed, sep="\n  ", flush=True)
    return code


def lint(arguments: list[str], interruption: Interruption) -> int:
    """Run every check, also after one failed; exit 1 when any did. `--fix` lets ruff repair what it can first."""
    install_packages(missing_packages(tests=False, uv=find_uv() is None), interruption)
    programs = make_development_environment(interruption).parent
    failed = []
    if "--fix" in arguments:
        _run([programs / "ruff", "check", "--fix", "--quiet"])
        _run([programs / "ruff", "format", "--quiet"])
    checks: dict[str, Sequence[str | Path]] = {
        "ruff check": [programs / "ruff", "check"],
        "ruff format": [programs / "ruff", "format", "--check"],
        "mypy": [programs / "mypy"],
        "lint-imports": [programs / "lint-imports"],
    }
    for name, command in checks.items():
        interruption.check()
        print(f"== {name}", flush=True)
        if _run(command) != 0:
            failed.append(name)
    print("== references", flush=True)
    failed += [page for page, module in _REFERENCES.items() if not _is_current(programs / "python", page, module)]
    print(f"bin/lint: {'failed: ' + ', '.join(failed) if failed else 'all checks passed'}")
    return 1 if failed else 0


def bench(arguments: list[str], interruption: Interruption) -> int:
    """Prepare the machine and become the benchmark suite."""
    install_packages(missing_packages(tests=True, uv=find_uv() is None), interruption)
    python = make_development_environment(interruption)
    return _become(interruption, [str(python), "-m", "bench", *arguments])


def lock(arguments: list[str], interruption: Interruption) -> int:
    """Renew uv.lock; arguments go to `uv lock` (for example --upgrade-package django)."""
    renew_lock(interruption, arguments)
    return 0


def sync(arguments: list[str], interruption: Interruption) -> int:
    """Make or renew the development virtualenv, .venv."""
    print(make_development_environment(interruption).parent.parent)
    return 0


# Pages that a module prints.
_REFERENCES = {"docs/reference/cli.md": "tenantry.cli.reference"}
_SCRIPTS: dict[str, Callable[[list[str], Interruption], int]] = {
    "up": up,
    "join": join,
    "test": test,
    "lint": lint,
    "bench": bench,
    "lock": lock,
    "sync": sync,
}


def _become(interruption: Interruption, command: list[str]) -> NoReturn:
    """Replace this process. A Ctrl-C that comes meanwhile waits until the new program can answer it."""
    if command[1:3] != ["-m", "tenantry.embedded"]:
        _enter_checkout()
    else:
        signal.pthread_sigmask(signal.SIG_BLOCK, _HELD_BACK)
    interruption.check()
    os.execv(command[0], command)


def _enter_checkout() -> None:
    """Work in the checkout, with the development programs first on the search path."""
    os.chdir(CHECKOUT)
    os.environ["PATH"] = f"{CHECKOUT / '.venv' / 'bin'}:{os.environ.get('PATH', os.defpath)}"


def _failed_tests() -> list[str]:
    """Return the tests that failed in the last run, as pytest's cache has them."""
    return sorted(json.loads(_MEMORY.read_text())) if _MEMORY.exists() else []


def _is_current(python: Path, page: str, module: str) -> bool:
    printed = subprocess.run([python, "-m", module], cwd=CHECKOUT, capture_output=True, check=False)
    current = printed.returncode == 0 and printed.stdout == (CHECKOUT / page).read_bytes()
    if not current:
        print(printed.stderr.decode() or f"{page} is not current. Run: .venv/bin/python -m {module} > {page}")
    return current


def _run(command: Sequence[str | Path]) -> int:
    return subprocess.run(command, cwd=CHECKOUT, check=False).returncode
