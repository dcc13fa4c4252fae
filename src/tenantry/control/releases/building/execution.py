"""Steps check, static, bytecode and the migration of step template: the project's own code, run as its own user."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tenantry.control.releases.building.commands import Command, Runner
from tenantry.control.releases.building.context import Limits, StepFailed
from tenantry.control.releases.building.inspection import Inspection
from tenantry.control.releases.building.install import OLDEST_DJANGO
from tenantry.spec.errors import InvalidName
from tenantry.spec.names import parse_wsgi

_MARK = "tenantry-answer:"

# Printed after a mark of our own: settings and applications print whatever they like.
_ASK_DJANGO = f"""
import json, sys
sys.path.insert(0, "")
import django
from django.conf import settings
django.setup()
print({_MARK!r} + json.dumps({{
    "django": django.get_version(),
    "static_root": str(settings.STATIC_ROOT) if settings.STATIC_ROOT else None,
    "staticfiles": "django.contrib.staticfiles" in settings.INSTALLED_APPS,
    "wsgi": settings.WSGI_APPLICATION,
    "engine": settings.DATABASES.get("default", {{}}).get("ENGINE", ""),
    "database": str(settings.DATABASES.get("default", {{}}).get("NAME", "")),
}}))
"""

_LOAD = """
import importlib, sys
sys.path.insert(0, "")
module, attribute = sys.argv[1].split(":")
if not callable(getattr(importlib.import_module(module), attribute)):
    sys.exit(f"{sys.argv[1]} is not callable")
"""


@dataclass(frozen=True, slots=True)
class Project:
    """A project with its virtualenv, ready to run under neutral values."""

    inspection: Inspection
    source: Path
    venv: Path
    environment: Mapping[str, str]
    limits: Limits
    library: bool  # django-tenantry is installed: its wrapper keeps Redis keys below the prefix

    @property
    def python(self) -> str:
        return str(self.venv / "bin" / "python")

    @property
    def directory(self) -> Path:
        return self.source / self.inspection.folder

    def command(self, *argv: str, seconds: float, quiet: bool = False) -> Command:
        return Command((self.python, *argv), self.directory, self.environment, seconds, quiet)

    def manage(self, *argv: str, seconds: float) -> Command:
        prefix = ("-m", "django_tenantry") if self.library else ()
        return self.command(*prefix, "manage.py", *argv, seconds=seconds)


@dataclass(frozen=True, slots=True)
class Answers:
    """What Django says of the project's settings."""

    django: str
    static_root: str | None
    staticfiles: bool
    wsgi: str | None
    engine: str
    database: str


def ask_django(project: Project, runner: Runner) -> Answers:
    """Load the project's settings and applications and return what a build must know of them."""
    command = project.command("-c", _ASK_DJANGO, seconds=project.limits.command, quiet=True)
    code, output = runner.attempt(command)
    answers = [line for line in output.splitlines() if line.startswith(_MARK)]
    if code != 0 or not answers:
        runner.log.write(output.encode())
        lines = [line.strip() for line in output.splitlines() if line.strip()]
        raise StepFailed(f"The project does not load: {lines[-1][:500] if lines else 'it printed nothing'}")
    return Answers(**json.loads(answers[-1].removeprefix(_MARK)))


def check(project: Project, template: str, runner: Runner) -> tuple[Answers, str, list[str]]:
    """Run `manage.py check` and load the application that sites run; returns Django's answers, `wsgi`, warnings."""
    answers = ask_django(project, runner)
    version = tuple(int(part) for part in answers.django.split(".")[:2])
    if version < OLDEST_DJANGO:
        raise StepFailed(f"Django {answers.django} is too old; Tenantry hosts 4.2 and newer.")
    runner.run(project.manage("check", seconds=project.limits.command), "manage.py check failed")
    wsgi, asgi = project.inspection.wsgi, project.inspection.asgi
    if not asgi:
        wsgi = wsgi or _wsgi_of(answers)
    kind, name = ("ASGI", asgi) if asgi else ("WSGI", wsgi)
    load = project.command("-c", _LOAD, name, seconds=project.limits.command)
    runner.run(load, f"The {kind} application {name} does not load")
    return answers, wsgi, _database_warnings(answers, template)


def _wsgi_of(answers: Answers) -> str:
    if not answers.wsgi:
        raise StepFailed("The settings have no WSGI_APPLICATION and there is no wsgi.py; give it with --wsgi.")
    module, _, attribute = answers.wsgi.rpartition(".")
    try:
        return parse_wsgi(f"{module}:{attribute}")
    except InvalidName as error:
        raise StepFailed(error.message) from error


def _database_warnings(answers: Answers, template: str) -> list[str]:
    if answers.engine.startswith(("django.db.backends.postgresql", "django.contrib.gis.db.backends.postgis")):
        if answers.database in (template, ""):
            return []
        found = f"the database {answers.database!r}"
    elif answers.database == template:
        return []
    else:
        found = answers.engine or "no database"
    return [
        f"The settings use {found}, not the site's own: read it from DATABASE_URL, or from PGHOST, PGDATABASE, PGUSER "
        "and PGPASSWORD (see the tutorial)."
    ]


def collect_static(project: Project, answers: Answers, release: Path, runner: Runner) -> tuple[str | None, list[str]]:
    """Run `collectstatic`; returns STATIC_ROOT relative to the release's directory, or None with the reason."""
    if not answers.staticfiles:
        return None, ["django.contrib.staticfiles is not installed: no static files are served."]
    if not answers.static_root:
        return None, ["The settings have no STATIC_ROOT: no static files are served. Read it from the environment."]
    # Django resolves a relative STATIC_ROOT from the directory that it runs in.
    root = Path((project.directory / answers.static_root).resolve())
    inside = next((base for base in (release / "static", release / "src") if root.is_relative_to(base)), None)
    if inside is None:
        return None, [
            f"STATIC_ROOT is {answers.static_root}, outside of the release: no static files are served. "
            "Read it from the environment, or put it inside the project."
        ]
    if root == release / "src" or root in project.directory.parents or root == project.directory:
        return None, ["STATIC_ROOT is the project's own directory: serving it would publish the source."]
    command = project.manage("collectstatic", "--noinput", "--verbosity=1", seconds=project.limits.command)
    runner.run(command, "manage.py collectstatic failed")
    if not root.is_dir():
        return None, ["collectstatic wrote no files: none are served."]
    return root.relative_to(release).as_posix(), []


def compile_bytecode(project: Project, runner: Runner) -> None:
    """Compile the source and the virtualenv, so that no site's start does. Files that do not compile are left.

    Without checks against the source: it never changes, and its mtime may (a restored backup).
    """
    library = project.venv / "lib"
    argv = ("-I", "-m", "compileall", "-qq", "-j2", "--invalidation-mode=unchecked-hash", str(project.source))
    runner.attempt(project.command(*argv, str(library), seconds=project.limits.command))


def migrate(project: Project, runner: Runner) -> None:
    """Run `manage.py migrate` in the database of the environment."""
    command = project.manage("migrate", "--noinput", "--verbosity=1", seconds=project.limits.migrate)
    runner.run(command, "manage.py migrate failed")
