"""Every script in bin/ begins here, under whatever python3 is first on PATH: it must be readable by very old ones."""

import os
import shutil
import signal
import sys

OLDEST = (3, 11)


def require_python():
    """Go on under Python 3.11 or newer, looking for another interpreter on PATH when this one is older."""
    sys.dont_write_bytecode = True
    # Until there is something to undo, a Ctrl-C just ends this, without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.version_info >= OLDEST:
        return
    for minor in range(20, OLDEST[1] - 1, -1):
        other = shutil.which("python3.%d" % minor)  # noqa: UP031  f-strings are too new for some
        if other:
            os.execv(other, [other] + sys.argv)  # noqa: RUF005
    sys.exit(
        "Tenantry needs Python 3.11 or newer; this is %d.%d. Debian 12, Ubuntu 24.04 and later have it; "  # noqa: UP031
        "on older ones install a python3.11 beside the system's and run this again." % sys.version_info[:2]
    )
