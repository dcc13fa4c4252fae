"""`python -m bench SUITE`: run one suite, print its table, keep the result."""

import argparse
import signal
import sys
from pathlib import Path

from bench import changelog, create, fleet, integrity, requests
from bench.platform import platform
from bench.results import Table, keep

OF_PLATFORM = ("create", "requests")
ALONE = (
    "changelog",
    "fleet",
    "convergence",
    "outage",
    "integrity",
    "sleep",
    "engines",
    "neighbours",
    "restarts",
    "breakages",
)  # suites that need no running platform


def main(arguments: list[str]) -> int:
    """Run the suites asked for; returns the exit code."""
    parser = argparse.ArgumentParser(prog="bin/bench", description="Measure the platform beside a comparator.")
    parser.add_argument("suite", nargs="?", choices=(*OF_PLATFORM, *ALONE, "all"), default="all")
    parser.add_argument("--home", type=Path, help="a running platform with the demo (default: one of its own)")
    parser.add_argument("--runs", type=int, default=20, help="sites to create in each way (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=4, help="of load for each measurement (default %(default)s)")
    parser.add_argument("--writers", type=int, default=64, help="of the change log (default %(default)s)")
    parser.add_argument("--changes", type=int, help="to write (default 100,000), or of each kind (convergence: 200)")
    parser.add_argument("--agents", type=int, default=1_000, help="of the fleet (default %(default)s)")
    parser.add_argument("--checked-sites", type=int, default=10_000, help="of integrity (default %(default)s)")
    parser.add_argument("--nodes", type=int, default=3, help="of convergence (default %(default)s)")
    parser.add_argument("--sites", type=int, default=1_000, help="that each node holds (default %(default)s)")
    parser.add_argument("--new-sites", type=int, default=50, help="of convergence (default %(default)s)")
    parser.add_argument("--real-processes", action="store_true", help="uWSGI for the sites that are only held, too")
    parser.add_argument("--outage-seconds", type=float, default=60, help="of each outage (default %(default)s)")
    parser.add_argument("--sleeps", type=int, default=2_000, help="of sites that fall asleep (default %(default)s)")
    parser.add_argument("--storm", type=int, default=100, help="sites woken at once (default %(default)s)")
    parser.add_argument("--restarts", type=int, default=20, help="of each arrangement (default %(default)s)")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is ended, as after Ctrl-C
    if options.suite in ("changelog", "all"):
        show(changelog.measure(options.writers, options.changes or 100_000))
    if options.suite in ("fleet", "all"):
        show(fleet.measure(options.agents))
    if options.suite in ("convergence", "all"):
        from bench import convergence  # with the tests' lab, and Django

        size = convergence.Size(
            options.sites, options.nodes, options.changes or 200, options.new_sites, options.real_processes
        )
        show(convergence.measure(size))
    if options.suite in ("integrity", "all"):
        show(integrity.measure(options.checked_sites))
    if options.suite in ("sleep", "all"):
        from bench import sleep

        show(sleep.measure(options.sites, options.storm, options.sleeps))
    if options.suite in ("engines", "all"):
        from bench import engines

        show(engines.measure(options.seconds))
    if options.suite in ("outage", "all"):
        from bench import outage

        show(outage.measure(options.outage_seconds))
    if options.suite in ("neighbours", "all"):
        from bench import neighbours

        show(neighbours.measure(options.seconds * 2))
    if options.suite in ("restarts", "all"):
        from bench import restarts

        show(restarts.measure(options.restarts))
    if options.suite in ("breakages", "all"):
        from bench import breakages

        show(breakages.measure())
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
