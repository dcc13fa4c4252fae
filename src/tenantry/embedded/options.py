"""The command line of the embedded platform, shared by `bin/up` and `python -m tenantry.embedded`. Standard library."""

import argparse
import ipaddress
import os
from pathlib import Path

DEFAULT_HTTP_PORT = 8080


def default_home() -> Path:
    """Return $TENANTRY_HOME, else /var/lib/tenantry for root and ~/.tenantry for anybody else."""
    chosen = os.environ.get("TENANTRY_HOME")
    if chosen:
        return Path(chosen)
    return Path("/var/lib/tenantry") if os.geteuid() == 0 else Path.home() / ".tenantry"


def add_home(parser: argparse.ArgumentParser) -> None:
    """Add `--home`."""
    parser.add_argument(
        "--home",
        type=Path,
        default=default_home(),
        metavar="DIR",
        help="where the platform keeps everything (default: $TENANTRY_HOME, else %(default)s)",
    )


def add_up(parser: argparse.ArgumentParser) -> None:
    """Add the options of `up`."""
    add_home(parser)
    parser.add_argument("--detach", "-d", action="store_true", help="return when everything is ready")
    parser.add_argument(
        "--http-port",
        type=_port,
        metavar="N",
        help=f"where nginx serves the sites (default at the first up: {DEFAULT_HTTP_PORT}; remembered)",
    )
    parser.add_argument(
        "--control-port",
        type=_port,
        metavar="N",
        help="where the API and the dashboard listen (default at the first up: the port after --http-port; remembered)",
    )
    parser.add_argument(
        "--bind", type=_address, metavar="ADDRESS", help="the address nginx listens on (default 127.0.0.1; remembered)"
    )
    parser.add_argument("--no-demo", action="store_true", help="do not host the demo project")
    parser.add_argument("--demo", type=Path, metavar="DIR", help=argparse.SUPPRESS)
    parser.add_argument("--wheel", type=Path, metavar="FILE", help=argparse.SUPPRESS)


def up_parser(prog: str) -> argparse.ArgumentParser:
    """Return the parser of `up` alone, as `bin/up` uses it."""
    parser = argparse.ArgumentParser(
        prog=prog,
        allow_abbrev=False,
        description="Start the platform: PostgreSQL, Redis, control, jobs, nginx, the uWSGI emperor and the agent.",
        epilog="Ctrl-C stops everything that was started; `tenantry down` does the same for --detach.",
    )
    add_up(parser)
    return parser


def _port(text: str) -> int:
    try:
        port = int(text)
    except ValueError:
        port = 0
    if not 1 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port (1 to 65535)")
    return port


def _address(text: str) -> str:
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not an IPv4 address such as 127.0.0.1 or 0.0.0.0") from None
