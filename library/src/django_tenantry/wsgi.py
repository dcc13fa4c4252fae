"""The module that every process of a site loads: `django_tenantry.wsgi:application`.

It is the project's own WSGI application, named by TENANTRY_WSGI, behind the site's mode (`gate`): that of the document
at TENANTRY_MODE_FILE while there is one, else TENANTRY_MODE. Keep this module thin: its imports are part of the time
between creating a site and its first answer.
"""

import os
from typing import cast

from django_tenantry.activity import with_marks
from django_tenantry.failures import explain_failures
from django_tenantry.gate import WSGIApplication, with_modes
from django_tenantry.leaving import leave_quickly
from django_tenantry.loading import load_callable
from django_tenantry.prefix import enforce_cache_prefix


def load_application(name: str) -> WSGIApplication:
    """Return the WSGI application called `name`, written `module:attribute`; the attribute defaults to `application`.

    An empty name gives Django's own, for DJANGO_SETTINGS_MODULE. Raises `ApplicationNotFound` when there is no such
    module or attribute, or it cannot be called; what the module itself raises while it is imported passes unchanged.
    """
    if not name:
        from django.core.wsgi import get_wsgi_application

        return cast(WSGIApplication, get_wsgi_application())
    return cast(WSGIApplication, load_callable("TENANTRY_WSGI", name, "WSGI"))


leave_quickly()
enforce_cache_prefix()
application = with_marks(with_modes(load_application(os.environ.get("TENANTRY_WSGI", "")), os.environ), os.environ)
explain_failures()
leave_quickly()
