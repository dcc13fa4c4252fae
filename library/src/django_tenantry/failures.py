"""Why a new process of a site cannot answer, for the person who made it: Django alone would keep it to itself.

With DEBUG off, Django sends an exception in a view to the administrators' mail and answers «Server Error». When it is
the node that asks, before visitors do, the traceback goes to the site's log as well.
"""

import sys
import traceback
from typing import Any

AGENT = "tenantry-agent"  # the User-Agent of the node's own requests


def explain_failures() -> None:
    """Write the traceback of a request of the node's that fails to the log. Nothing where Django is not used."""
    if "django.core.handlers.base" not in sys.modules:
        return
    from django.core.signals import got_request_exception

    got_request_exception.connect(_explain, dispatch_uid="django_tenantry.failures")


def _explain(request: Any = None, **_: Any) -> None:
    if getattr(request, "META", {}).get("HTTP_USER_AGENT") == AGENT:
        traceback.print_exc(file=sys.stderr)
        sys.stderr.flush()
