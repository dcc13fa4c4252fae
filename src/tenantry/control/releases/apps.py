from django.apps import AppConfig


class ReleasesConfig(AppConfig):
    name = "tenantry.control.releases"
    label = "releases"
