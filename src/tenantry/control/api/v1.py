"""The API object: every router, its documents, its errors."""

from http import HTTPStatus
from typing import Any

from ninja import NinjaAPI
from ninja.openapi.schema import OpenAPISchema

from tenantry.control.api import access, artifacts, changes, joining, modes, nodes, projects, sites
from tenantry.control.api.parsing import StrictParser
from tenantry.control.api.problems import CONTENT_TYPE, install_exception_handlers

DESCRIPTION = """
Hosting many Django sites that share a codebase.

Send `Authorization: Bearer TOKEN`. Errors are RFC 9457 problem documents whose `errors` name the fields at fault.
Creating and changing answer at once; what follows is seen at `/sites/{slug}/convergence` and `/events`.
"""


class DocumentedApi(NinjaAPI):
    """Ninja documents every answer as application/json; problems and plain texts are not."""

    def get_openapi_schema(self, **options: Any) -> OpenAPISchema:
        schema = super().get_openapi_schema(**options)
        for operations in schema["paths"].values():
            for operation in operations.values():
                for status, response in operation["responses"].items():
                    content = response.get("content", {})
                    if int(status) >= HTTPStatus.BAD_REQUEST:
                        response["content"] = {CONTENT_TYPE: content["application/json"]}
                    elif len(content) > 1:
                        content.pop("application/json")
        return schema


api = DocumentedApi(
    title="Tenantry",
    version="1",
    description=DESCRIPTION.strip(),
    openapi_url="/openapi.json",
    docs_url=None,
    urls_namespace="api-v1",
    parser=StrictParser(),
)
install_exception_handlers(api)
# «joining» before «nodes»: /nodes/join is no node.
for router in (
    access.router,
    projects.router,
    sites.router,
    modes.router,
    joining.router,
    nodes.router,
    changes.router,
    artifacts.router,
):
    api.add_router("", router)
