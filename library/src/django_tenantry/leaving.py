"""How a uWSGI worker ends: as Python would, but for taking apart all it has loaded.

That takes a tenth as long as the loading, 85 ms of the processor for a small project, at the very moment when the new
processes have got the visitors. The vassal's ini has `skip-atexit-teardown`, upon which uWSGI leaves out all that
Python does at the end; the parts that a project may rely on are done here, by `uwsgi.atexit`.
"""

import atexit
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress


def leave_quickly() -> None:
    """Have this worker do `finish` when it ends, after the project's own `uwsgi.atexit`. Nothing outside uWSGI."""
    try:
        import uwsgi
    except ImportError:
        return
    project: Callable[[], object] | None = getattr(uwsgi, "atexit", None)

    def leave() -> None:
        with ExitStack() as last:
            last.callback(finish)
            if project is not None:
                project()

    uwsgi.atexit = leave


def finish() -> None:
    """Wait for threads, run what was registered with `atexit`, write out what is buffered, as `Py_FinalizeEx` does.

    The order is Python's own. There is no public way to any of the first two; multiprocessing's processes use the same.
    """
    with ExitStack() as last:
        last.callback(_flush)
        last.callback(atexit._run_exitfuncs)
        threading._shutdown()  # type: ignore[attr-defined]


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):  # none, gone, or closed
            stream.flush()
