from django.apps import AppConfig


class JobsConfig(AppConfig):
    name = "tenantry.control.jobs"
    label = "jobs"
