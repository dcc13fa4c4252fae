"""`python -m bench SUITE`: run one suite, print its table, keep the result."""

import argparse
import sys
from pathlib import Path

from bench import changelog, create, fleet, requests
from bench.platform import platform
from bench.results import Table, keep

OF_PLATFORM = ("create", "requests")
ALONE = ("changelog", "fleet")  # suites that need no running platform


def main(arguments: list[str]) -> int:
    """Run the suites asked for; returns the exit code."""
    parser = argparse.ArgumentParser(prog="bin/bench", description="Measure the platform beside a comparator.")
    parser.add_argument("suite", nargs="?", choices=(*OF_PLATFORM, *ALONE, "all"), default="all")
    parser.add_argument("--home", type=Path, help="a running platform with the demo (default: one of its own)")
    parser.add_argument("--runs", type=int, default=20, help="sites to create in each way (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=4, help="of load for each measurement (default %(default)s)")
    parser.add_argument("--writers", type=int, default=64, help="of the change log (default %(default)s)")
    parser.add_argument("--changes", type=int, default=100_000, help="to write (default %(default)s)")
    parser.add_argument("--agents", type=int, default=1_000, help="of the fleet (default %(default)s)")
    options = parser.parse_args(arguments)
    if options.suite in ("changelog", "all"):
        show(changelog.measure(options.writers, options.changes))
    if options.suite in ("fleet", "all"):
        show(fleet.measure(options.agents))
    if options.suite in ALONE:
        return 0
    with platform(options.home) as running:
        if options.suite in ("create", "all"):
            show(create.measure(running, options.runs))
        if options.suite in ("requests", "all"):
            show(requests.measure(running, options.seconds))
    return 0


def show(table: Table) -> None:
    """Print a table and say where it is kept."""
    path = keep(table)
    print(f"\n{table.text()}\nkept in {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
