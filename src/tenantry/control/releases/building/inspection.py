"""Step inspect: what kind of Django project a directory holds. Reads files and their syntax; runs nothing."""

import ast
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from tenantry.control.releases.building.context import StepFailed
from tenantry.spec.errors import InvalidName
from tenantry.spec.names import parse_asgi, parse_module, parse_wsgi
from tenantry.spec.sites import Engine

_SETTINGS_VARIABLE = "DJANGO_SETTINGS_MODULE"
_IMPORT_DEPTH = 8  # how far `from .base import *` is followed in settings


@dataclass(frozen=True, slots=True)
class Inspection:
    """The entry points of a project. `manage` is relative to the source; `wsgi` is "" when only Django can tell.

    `asgi` is "" where the engine needs none.
    """

    manage: str
    settings: str
    wsgi: str
    asgi: str = ""

    @property
    def folder(self) -> str:
        """The directory of manage.py, relative to the source ("." for the top): commands run there."""
        return str(Path(self.manage).parent)


def inspect_project(
    source: Path, settings: str, wsgi: str, engine: Engine = Engine.UWSGI, asgi: str = ""
) -> Inspection:
    """Return the entry points of the project in `source`; what was given is checked and kept.

    Raises `StepFailed` with one message for a person when it is no Django project or the settings cannot be found.
    """
    manage = find_manage(source)
    try:
        settings = parse_module(settings, field="settings") if settings else _settings_of(manage)
        wsgi = parse_wsgi(wsgi) if wsgi else find_application(manage.parent, settings, "wsgi")
        if engine is Engine.UWSGI:
            asgi = ""
        elif asgi:
            asgi = parse_asgi(asgi)
        else:
            asgi = find_application(manage.parent, settings, "asgi")
    except InvalidName as error:
        raise StepFailed(error.message) from error
    if engine is not Engine.UWSGI and not asgi:
        raise StepFailed(
            f"The engine {engine} serves ASGI applications, and this project has none: there is no ASGI_APPLICATION in "
            f"{settings} and no asgi.py beside it. Give it with --asgi, or build with the engine {Engine.UWSGI}."
        )
    return Inspection(manage.relative_to(source).as_posix(), settings, wsgi, asgi)


def find_manage(source: Path) -> Path:
    """Return the project's manage.py: at the top, or in the one directory below that has one."""
    if not source.is_dir():
        raise StepFailed(f"{source} is not a directory.")
    if (source / "manage.py").is_file():
        return source / "manage.py"
    try:
        found = sorted(path for path in source.glob("*/manage.py") if path.is_file() and not path.parent.is_symlink())
    except OSError as error:
        raise StepFailed(f"{source} cannot be read: {error.strerror}.") from error
    if not found:
        raise StepFailed(
            f"{source} is not a Django project: there is no manage.py in it nor one directory below. "
            "Give the directory that holds manage.py."
        )
    if len(found) > 1:
        folders = ", ".join(path.parent.name for path in found)
        raise StepFailed(f"{source} holds several Django projects ({folders}); give the directory of one of them.")
    return found[0]


def _settings_of(manage: Path) -> str:
    for node in ast.walk(_parse(manage)):
        value = _assigned_settings(node)
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            return parse_module(value.value, field="settings")
    found = sorted(manage.parent.glob("*/settings.py"))
    if len(found) == 1:
        return f"{found[0].parent.name}.settings"
    raise StepFailed(f"{manage.name} does not say which settings module to use; give it with --settings.")


def _assigned_settings(node: ast.AST) -> ast.expr | None:
    """The value in `os.environ.setdefault(NAME, value)` and `os.environ[NAME] = value`."""
    match node:
        case ast.Call(func=ast.Attribute(attr="setdefault"), args=[ast.Constant(value=name), value, *_]):
            return value if name == _SETTINGS_VARIABLE else None
        case ast.Assign(targets=[ast.Subscript(slice=ast.Constant(value=name))], value=value):
            return value if name == _SETTINGS_VARIABLE else None
    return None


def _parse(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_bytes(), filename=path.name)
    except SyntaxError as error:
        raise StepFailed(f"{path.name}, line {error.lineno}: {error.msg}.") from error
    except (OSError, ValueError) as error:
        raise StepFailed(f"{path.name} cannot be read: {error}.") from error


def find_application(folder: Path, settings: str, kind: str) -> str:
    """Return `module:attribute` of the project's application of `kind` («wsgi», «asgi»), else "".

    From WSGI_APPLICATION or ASGI_APPLICATION in the settings' source, or a `wsgi.py` or `asgi.py` beside them.
    """
    named = _named_application(folder, settings, f"{kind.upper()}_APPLICATION", _IMPORT_DEPTH)
    if named:
        module, _, attribute = named.rpartition(".")
        return parse_wsgi(f"{module}:{attribute}", field=kind)
    packages = settings.split(".")[:-1]
    for length in range(len(packages), 0, -1):
        module = ".".join([*packages[:length], kind])
        if _file_of(folder, module):
            return f"{module}:application"
    return ""


def _named_application(folder: Path, module: str, setting: str, depth: int) -> str | None:
    """The last constant given to `setting` in `module` or in what it star-imports, None when there is none."""
    path = _file_of(folder, module)
    if path is None or depth == 0:
        return None
    try:
        tree = _parse(path)
    except StepFailed:
        return None  # step check runs it and shows the whole traceback
    found = None
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=str(value))) if name == setting:
                found = value
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.Constant(value=str(value))) if name == setting:
                found = value
            case ast.ImportFrom(module=name, names=[ast.alias(name="*")], level=level):
                imported = _absolute(module, path, name, level)
                found = _named_application(folder, imported, setting, depth - 1) or found
    return found


def _absolute(module: str, path: Path, name: str | None, level: int) -> str:
    if level == 0:
        return name or ""
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    base = package[: len(package) - (level - 1)]
    return ".".join([*base, *([name] if name else [])])


def _file_of(folder: Path, module: str) -> Path | None:
    base = folder.joinpath(*module.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


def wanted_python(source: Path, folder: str) -> tuple[str, str]:
    """Return (`.python-version`'s version or "", `requires-python` or "") of the project."""
    version = ""
    requires = ""
    for directory in dict.fromkeys((source / folder, source)):
        pinned = directory / ".python-version"
        if not version and pinned.is_file():
            first = pinned.read_text(errors="replace").split()
            match = re.fullmatch(r"(?:python-|cpython-|cpython@)?(3(?:\.\d+){0,2})", first[0]) if first else None
            version = match[1] if match else ""
        if not requires:
            requires = str(read_pyproject(directory).get("project", {}).get("requires-python", ""))
    return version, requires


def read_pyproject(directory: Path) -> dict[str, dict[str, object]]:
    """Return the tables of pyproject.toml, {} when there is none; `StepFailed` when it is no TOML."""
    path = directory / "pyproject.toml"
    if not path.is_file():
        return {}
    try:
        tables = tomllib.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise StepFailed(f"pyproject.toml cannot be read: {error}.") from error
    return {name: table for name, table in tables.items() if isinstance(table, dict)}
