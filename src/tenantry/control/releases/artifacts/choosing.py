"""Which store a platform keeps its artifacts in."""

import functools
from pathlib import Path

from tenantry.control.config import ControlConfig
from tenantry.control.releases.artifacts.store import ArtifactStore, DirectoryStore
from tenantry.spec.users import control_uid


@functools.lru_cache(maxsize=4)
def store_of(config: ControlConfig) -> ArtifactStore:
    """Return the store that a configuration describes; nothing is connected to yet."""
    group = None if config.uid_base is None else control_uid(config.uid_base)
    artifacts = config.artifacts
    if artifacts.kind == "s3":
        from tenantry.control.releases.artifacts.s3 import S3Store  # boto3: only where it is used

        return S3Store(artifacts, config.home / "artifacts", group)
    return DirectoryStore(Path(artifacts.directory) if artifacts.directory else config.home / "artifacts", group)
