"""Answers to creates, remembered under their Idempotency-Key."""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse
from django.http.response import JsonResponse
from ninja import Schema

from tenantry.control.access.idempotency import Answer, answer_once
from tenantry.control.api.authentication import actor


def created(
    request: HttpRequest, key: str | None, location: Callable[[Schema], str], produce: Callable[[], Schema]
) -> HttpResponse:
    """Answer 201 with what `produce` makes and its Location; the same again when `key` was used for this request."""

    def answer() -> Answer:
        document = produce()
        return Answer(201, {"location": location(document), "document": document.model_dump(mode="json")})

    sent = f"{request.method} {request.path}\n{request.body.decode('utf-8', 'replace')}"
    found = answer_once(actor(request), key, sent, answer)
    response = JsonResponse(found.document["document"], status=found.status)
    response.headers["Location"] = found.document["location"]
    if found.repeated:
        response.headers["Idempotency-Replayed"] = "true"
    return response
