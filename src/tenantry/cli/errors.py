"""The errors of `tenantry.cli`, and the exit code of each.

CliError                 1    something a person can understand and act upon; never shown with a traceback
├── NotConnected         1    no usable address or token: client.json is missing or broken
├── Unreachable          1    nobody answers at the address, or the answer broke off
├── Refused              1    the API said no (problem+json): carries the HTTP status
│   ├── Unauthorized     1    401, 403: the token is unknown or may not do this
│   ├── NotFound         1    404
│   └── InvalidInput     2    422: names the fields
├── WorkFailed           1    accepted, then a build, a site or a check went wrong
├── StillWorking         1    `--wait` gave up; the platform goes on
└── UsageProblem         2    what was typed cannot be sent at all: names the field
"""

from collections.abc import Sequence

FAILED = 1
INVALID = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells report it


class CliError(Exception):
    """Root. `str(error)` is for the person: what is wrong and where; `advice`, a second line, is what to do."""

    exit_code = FAILED

    def __init__(self, message: str, advice: str = "") -> None:
        super().__init__(message)
        self.advice = advice

    def lines(self) -> list[str]:
        """The lines to print on stderr."""
        return [line for line in (str(self), self.advice) if line]


class NotConnected(CliError):
    """There is no usable address or token."""


class Unreachable(CliError):
    """The platform does not answer at its address."""


class Refused(CliError):
    """The API refused the request. `status` is the HTTP status."""

    def __init__(self, status: int, message: str, advice: str = "") -> None:
        super().__init__(message, advice)
        self.status = status


class Unauthorized(Refused):
    """The token is unknown, revoked or not allowed to do this."""


class NotFound(Refused):
    """There is nothing of that name."""


class InvalidInput(Refused):
    """The API refused fields. `problems` pairs each field's name with its message."""

    exit_code = INVALID

    def __init__(self, message: str, problems: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(422, message)
        self.problems = tuple(problems)

    def lines(self) -> list[str]:
        return [f"{field}: {message}" for field, message in self.problems] or super().lines()


class WorkFailed(CliError):
    """The platform accepted the work and could not finish it. `log` is the tail of its log, possibly empty."""

    def __init__(self, message: str, advice: str = "", log: str = "") -> None:
        super().__init__(message, advice)
        self.log = log


class StillWorking(CliError):
    """The time of `--wait` is over; the work is not."""


class UsageProblem(CliError):
    """What was typed cannot be sent. `field` is the option or argument."""

    exit_code = INVALID

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
