from django.apps import AppConfig


class ChangelogConfig(AppConfig):
    name = "tenantry.control.changelog"
    label = "changelog"
