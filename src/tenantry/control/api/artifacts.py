"""Artifacts for nodes: with a node's token, not a person's."""

import asyncio
from collections.abc import AsyncIterator
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any, BinaryIO

from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from ninja import Header, Router
from ninja import Path as PathParameter
from ninja.security import HttpBearer

from tenantry.control.api.parameters import PROBLEMS
from tenantry.control.database import in_database
from tenantry.control.errors import Busy, NotAuthenticated, NotFound
from tenantry.control.fleet import services as fleet
from tenantry.control.releases import queries
from tenantry.control.releases.artifacts import ArtifactMissing, StoreError, store_of

router = Router(tags=["agent"])

CHUNK_BYTES = 1 << 18
GZIP = "application/gzip"
_BINARY = {"content": {GZIP: {"schema": {"type": "string", "format": "binary"}}}}


class NodeBearer(HttpBearer):
    """A node's own token. `request.auth` is the node."""

    def __call__(self, request: HttpRequest) -> Any:
        return in_database(self._node, request)

    def _node(self, request: HttpRequest) -> Any:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise NotAuthenticated("A node's token is needed.")
        return fleet.authenticate_node(token.strip())

    async def authenticate(self, request: HttpRequest, token: str) -> Any:
        raise NotImplementedError("__call__ reads the header itself")


@router.get(
    "/agent/artifacts/{digest}",
    response={200: bytes, 206: bytes, 307: None, **PROBLEMS},
    auth=NodeBearer(),
    openapi_extra={
        "responses": {
            200: {"description": "The archive.", **_BINARY},
            206: {"description": "The archive from the asked byte on.", **_BINARY},
            307: {"description": "Where the archive is for the next minutes."},
        }
    },
)
async def get_artifact(
    request: HttpRequest,
    digest: Annotated[str, PathParameter(pattern="^[0-9a-f]{64}$", description="SHA-256 of the archive.")],
    beginning: Annotated[
        str | None, Header(alias="Range", description="`bytes=N-`: the rest of a transfer that broke off.")
    ] = None,
) -> HttpResponseBase:
    """Hand a node a release as a tar.gz. The answer may be a redirection to the store, which takes no token."""
    if not await in_database(queries.is_artifact, f"sha256:{digest}"):
        raise NotFound("No release has this artifact.")
    store = store_of(settings.TENANTRY)
    try:
        place = await asyncio.to_thread(store.locate, digest)
    except ArtifactMissing as error:
        raise NotFound(str(error)) from error
    except StoreError as error:
        raise Busy(str(error)) from error
    if isinstance(place, str):
        return HttpResponse(status=HTTPStatus.TEMPORARY_REDIRECT, headers={"Location": place})
    return _stream(place, beginning or "")


def _stream(path: Path, asked: str) -> HttpResponseBase:
    """The file, from the byte that `asked` («bytes=N-») names if it has it; any other range gets the whole."""
    file = path.open("rb")  # stays readable when the release is removed meanwhile
    size = path.stat().st_size
    offset = _offset(asked)
    whole = not 0 < offset < size
    file.seek(0 if whole else offset)
    response = StreamingHttpResponse(_chunks(file), content_type=GZIP)
    response.headers["Content-Length"] = str(size if whole else size - offset)
    response.headers["Accept-Ranges"] = "bytes"
    response.headers["X-Accel-Buffering"] = "no"
    if not whole:
        response.status_code = HTTPStatus.PARTIAL_CONTENT
        response.headers["Content-Range"] = f"bytes {offset}-{size - 1}/{size}"
    return response


def _offset(asked: str) -> int:
    text = asked.removeprefix("bytes=").removesuffix("-")
    return int(text) if asked == f"bytes={text}-" and text.isascii() and text.isdigit() and len(text) < 16 else 0


async def _chunks(file: BinaryIO) -> AsyncIterator[bytes]:
    with file:
        while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
            yield chunk
