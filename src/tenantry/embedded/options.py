"""The command line of the embedded platform, shared by `bin/up` and `python -m tenantry.embedded`. Standard library."""

import argparse
import ipaddress
import os
import re
import sys
from pathlib import Path

from tenantry.embedded.invitation import parse_token, parse_url

DEFAULT_HTTP_PORT = 8080
NO_ADDRESS = "none"
TOKEN_APART = "-"  # noqa: S105 - in a join token's place on the command line
TOKEN_VARIABLE = "TENANTRY_JOIN_TOKEN"  # noqa: S105 - a name: how one program of a join hands the token to the next
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,98}[A-Za-z0-9])?\Z")


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
    _add_serving(parser)
    parser.add_argument(
        "--control-port",
        type=_port,
        metavar="N",
        help="where the API and the dashboard listen (default at the first up: the port after --http-port; remembered)",
    )
    parser.add_argument(
        "--cluster-address",
        type=_cluster_address,
        metavar="ADDRESS",
        help="this machine's address for other nodes: PostgreSQL, Redis and the API listen there, with TLS "
        f"(default: nowhere; remembered; «{NO_ADDRESS}» ends it)",
    )
    for name, server, default in (("postgres", "PostgreSQL", 5432), ("redis", "Redis", 6380)):
        parser.add_argument(
            f"--cluster-{name}-port",
            type=_port,
            metavar="N",
            help=f"where {server} listens on the cluster address (default {default}; remembered)",
        )
    parser.add_argument("--no-demo", action="store_true", help="do not host the demo project")
    parser.add_argument("--demo", type=Path, metavar="DIR", help=argparse.SUPPRESS)
    parser.add_argument("--wheel", type=Path, metavar="FILE", help=argparse.SUPPRESS)


def add_join(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `join`. `name` is None for this machine's own."""
    parser.add_argument("url", metavar="URL", type=_platform_url, help="the platform, such as https://10.0.0.1:8081")
    parser.add_argument(
        "token",
        metavar="TOKEN",
        type=_join_token,
        help="from: tenantry node token; - reads a line of the standard input",
    )
    add_home(parser)
    parser.add_argument("--name", type=_name, metavar="NAME", help="the node's name (default: this machine's)")
    _add_serving(parser)
    parser.add_argument("--control", action="store_true", help="run the API and the dashboard on this node too")
    parser.add_argument("--control-port", type=_port, metavar="N", help="where they listen (with --control)")


def _add_serving(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--detach", "-d", action="store_true", help="return when everything is ready")
    parser.add_argument(
        "--http-port",
        type=_port,
        metavar="N",
        help=f"where nginx serves the sites (default at the first time: {DEFAULT_HTTP_PORT}; remembered)",
    )
    parser.add_argument(
        "--bind", type=_address, metavar="ADDRESS", help="the address nginx listens on (default 127.0.0.1; remembered)"
    )


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


def join_parser(prog: str) -> argparse.ArgumentParser:
    """Return the parser of `join` alone, as `bin/join` uses it."""
    parser = argparse.ArgumentParser(
        prog=prog,
        allow_abbrev=False,
        description="Make this machine a node of a platform: nginx, the uWSGI emperor and the agent.",
        epilog="«tenantry node token» on the platform's machine prints the whole command. Ctrl-C stops the node; "
        "`tenantry down` does the same for --detach; `tenantry up` starts it again.",
    )
    add_join(parser)
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


def _cluster_address(text: str) -> str:
    if text == NO_ADDRESS:
        return text
    address = ipaddress.IPv4Address(_address(text))
    if address.is_unspecified or address.is_multicast or address == ipaddress.IPv4Address("127.0.0.1"):
        raise argparse.ArgumentTypeError(
            f"{text} cannot be reached from other machines; give the address that they know this one by"
        )
    return str(address)


def _platform_url(text: str) -> str:
    try:
        return parse_url(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _join_token(text: str) -> str:
    """What is given for the token may be seen by all users of the machine; what `-` stands for may not."""
    token = _token_apart() if text == TOKEN_APART else text
    try:
        parse_token(token)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return token


def _token_apart() -> str:
    """Return the token that the program before this one handed on, else a line of the standard input."""
    handed_on = os.environ.pop(TOKEN_VARIABLE, None)  # not for those that this process will start
    return (sys.stdin.readline() if handed_on is None else handed_on).strip()


def _name(text: str) -> str:
    if not _NAME.match(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a node's name: up to 100 letters, digits, dots and dashes, as a host name has them"
        )
    return text
