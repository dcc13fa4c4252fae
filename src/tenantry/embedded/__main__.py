"""`python -m tenantry.embedded up|join|down|status`: what `bin/up`, `bin/join` and `tenantry up|down` become."""

import argparse
import sys

from tenantry.embedded.errors import CommandFailed, ComponentFailed, EmbeddedError, Interrupted
from tenantry.embedded.options import add_home, add_join, add_up
from tenantry.embedded.signals import Interruption


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 stopped by a signal."""
    # First of all: a Ctrl-C held back over the exec is answered from here on.
    interruption = Interruption()
    interruption.listen()
    options = _parse(arguments)
    try:
        return _run(options, interruption)
    except Interrupted:
        print("Stopped. Nothing is left running.", file=sys.stderr)
        return 130
    except ComponentFailed as error:
        if error.log:
            print(f"\nThe end of {error.path or 'its log'}:\n\n{error.log}\n", file=sys.stderr)
        print(error, file=sys.stderr)
    except CommandFailed as error:
        print(f"{error.output}\n\n{error}", file=sys.stderr)
    except (EmbeddedError, OSError) as error:
        print(error, file=sys.stderr)
    return 1


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tenantry.embedded", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    add_up(commands.add_parser("up", help="start the platform", allow_abbrev=False))
    add_join(commands.add_parser("join", help="make this machine a node of a platform", allow_abbrev=False))
    add_home(commands.add_parser("down", help="stop everything that up started", allow_abbrev=False))
    status = commands.add_parser("status", help="show the processes", allow_abbrev=False)
    add_home(status)
    status.add_argument("--json", action="store_true", help="print JSON")
    return parser.parse_args(arguments)


def _run(options: argparse.Namespace, interruption: Interruption) -> int:
    # Imported here: the signals are already taken over while the libraries load.
    from tenantry.embedded.down import down
    from tenantry.embedded.join import join
    from tenantry.embedded.status import status
    from tenantry.embedded.up import up

    return {"up": up, "join": join, "down": down, "status": status}[options.command](options, interruption)


if __name__ == "__main__":
    sys.exit(main())
