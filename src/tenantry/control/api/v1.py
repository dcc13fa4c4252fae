"""The API object: every router, its documents, its errors."""

from ninja import NinjaAPI

from tenantry.control.api import access, changes, nodes, projects, sites
from tenantry.control.api.parsing import StrictParser
from tenantry.control.api.problems import install_exception_handlers

DESCRIPTION = """
Hosting many Django sites that share a codebase.

Send `Authorization: Bearer TOKEN`. Errors are RFC 9457 problem documents whose `errors` name the fields at fault.
Creating and changing answer at once; what follows is seen at `/sites/{slug}/convergence` and `/events`.
"""

api = NinjaAPI(
    title="Tenantry",
    version="1",
    description=DESCRIPTION.strip(),
    openapi_url="/openapi.json",
    docs_url=None,
    urls_namespace="api-v1",
    parser=StrictParser(),
)
install_exception_handlers(api)
for router in (access.router, projects.router, sites.router, nodes.router, changes.router):
    api.add_router("", router)
