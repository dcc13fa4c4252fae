"""Publishing: pack a release, put it into the store, leave nothing when that fails."""

import os
from collections.abc import Callable
from pathlib import Path

from tenantry.control.releases.artifacts.packing import Packed, pack_apart
from tenantry.control.releases.artifacts.store import ArtifactStore

STAGED = ".new"  # the ending of a file that is not finished


def publish(directory: Path, store: ArtifactStore, cancelled: Callable[[], bool] = lambda: False) -> Packed:
    """Pack the frozen release in `directory` and keep it in `store`; returns digest and size.

    Again is no error: the same release gives the same artifact. Raises `OSError` (a full disk), `StoreError`,
    `PackingCancelled`; nothing is left then.
    """
    store.prepare()
    staged = store.staging / f".{directory.name}.{os.getpid()}{STAGED}"
    staged.unlink(missing_ok=True)
    try:
        packed = pack_apart(directory, staged, cancelled)
        store.put(staged, packed)
    finally:
        staged.unlink(missing_ok=True)
    return packed


def remove_staged(store: ArtifactStore) -> list[str]:
    """Remove what killed publishings left; returns their names. Only while none is under way."""
    found = sorted(store.staging.glob(f".*{STAGED}"))
    for path in found:
        path.unlink()
    return [path.name for path in found]
