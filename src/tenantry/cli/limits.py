"""The options of a site's limits, and how they read."""

from collections.abc import Mapping
from typing import Annotated

import typer

from tenantry.spec.limits import BOUNDS


def _option(name: str, help_text: str) -> typer.models.OptionInfo:
    low, high = BOUNDS[name.removeprefix("--").replace("-", "_")]
    option: typer.models.OptionInfo = typer.Option(
        name, min=low, max=high, metavar="N", help=help_text, show_default=False
    )
    return option


IdleSeconds = Annotated[int | None, _option("--idle-seconds", "An on-demand site sleeps after this long. [300]")]
RequestSeconds = Annotated[int | None, _option("--request-seconds", "A request that takes longer is ended. [60]")]
ProcessesMax = Annotated[
    int | None, _option("--processes-max", "uWSGI's workers grow with the load up to this; 0: they do not. [0]")
]
MemoryMb = Annotated[int | None, _option("--memory-mb", "Of all its processes together; 0: no limit. [0]")]
DiskMb = Annotated[int | None, _option("--disk-mb", "Of what it stores in files; 0: no limit. [0]")]


def given_limits(**limits: int | None) -> dict[str, int]:
    """Return the limits that a person typed."""
    return {name: value for name, value in limits.items() if value is not None}


def show_limits(limits: Mapping[str, int]) -> str:
    """Return a site's limits in words; those that are none are left out."""
    parts = [
        f"requests {limits['request_seconds']} s",
        f"up to {limits['processes_max']} processes" if limits["processes_max"] else "",
        f"memory {limits['memory_mb']} MB" if limits["memory_mb"] else "",
        f"disk {limits['disk_mb']} MB" if limits["disk_mb"] else "",
        f"sleeps after {limits['idle_seconds']} s (on demand)",
    ]
    return ", ".join(part for part in parts if part)
