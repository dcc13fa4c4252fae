"""The errors of `django_tenantry`.

ImproperlyConfigured (Django)
└── SiteError               the site cannot start as the platform described it
    ├── EnvironmentIncomplete   a variable that the platform sets is absent
    └── ApplicationNotFound     TENANTRY_WSGI or TENANTRY_ASGI names nothing that can be loaded
"""

from django.core.exceptions import ImproperlyConfigured


class SiteError(ImproperlyConfigured):
    """Root of the errors raised by the library. Django and uWSGI show the message; it says what to do."""


class EnvironmentIncomplete(SiteError):
    """A variable that the platform sets for every site is absent or empty."""

    def __init__(self, variable: str) -> None:
        super().__init__(
            f"TENANTRY_SITE is set, but {variable} is not. The platform sets both: start the project through Tenantry, "
            "or unset TENANTRY_SITE to use the project's own settings."
        )
        self.variable = variable


class ApplicationNotFound(SiteError):
    """TENANTRY_WSGI or TENANTRY_ASGI does not lead to an application."""
