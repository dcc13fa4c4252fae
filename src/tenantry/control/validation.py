"""Parsing what people typed, all fields at once: a person with three mistakes hears of three."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from tenantry.control.errors import InvalidInput
from tenantry.spec.errors import InvalidName
from tenantry.spec.names import parse_environment_name, parse_environment_value

T = TypeVar("T")

ENVIRONMENT_MAX = 200  # variables
ENVIRONMENT_BYTES_MAX = 100_000  # of all names and values: a process takes about 2 MB with its arguments


class Parser:
    """Collects refusals of fields; `check` raises them together as one `InvalidInput`."""

    def __init__(self) -> None:
        self.errors: list[tuple[str, str]] = []

    def take(self, parse: Callable[..., T], *values: Any, **options: Any) -> T | None:
        """Return the parsed value, or None when it was refused (`check` then raises)."""
        try:
            return parse(*values, **options)
        except InvalidName as error:
            self.errors.append((error.field, error.message))
        except InvalidInput as error:
            self.errors += error.errors
        return None

    def refuse(self, field: str, message: str) -> None:
        self.errors.append((field, message))

    def check(self) -> None:
        if self.errors:
            raise InvalidInput(self.errors)


def parse_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return variables that a process can be started with; raises `InvalidInput` naming each bad one."""
    parser = Parser()
    for name, value in environment.items():
        field = f"environment.{name}" if name.isprintable() and len(name) <= 100 else "environment"
        if parser.take(parse_environment_name, name, field=field) is not None:
            parser.take(parse_environment_value, name, value, field=field)
    if len(environment) > ENVIRONMENT_MAX:
        parser.refuse("environment", f"At most {ENVIRONMENT_MAX} variables; these are {len(environment)}.")
    size = sum(len(name) + len(value.encode("utf-8", "replace")) for name, value in environment.items())
    if size > ENVIRONMENT_BYTES_MAX:
        parser.refuse("environment", f"All variables together have at most {ENVIRONMENT_BYTES_MAX} bytes, not {size}.")
    parser.check()
    return dict(environment)


def parse_number(value: int, low: int, high: int, *, field: str) -> int:
    """Return `value` when it is from `low` to `high`."""
    if not low <= value <= high:
        raise InvalidInput.of(field, f"A number from {low} to {high}, not {value}.")
    return value


def first_repeated(values: Iterable[str]) -> str | None:
    """Return the first value that comes a second time."""
    seen: set[str] = set()
    for value in values:
        if value in seen:
            return value
        seen.add(value)
    return None
