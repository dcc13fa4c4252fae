from django.apps import AppConfig


class FleetConfig(AppConfig):
    name = "tenantry.control.fleet"
    label = "fleet"
