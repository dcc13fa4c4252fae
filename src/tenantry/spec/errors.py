"""The errors of `tenantry.spec`.

SpecError
├── InvalidName       something a person typed cannot be a slug, hostname, …; carries the field
├── InvalidDocument   a document (site spec, event, report) does not have the agreed shape
└── UserIdsExhausted  the number of a project or site has no user id in the home's range
"""


class SpecError(ValueError):
    """Root of the errors raised by pure code."""


class InvalidName(SpecError):
    """A name was refused. `field` is the API's field name; the message says what is allowed."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field
        self.message = message


class InvalidDocument(SpecError):
    """A document from the other side of a contract lacks a key or has a value of the wrong type."""


class UserIdsExhausted(SpecError):
    """A project or site has no user id of its own. The message is for a person: how many there are, what to do."""
