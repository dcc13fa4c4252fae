"""`python -m django_tenantry manage.py ARGUMENT…`: manage.py with the cache prefix that the site's workers have."""

import runpy
import sys
from pathlib import Path

from django_tenantry.prefix import enforce_cache_prefix


def main(arguments: list[str]) -> None:
    """Run a script as `python script ARGUMENT…` would. Its exit code and errors pass through."""
    if not arguments:
        raise SystemExit("usage: python -m django_tenantry manage.py ARGUMENT…")
    enforce_cache_prefix()
    sys.argv = arguments
    sys.path[0] = str(Path(arguments[0]).resolve().parent)
    runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
