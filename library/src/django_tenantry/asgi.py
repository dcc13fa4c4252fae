"""The module that every process of an ASGI site loads: `django_tenantry.asgi:application`.

It is the project's own ASGI application, named by TENANTRY_ASGI, as a site (`asgi_site`). Keep this module thin: its
imports are part of the time between creating a site and its first answer.
"""

import os
from typing import cast

from django_tenantry.asgi_site import Site
from django_tenantry.failures import explain_failures
from django_tenantry.interface import ASGIApplication
from django_tenantry.loading import load_callable
from django_tenantry.prefix import enforce_cache_prefix


def load_application(name: str) -> ASGIApplication:
    """Return the ASGI application called `name`, as `django_tenantry.loading` does; Django's own for an empty name."""
    if not name:
        from django.core.asgi import get_asgi_application

        return cast(ASGIApplication, get_asgi_application())
    return cast(ASGIApplication, load_callable("TENANTRY_ASGI", name, "ASGI"))


enforce_cache_prefix()
application = Site(load_application(os.environ.get("TENANTRY_ASGI", "")), os.environ)
explain_failures()
