"""`python -m tenantry.control <command>`: Django's management commands with the platform's settings."""

import os
import sys

from django.core.management import execute_from_command_line


def main() -> None:
    """Run one management command; the exit code is the command's."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tenantry.control.settings")
    execute_from_command_line(["tenantry.control", *sys.argv[1:]])


if __name__ == "__main__":
    main()
