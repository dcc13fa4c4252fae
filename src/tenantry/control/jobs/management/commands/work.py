"""`python -m tenantry.control work`: the jobs worker."""

import sys
from typing import Any

from django.core.management.base import BaseCommand
from procrastinate.contrib.django import app
from procrastinate.contrib.django.django_connector import DjangoConnector
from procrastinate.contrib.django.utils import connector_params

from tenantry.control.jobs.connector import HintConnector
from tenantry.control.jobs.platform import platform
from tenantry.control.jobs.worker import run


class Command(BaseCommand):
    help = "Run jobs (builds, provisioning, removals) until SIGTERM."

    def handle(self, *args: Any, **options: Any) -> None:
        connector = app.connector
        if isinstance(connector, DjangoConnector):
            connector = HintConnector(kwargs=connector_params())
        with app.replace_connector(connector):
            sys.exit(run(app, platform()))
