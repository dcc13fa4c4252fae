"""Django's error pages: templates for people; for programs a bare answer that `api.problems` completes."""

from django.http import HttpRequest, HttpResponse
from django.views import defaults

API = "/api/"


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    return HttpResponse(status=400) if request.path.startswith(API) else defaults.bad_request(request, exception)


def permission_denied(request: HttpRequest, exception: Exception) -> HttpResponse:
    return HttpResponse(status=403) if request.path.startswith(API) else defaults.permission_denied(request, exception)


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    return HttpResponse(status=404) if request.path.startswith(API) else defaults.page_not_found(request, exception)


def server_error(request: HttpRequest) -> HttpResponse:
    return HttpResponse(status=500) if request.path.startswith(API) else defaults.server_error(request)
