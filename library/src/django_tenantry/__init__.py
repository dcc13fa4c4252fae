"""What a Django project needs to run as a Tenantry site. Lives in the tenants' virtualenvs, beside the project's code.

Owns: the entry points that the platform starts (`django_tenantry.wsgi`, `python -m django_tenantry`), the settings
that a site overrides (`configure`) and the cache that keeps to a site's keys (`django_tenantry.cache`).
May import: Django and the standard library. Must never import `tenantry`, do I/O at import, or act outside a site.
"""

from django_tenantry.settings import configure

__all__ = ["configure"]
