"""Artifacts in S3, or in a server that speaks its protocol."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from http import HTTPStatus
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from tenantry.control.config import Artifacts
from tenantry.control.releases.artifacts.packing import Packed
from tenantry.control.releases.artifacts.store import ENDING, ArtifactMissing, StoreError, make_private_directory

ADDRESS_SECONDS = 300  # a node begins at once; what has begun is not cut off
CONNECT_SECONDS = 5
READ_SECONDS = 30
ATTEMPTS = 3


class S3Store:
    """Artifacts as objects `<prefix><digest>.tar.gz` of a bucket. Nodes get addresses signed for a few minutes.

    Without keys in the configuration, boto3 looks for them where it always does (environment, instance role).
    """

    def __init__(self, artifacts: Artifacts, staging: Path, group: int | None = None) -> None:
        self._artifacts = artifacts
        self._staging = staging
        self._group = group

    @property
    def staging(self) -> Path:
        return self._staging

    def prepare(self) -> None:
        make_private_directory(self._staging, self._group)

    def put(self, staged: Path, packed: Packed) -> None:
        with self._named_failures("keep an artifact"):
            self._client.upload_file(str(staged), self._artifacts.bucket, self._key(packed.digest))

    def locate(self, digest: str) -> str:
        place = {"Bucket": self._artifacts.bucket, "Key": self._key(digest)}
        with self._named_failures("find an artifact"):
            # An address can be signed for what is not there; the node would be told in the store's words, not ours.
            self._client.head_object(**place)
            address: str = self._client.generate_presigned_url("get_object", Params=place, ExpiresIn=ADDRESS_SECONDS)
        return address

    def remove(self, digest: str) -> None:
        with self._named_failures("remove an artifact"):
            self._client.delete_object(Bucket=self._artifacts.bucket, Key=self._key(digest))

    @cached_property
    def _client(self) -> Any:
        artifacts = self._artifacts
        return boto3.session.Session().client(
            "s3",
            endpoint_url=artifacts.endpoint or None,
            region_name=artifacts.region or None,
            aws_access_key_id=artifacts.access_key or None,
            aws_secret_access_key=artifacts.secret_key or None,
            config=Config(
                signature_version="s3v4",
                connect_timeout=CONNECT_SECONDS,
                read_timeout=READ_SECONDS,
                retries={"total_max_attempts": ATTEMPTS, "mode": "standard"},
                # Servers other than Amazon's have no name for each bucket, and refuse checksums they do not know.
                s3={"addressing_style": "path" if artifacts.endpoint else "auto"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    def _key(self, digest: str) -> str:
        return f"{self._artifacts.prefix}{digest}{ENDING}"

    @contextmanager
    def _named_failures(self, deed: str) -> Iterator[None]:
        """Turn what boto3 raises into words that name the store."""
        place = f"the bucket {self._artifacts.bucket!r} at {self._artifacts.endpoint or 'Amazon S3'}"
        try:
            yield
        except ClientError as error:
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            if status == HTTPStatus.NOT_FOUND and error.operation_name == "HeadObject":
                raise ArtifactMissing(f"The artifact is not in {place}. Build the release again.") from error
            raise StoreError(f"Could not {deed} in {place}: {error}") from error
        except (BotoCoreError, boto3.exceptions.Boto3Error) as error:
            raise StoreError(f"Could not {deed} in {place}: {error}") from error
