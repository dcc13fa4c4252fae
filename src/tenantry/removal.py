"""Removing a tree that a tenant may have shaped: any depth, any names, links that lead elsewhere.

Shared by control and the agents. `shutil.rmtree` recurses (a tree deeper than Python's stack cannot be removed) and is
for trees that only the platform writes.
"""

import subprocess
from pathlib import Path
from typing import BinaryIO, cast

_ENVIRONMENT = {"LANG": "C.UTF-8", "PATH": "/usr/bin:/bin"}
_SAID_BYTES = 65_536  # of rm's complaints; there may be one for every file


def remove_tree(path: Path) -> None:
    """Remove `path` and all below it; nothing there is fine.

    Links are removed, never followed, also those that appear meanwhile; what is mounted inside stays, and is an error.
    Raises `OSError` with rm's first complaint when something is left.
    """
    # rm goes down by descriptors, with a bounded number of them: neither depth nor PATH_MAX limits it.
    argv = ["rm", "-rf", "--one-file-system", "--", str(path)]
    with subprocess.Popen(
        argv, env=_ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        stream = cast(BinaryIO, process.stderr)
        said = stream.read(_SAID_BYTES)
        while stream.read(_SAID_BYTES):
            pass
    if process.returncode != 0:
        first = said.decode("utf-8", "replace").partition("\n")[0].removeprefix("rm: ")
        raise OSError(f"{path} was not removed: {first or f'rm ended with {process.returncode}'}")
