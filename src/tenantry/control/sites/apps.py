from django.apps import AppConfig


class SitesConfig(AppConfig):
    name = "tenantry.control.sites"
    label = "sites"
