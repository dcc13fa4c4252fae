"""Artifacts: releases as files that nodes fetch.

Owns: packing a frozen release into a tar.gz named by its SHA-256, and where such files are kept (a directory or S3).
May import: the standard library, `control.config`; boto3 only where S3 is configured. Must never import Django or a
model, nor read a release's directory before it is frozen.
"""

from tenantry.control.releases.artifacts.choosing import store_of
from tenantry.control.releases.artifacts.packing import Packed, PackingCancelled
from tenantry.control.releases.artifacts.publishing import publish
from tenantry.control.releases.artifacts.store import ArtifactMissing, ArtifactStore, DirectoryStore, StoreError

__all__ = [
    "ArtifactMissing",
    "ArtifactStore",
    "DirectoryStore",
    "Packed",
    "PackingCancelled",
    "StoreError",
    "publish",
    "store_of",
]
