"""Packages of the distribution: what is missing, and installing it without starting or enabling any service."""

import contextlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from tenantry.embedded.errors import CommandFailed, Interrupted, ToolMissing
from tenantry.embedded.programs import MIN_POSTGRES, find_program, old_postgres_message, postgres_versions
from tenantry.embedded.signals import Interruption

# "a|b": the first that the distribution has. "a|": a, or nothing where the distribution lacks it.
_PLATFORM = {"nginx": "nginx-light|nginx", "redis-server": "redis-server", "git": "git", "setpriv": "util-linux"}
_NODE = {"nginx": "nginx-light|nginx", "setpriv": "util-linux"}
_TESTS = {"ip": "iproute2", "pgbouncer": "pgbouncer"}
_UNITS = {"nginx": "nginx-light", "postgresql": "postgresql", "redis-server": "redis-server", "pgbouncer": "pgbouncer"}
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

# Run as root. Packages must not start servers or make a cluster here, and must not leave them enabled for the next
# boot. Once dpkg works it is left to finish: interrupted, it would leave packages half-configured.
_INSTALL = r"""
set -eu
policy=/usr/sbin/policy-rc.d
cluster=/etc/postgresql-common/createcluster.d/tenantry.conf
units=$1; shift
made_policy=; made_cluster=
clean() {
    [ -z "$made_policy" ] || rm -f "$policy"
    if [ -n "$made_cluster" ]; then rm -f "$cluster"; rmdir "${cluster%/*}" 2>/dev/null || :; fi
}
trap clean EXIT
trap 'exit 130' INT TERM HUP
export DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1
if [ ! -e "$policy" ] && [ ! -L "$policy" ]; then
    made_policy=1
    printf '#!/bin/sh\nexit 101\n' > "$policy"
    chmod 755 "$policy"
fi
if [ ! -e /usr/bin/pg_createcluster ]; then
    made_cluster=1
    mkdir -p "${cluster%/*}"
    echo 'create_main_cluster = false' > "$cluster"
fi
apt-get update -q || echo "apt-get update failed; trying with the lists there are"
packages=
for wanted in "$@"; do
    found=
    for name in $(echo "$wanted" | tr '|' ' '); do
        if [ -n "$(apt-cache madison "$name" 2>/dev/null)" ]; then found=$name; break; fi
    done
    case "$found,$wanted" in
        ,*\|) ;;
        ,*) packages="$packages ${wanted%%|*}" ;;
        *) packages="$packages $found" ;;
    esac
done
[ -n "$packages" ] || exit 0
apt-get install -q -y --no-install-recommends -o DPkg::Lock::Timeout=120 --download-only $packages
trap '' INT TERM HUP
echo "unpacking"
apt-get install -q -y --no-install-recommends -o DPkg::Lock::Timeout=120 $packages
for unit in $units; do
    if command -v systemctl >/dev/null; then systemctl disable --quiet "$unit" 2>/dev/null || :; fi
    # Where systemd does not run (a container, a chroot) the links are there all the same.
    deb-systemd-helper disable "$unit.service" >/dev/null 2>&1 || :
    update-rc.d "$unit" disable >/dev/null 2>&1 || :
done
"""


def missing_packages(*, tests: bool, uv: bool, node: bool = False) -> list[str]:
    """Return what must be installed, in the form of `_INSTALL`. `uv`: pip must fetch it. `node`: no servers."""
    wanted = _NODE if node else {**_PLATFORM, **(_TESTS if tests else {})}
    packages = [package for program, package in wanted.items() if find_program(program) is None]
    if not node and not any(version >= MIN_POSTGRES for version in postgres_versions()):
        packages.insert(0, "postgresql")
    # Without them git cannot clone over https.
    if not Path("/etc/ssl/certs/ca-certificates.crt").exists():
        packages.append("ca-certificates")
    if uv and importlib.util.find_spec("ensurepip") is None:
        packages.append("python3-venv")
    if tests and not any(find_program(name) for name in _BROWSERS) and not _known_absent("chromium"):
        packages.append("chromium|")
    return packages


def install_packages(packages: list[str], interruption: Interruption) -> None:
    """Install `packages`; `ToolMissing` gives the one command to run where this user may not, or apt does not exist."""
    if not packages:
        return
    names = [package.split("|")[0] for package in packages]
    if shutil.which("apt-get") is None:
        raise ToolMissing(
            f"These are missing: {', '.join(names)} (Debian's names), and there is no apt-get to install them with. "
            "Install them with this system's package manager and run this again."
        )
    if "postgresql" in names:
        _check_offered_postgres()
    prefix = _become_root(names)
    print(f"Installing packages: {' '.join(names)}", flush=True)
    units = [unit for unit, package in _UNITS.items() if package in names]
    _run_install([*prefix, "sh", "-c", _INSTALL, "install", " ".join(units), *packages], interruption, bool(prefix))


def _become_root(names: list[str]) -> list[str]:
    """Return what must stand before a command so that it runs as root."""
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo"):
        if subprocess.run(["sudo", "-n", "true"], capture_output=True, check=False).returncode == 0:
            return ["sudo", "-n"]
        if sys.stdin.isatty():
            print(f"Packages are missing: {' '.join(names)}. sudo asks for your password to install them.", flush=True)
            if subprocess.run(["sudo", "-v"], check=False).returncode == 0:
                return ["sudo"]
    raise ToolMissing(
        "Packages are missing, and this user can neither be root nor use sudo. Ask an administrator to run:\n\n"
        f"    apt-get install --no-install-recommends {' '.join(names)}\n\nand run this again."
    )


def _run_install(argv: list[str], interruption: Interruption, through_sudo: bool) -> None:
    """Run the installation. A signal stops it while it downloads; while dpkg works, it is waited for."""
    # sudo remembers a password for its terminal's session only.
    process = subprocess.Popen(
        argv,
        stdin=None if through_sudo else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=not through_sudo,
    )
    output = b""
    told = False
    while True:
        try:
            output, _ = process.communicate(timeout=0.2)
            break
        except subprocess.TimeoutExpired:
            if interruption.asked and not told:
                told = True
                print("Stopping; the package installation ends its current step first.", flush=True)
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    if through_sudo:
                        process.send_signal(signal.SIGINT)
                    else:
                        os.killpg(process.pid, signal.SIGINT)
    if interruption.asked:
        raise Interrupted
    if process.returncode != 0:
        text = "\n".join(output.decode(errors="replace").rstrip().splitlines()[-15:])
        raise CommandFailed(f"Installing packages failed (apt-get, exit code {process.returncode}).", text)


def _check_offered_postgres() -> None:
    """Stop before installing a PostgreSQL that is too old. When apt has no lists yet it is checked afterwards."""
    match = re.search(r"Candidate: (?:\d+:)?(\d+)", _policy("postgresql"))
    if match and int(match[1]) < MIN_POSTGRES:
        raise ToolMissing(old_postgres_message(f"{match[1]}, this distribution's"))


def _known_absent(package: str) -> bool:
    """Whether apt has lists and the package is in none of them (Ubuntu has no chromium package)."""
    if not any(Path("/var/lib/apt/lists").glob("*_Packages*")):
        return False
    answer = _policy(package)
    return not answer or "Candidate: (none)" in answer


def _policy(package: str) -> str:
    if shutil.which("apt-cache") is None:
        return ""
    return subprocess.run(["apt-cache", "policy", package], capture_output=True, text=True, check=False).stdout
