"""The domain errors that services raise. `api.problems` is the only place that maps them to HTTP.

ControlError
├── MalformedRequest    400  what came is not JSON
├── InvalidInput        422  a value was refused; `errors` holds (field, message) pairs
├── NotFound            404  there is no such project, release, site, hostname, node or token
├── Conflict            409  it exists already, is in use, or is in a state that forbids the act
├── NotAuthenticated    401  no valid credentials
├── Forbidden           403  the actor may not do this
├── RevisionMismatch    412  If-Match names another revision than the current one
└── Busy                503  a lock was not had in time; asking again soon is right
"""

from collections.abc import Sequence


class ControlError(Exception):
    """Root of what services raise on purpose. The message is for a person: what is wrong, where, what to do."""

    status = 500
    title = "Internal error"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class MalformedRequest(ControlError):
    """What came cannot be read at all."""

    status = 400
    title = "Malformed request"


class InvalidInput(ControlError):
    """Something typed was refused."""

    status = 422
    title = "Invalid input"

    def __init__(self, errors: Sequence[tuple[str, str]]) -> None:
        super().__init__(" ".join(message for _, message in errors))
        self.errors = tuple(errors)

    @classmethod
    def of(cls, field: str, message: str) -> "InvalidInput":
        return cls([(field, message)])


class NotFound(ControlError):
    """The thing named does not exist."""

    status = 404
    title = "Not found"


class Conflict(ControlError):
    """The act does not fit the present state; `field` names the input at fault, when there is one."""

    status = 409
    title = "Conflict"

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class NotAuthenticated(ControlError):
    """No credentials, or credentials that are wrong, expired or revoked. Never says which."""

    status = 401
    title = "Not authenticated"


class Forbidden(ControlError):
    """The actor is known and may not."""

    status = 403
    title = "Forbidden"


class RevisionMismatch(ControlError):
    """Somebody else changed it since it was read."""

    status = 412
    title = "Changed meanwhile"


class Busy(ControlError):
    """A lock was not had within its time limit. Nothing was changed."""

    status = 503
    title = "Busy"
