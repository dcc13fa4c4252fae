"""`python -m tenantry.node`."""

import sys

from tenantry.node.main import main

if __name__ == "__main__":
    sys.exit(main())
