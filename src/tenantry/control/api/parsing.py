"""Request bodies and headers, before any schema sees them."""

import json
from typing import Any

from django.http import HttpRequest
from ninja.parser import Parser

from tenantry.control.errors import InvalidInput, MalformedRequest


class StrictParser(Parser):
    """JSON only, one object, and no text that PostgreSQL could not hold."""

    def parse_body(self, request: HttpRequest) -> Any:
        if not request.body:
            return {}
        try:
            document = json.loads(request.body, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise MalformedRequest(f"The body is not valid JSON ({error}).") from error
        _check_texts(document, "")
        return document


def parse_if_match(header: str | None) -> int | None:
    """Return the revision in an If-Match header, None for none or «*». Raises `InvalidInput`."""
    if header is None or header.strip() == "*":
        return None
    text = header.strip().removeprefix("W/").strip('"')
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise InvalidInput.of("If-Match", 'Send the ETag that the site was read with, for example «"12"».')
    return int(text)


def _refuse_constant(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


def _check_texts(value: Any, field: str) -> None:
    """Refuse NUL, which PostgreSQL's text does not take, and half surrogate pairs, which are no text at all."""
    if isinstance(value, str):
        if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
            raise InvalidInput.of(field or "body", "This text has a character that cannot be stored.")
    elif isinstance(value, dict):
        for key, item in value.items():
            _check_texts(key, field)
            _check_texts(item, f"{field}.{key}" if field else key)
    elif isinstance(value, list):
        for item in value:
            _check_texts(item, field)
