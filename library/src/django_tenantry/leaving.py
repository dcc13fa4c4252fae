"""How a uWSGI worker ends: as Python would, but for taking apart all it has loaded.

That takes a tenth as long as the loading, 85 ms of the processor for a small project, at the very moment when the new
processes have got the visitors. Where this module is, uWSGI is started with `skip-atexit-teardown`, upon which it
leaves out all that Python does at the end; the parts that a project may rely on are done here, by `uwsgi.atexit`.
"""

import atexit
import gc
import io
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress

# What keeps in memory what was written. By type alone: an object that loads itself when it is looked at stays as it is.
_BUFFERED = frozenset({io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom})


def leave_quickly() -> None:
    """Have this worker do `finish` when it ends, after the project's own `uwsgi.atexit`. Nothing outside uWSGI.

    Called before the project is loaded, which may fail, and after, when its own function may be there.
    """
    try:
        import uwsgi
    except ImportError:
        return
    known: Callable[[], object] | None = getattr(uwsgi, "atexit", None)
    if getattr(known, "is_ours", False):
        return

    def leave() -> None:
        with ExitStack() as last:
            last.callback(finish)
            if known is not None:
                known()

    leave.is_ours = True  # type: ignore[attr-defined]
    uwsgi.atexit = leave


def finish() -> None:
    """Wait for threads, run what was registered with `atexit`, write out what is buffered, as `Py_FinalizeEx` does.

    The order is Python's own. There is no public way to the first two; multiprocessing's processes use the same.
    """
    with ExitStack() as last:
        last.callback(_flush)
        last.callback(atexit._run_exitfuncs)
        threading._shutdown()  # type: ignore[attr-defined]


def _flush() -> None:
    """Write out every open file: Python does when it takes the module apart that holds it."""
    written = [one for one in gc.get_objects() if type(one) in _BUFFERED]
    for stream in (*written, sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):  # none, gone, or closed
            stream.flush()
