"""`python -m tenantry.control.releases.artifacts DIRECTORY FILE`: pack a release; see `packing.pack_apart`."""

import sys

from tenantry.control.releases.artifacts.packing import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
