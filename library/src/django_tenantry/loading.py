"""How the entry points find the project's own application, which the environment names."""

import importlib
from collections.abc import Callable
from typing import Any

from django_tenantry.errors import ApplicationNotFound


def load_callable(variable: str, name: str, kind: str) -> Callable[..., Any]:
    """Return the application called `name`, written `module:attribute`; the attribute defaults to `application`.

    Raises `ApplicationNotFound` when there is no such module or attribute, or it cannot be called; what the module
    itself raises while it is imported passes unchanged. `variable` and `kind` («WSGI») are for the message.
    """
    module_name, _, attribute = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module exists; something that it imports does not
        example = f"shop.{kind.lower()}:application"
        raise ApplicationNotFound(
            f"{variable} is «{name}», but there is no module {error.name}. Give the project's {kind} application as "
            f"«module:attribute», for example «{example}»."
        ) from error
    application = getattr(module, attribute or "application", None)
    if not callable(application):
        raise ApplicationNotFound(
            f"{variable} is «{name}», but {module_name} has no {kind} application called {attribute or 'application'}."
        )
    found: Callable[..., Any] = application
    return found
