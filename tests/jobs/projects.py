"""Small real projects for builds, made by `django-admin startproject`."""

import subprocess
import sys
from pathlib import Path

DATABASE = """
import os

DATABASES = {"default": {
    "ENGINE": "django.db.backends.postgresql", "NAME": os.environ["PGDATABASE"], "USER": os.environ["PGUSER"],
    "PASSWORD": os.environ["PGPASSWORD"], "HOST": os.environ["PGHOST"], "PORT": os.environ["PGPORT"],
}}
STATIC_ROOT = os.environ["STATIC_ROOT"]
SECRET_KEY = os.environ["SECRET_KEY"]
"""
REQUIREMENTS = "django~=5.2.0\n"


def start_project(directory: Path, *, settings: str = DATABASE, requirements: str | None = REQUIREMENTS) -> Path:
    """Make the project `shop` in `directory`, which is returned; `settings` is added to its settings."""
    directory.mkdir(parents=True)
    command = [sys.executable, "-m", "django", "startproject", "shop", str(directory)]
    subprocess.run(command, check=True, timeout=60)
    add_settings(directory, settings)
    if requirements is not None:
        (directory / "requirements.txt").write_text(requirements)
    return directory


def add_settings(directory: Path, text: str) -> None:
    with (directory / "shop" / "settings.py").open("a") as file:
        file.write(text)


def add_app(directory: Path, migration: str) -> None:
    """Add an app with one migration whose operations are `migration`."""
    app = directory / "stock"
    (app / "migrations").mkdir(parents=True)
    (app / "__init__.py").touch()
    (app / "migrations" / "__init__.py").touch()
    (app / "migrations" / "0001_initial.py").write_text(
        "from django.db import migrations\n\n\n"
        f"class Migration(migrations.Migration):\n    operations = [{migration}]\n"
    )
    add_settings(directory, 'INSTALLED_APPS += ["stock"]\n')
