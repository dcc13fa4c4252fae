"""What people may say of a site's limits and its runtime: parsed, merged, and whether it needs new processes."""

from collections.abc import Mapping
from dataclasses import asdict

from tenantry.control.errors import InvalidInput
from tenantry.control.validation import Parser, parse_number
from tenantry.spec.limits import BOUNDS, Limits
from tenantry.spec.sites import Engine, Runtime

LIVE = frozenset({"idle_seconds"})  # read by the nodes each time; the others are in the processes from their start
SHOWN = 60  # characters of a key that nobody knows


def parse_limits(given: Mapping[str, int]) -> dict[str, int]:
    """Return `given`; raises `InvalidInput` naming each key that is none, and each value out of its bounds."""
    parser = Parser()
    for name, value in given.items():
        if name in BOUNDS:
            parser.take(parse_number, value, *BOUNDS[name], field=f"limits.{name}")
        else:
            parser.refuse("limits", f"There is no limit «{name[:SHOWN]}»; there are {', '.join(BOUNDS)}.")
    parser.check()
    return dict(given)


def parse_runtime(text: str) -> Runtime:
    """Return `text` as a runtime that a site may have; raises `InvalidInput`."""
    if text == Runtime.POOLED:
        raise InvalidInput.of("runtime", "Sites cannot be pooled yet; choose always_on or on_demand.")
    if text not in set(Runtime):
        raise InvalidInput.of("runtime", f"A site's runtime is always_on or on_demand, not «{text[:SHOWN]}».")
    return Runtime(text)


def check_workers(processes: int, limits: Mapping[str, int]) -> None:
    """Raise `InvalidInput` when a site could have fewer workers than it begins with."""
    most = limits.get("processes_max", 0)
    if 0 < most < processes:
        raise InvalidInput.of(
            "limits.processes_max", f"A number from {processes} (its processes), or 0 for as many; not {most}."
        )


def check_growth(engine: str, release: str, processes: int, limits: Mapping[str, int]) -> None:
    """Raise `InvalidInput` when a site's workers are to grow under an engine that has a fixed number of them."""
    if limits.get("processes_max", 0) > processes and not Engine(engine).grows:
        raise InvalidInput.of(
            "limits.processes_max",
            f"{release} runs in {engine}, whose workers do not grow with the load: give their number as «processes», "
            "and 0 here.",
        )


def effective_limits(stored: Mapping[str, int]) -> dict[str, int]:
    """Return every limit of a site, the defaults included."""
    return asdict(Limits.from_document(stored))


def changed_limits(stored: Mapping[str, int], given: Mapping[str, int]) -> dict[str, int]:
    """Return what of `given` is different from what the site has."""
    before = effective_limits(stored)
    return {name: value for name, value in given.items() if before[name] != value}


def need_new_processes(changed: Mapping[str, int]) -> bool:
    """Whether a change of these limits takes effect only with a new generation."""
    return bool(changed.keys() - LIVE)
