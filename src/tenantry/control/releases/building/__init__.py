"""Build a release: from a project's source to a directory that sites can run.

Owns: the steps (`STEPS`), the directory `releases/<name>/` until it is frozen, the template database made from it.
May import: the standard library, psycopg, `tenantry.spec`, `control.data`. Must never import Django or a model, and
never run a line of the project's code as another user than the project's own.

A build either ends with `release.json` in place, or leaves neither directory, database nor role behind.
"""

from tenantry.control.releases.building.context import (
    STEPS,
    BuildContext,
    BuildError,
    BuildRequest,
    BuildResult,
    Limits,
    StepUpdate,
)
from tenantry.control.releases.building.leftovers import clean_leftovers
from tenantry.control.releases.building.pipeline import build, remove_release

__all__ = [
    "STEPS",
    "BuildContext",
    "BuildError",
    "BuildRequest",
    "BuildResult",
    "Limits",
    "StepUpdate",
    "build",
    "clean_leftovers",
    "remove_release",
]
