"""Parameters that many operations share."""

from typing import Annotated

from ninja import Header, Path, Query

from tenantry.control.api import schemas

BIGINT_MAX = 2**63 - 1

Name = Annotated[str, Path(max_length=260)]
Limit = Annotated[int, Query(ge=1, le=200, description="At most this many.")]
Cursor = Annotated[str, Query(max_length=260, description="`next_cursor` of the page before.")]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="The same key with the same request within 24 hours is done once and answered alike.",
    ),
]
IfMatch = Annotated[
    str | None, Header(alias="If-Match", description="The ETag that the site was read with; 412 if it has changed.")
]

# The errors that any operation may answer, for the OpenAPI document.
PROBLEMS = {frozenset({400, 401, 403, 404, 409, 412, 413, 422, 503}): schemas.Problem}
