"""The entry point of `python -m tenantry.node.activation`."""

import sys

from tenantry.node.activation.main import main

sys.exit(main())
