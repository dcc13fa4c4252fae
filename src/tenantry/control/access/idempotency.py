"""Idempotency-Key: the same request sent twice by the same token is done once and answered alike.

The key's row is inserted in the transaction of the act itself. So a second request with the key waits for the first to
commit and then finds its answer; when the first fails, its key goes with it.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.db import IntegrityError, transaction
from django.utils import timezone

from tenantry.control.access.actors import Actor
from tenantry.control.access.models import RememberedAnswer
from tenantry.control.changelog.services import act
from tenantry.control.errors import InvalidInput

KEPT = timedelta(hours=24)
KEY_MAX = 200


@dataclass(frozen=True, slots=True)
class Answer:
    """A status and a JSON document. `repeated` says that it was remembered."""

    status: int
    document: Any
    repeated: bool = False


def answer_once(actor: Actor, key: str | None, request: str, produce: Callable[[], Answer]) -> Answer:
    """Return what `produce` answers, or what it answered before to this `request` with this key.

    Raises `InvalidInput` for a key that was used for another request.
    """
    if key is None or actor.token_id is None:
        return produce()
    if not 0 < len(key) <= KEY_MAX or not key.isprintable():
        raise InvalidInput.of("Idempotency-Key", f"A key has 1 to {KEY_MAX} printable characters.")
    digest = hashlib.sha256(request.encode("utf-8", "replace")).hexdigest()
    with act():
        forget_old_answers()
        try:
            with transaction.atomic():
                row = RememberedAnswer.objects.create(token_id=actor.token_id, key=key, request_digest=digest)
        except IntegrityError:
            return _remembered(actor.token_id, key, digest)
        answer = produce()
        RememberedAnswer.objects.filter(pk=row.pk).update(status=answer.status, body=json.dumps(answer.document))
    return answer


def forget_old_answers() -> None:
    """Remove the answers that are past their time."""
    RememberedAnswer.objects.filter(created_at__lt=timezone.now() - KEPT).delete()


def _remembered(token_id: int, key: str, digest: str) -> Answer:
    row = RememberedAnswer.objects.get(token_id=token_id, key=key)
    if row.request_digest != digest:
        raise InvalidInput.of("Idempotency-Key", "This key was used for another request; choose a new one.")
    return Answer(row.status, json.loads(row.body), repeated=True)
