from django.apps import AppConfig


class AccessConfig(AppConfig):
    name = "tenantry.control.access"
    label = "access"
