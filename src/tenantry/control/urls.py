"""Where each surface is mounted."""

from django.urls import include, path

from tenantry.control import probes
from tenantry.control.api.v1 import api

urlpatterns = [
    path("healthz", probes.healthz),
    path("readyz", probes.readyz),
    path("api/v1/", api.urls),
    path("", include("tenantry.control.dashboard.urls")),
]

handler400 = "tenantry.control.pages.bad_request"
handler403 = "tenantry.control.pages.permission_denied"
handler404 = "tenantry.control.pages.not_found"
handler500 = "tenantry.control.pages.server_error"
