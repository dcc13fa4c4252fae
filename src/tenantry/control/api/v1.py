"""The API object: every router, its authentication, its documents."""

from ninja import NinjaAPI

from tenantry.control.api.problems import install_exception_handlers

api = NinjaAPI(
    title="Tenantry",
    version="1",
    description="Hosting many Django sites that share a codebase. Errors are RFC 9457 problem documents.",
    openapi_url="/openapi.json",
    docs_url=None,
    urls_namespace="api-v1",
)
install_exception_handlers(api)
