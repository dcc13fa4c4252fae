"""Sealed documents: JSON encrypted with the platform key, so that PostgreSQL never holds a password in the clear.

The key lives in a file outside the database (`secrets/platform.key`). Several keys may be given, newest first:
sealing uses the first, unsealing tries each, which is how a key is replaced without downtime.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet


class SealError(Exception):
    """The key is malformed, or the document was not sealed with it. Never carries the document's content."""


class Sealer:
    """Seals and unseals JSON objects with the platform's keys (Fernet: AES-128-CBC and HMAC-SHA256)."""

    def __init__(self, keys: Sequence[str]) -> None:
        try:
            self._fernet = MultiFernet([Fernet(key) for key in keys])
        except ValueError as error:
            raise SealError("The platform key is not a Fernet key (32 bytes, url-safe base64).") from error

    def seal(self, document: Mapping[str, Any]) -> str:
        """Return the ciphertext of `document`; different at every call."""
        return self._fernet.encrypt(json.dumps(document, separators=(",", ":")).encode()).decode("ascii")

    def unseal(self, sealed: str) -> dict[str, Any]:
        """Return the document; `SealError` when no key fits or the text was altered."""
        try:
            document = json.loads(self._fernet.decrypt(sealed.encode()))
        except (InvalidToken, ValueError) as error:
            raise SealError("A sealed document does not open with the platform key in use.") from error
        if not isinstance(document, dict):
            raise SealError("A sealed document does not hold an object.")
        return document


def generate_key() -> str:
    """Return a new random platform key."""
    return Fernet.generate_key().decode("ascii")
