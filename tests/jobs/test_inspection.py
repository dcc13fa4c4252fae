"""What a directory is, found out without running it."""

from pathlib import Path

import pytest

from tenantry.control.releases.building.context import StepFailed
from tenantry.control.releases.building.inspection import Inspection, inspect_project, wanted_python
from tenantry.spec.sites import Engine

MANAGE = 'import os\nos.environ.setdefault("DJANGO_SETTINGS_MODULE", "{}")\n'


def project(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_the_plain_case(tmp_path: Path) -> None:
    source = project(
        tmp_path,
        {
            "manage.py": MANAGE.format("shop.settings"),
            "shop/settings.py": 'WSGI_APPLICATION = "shop.wsgi.application"\n',
        },
    )
    assert inspect_project(source, "", "") == Inspection("manage.py", "shop.settings", "shop.wsgi:application")


def test_an_asgi_application_is_looked_for_where_the_engine_needs_it(tmp_path: Path) -> None:
    files = {
        "manage.py": MANAGE.format("shop.settings"),
        "shop/settings.py": 'ASGI_APPLICATION = "shop.routing.application"\n',
        "shop/asgi.py": "",
    }
    source = project(tmp_path, files)
    assert inspect_project(source, "", "").asgi == ""
    assert inspect_project(source, "", "", Engine.GRANIAN).asgi == "shop.routing:application"
    assert inspect_project(source, "", "", Engine.GRANIAN, "shop.entry:app").asgi == "shop.entry:app"
    (source / "shop/settings.py").write_text("")
    assert inspect_project(source, "", "", Engine.GRANIAN).asgi == "shop.asgi:application"
    (source / "shop/asgi.py").unlink()
    with pytest.raises(StepFailed, match=r"no asgi\.py beside it"):
        inspect_project(source, "", "", Engine.GRANIAN)
    with pytest.raises(StepFailed, match=r"«shop\.asgi:application»"):
        inspect_project(source, "", "", Engine.GRANIAN, "a b")


def test_one_directory_down_and_settings_in_a_package(tmp_path: Path) -> None:
    source = project(
        tmp_path,
        {
            "pyproject.toml": "",
            "src/manage.py": 'import os\nos.environ["DJANGO_SETTINGS_MODULE"] = "conf.settings.production"\n',
            "src/conf/settings/__init__.py": "",
            "src/conf/settings/base.py": 'WSGI_APPLICATION: str = "conf.server.app"\n',
            "src/conf/settings/production.py": "from .base import *\n",
        },
    )
    found = inspect_project(source, "", "")
    assert found == Inspection("src/manage.py", "conf.settings.production", "conf.server:app")
    assert found.folder == "src"


def test_what_is_given_wins(tmp_path: Path) -> None:
    source = project(tmp_path, {"manage.py": MANAGE.format("shop.settings"), "shop/wsgi.py": ""})
    assert inspect_project(source, "shop.other", "shop.entry:app") == Inspection(
        "manage.py", "shop.other", "shop.entry:app"
    )


def test_wsgi_beside_the_settings_else_asked_of_django(tmp_path: Path) -> None:
    source = project(tmp_path, {"manage.py": MANAGE.format("a.b.settings"), "a/wsgi.py": "", "a/b/settings.py": ""})
    assert inspect_project(source, "", "").wsgi == "a.wsgi:application"
    (source / "a/wsgi.py").unlink()
    assert inspect_project(source, "", "").wsgi == ""


def test_a_settings_module_computed_at_run_time_is_guessed_from_the_only_one(tmp_path: Path) -> None:
    source = project(tmp_path, {"manage.py": "import x\nx.setup()\n", "shop/settings.py": ""})
    assert inspect_project(source, "", "").settings == "shop.settings"
    project(source, {"other/settings.py": ""})
    with pytest.raises(StepFailed, match="give it with --settings"):
        inspect_project(source, "", "")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"readme.md": ""}, "is not a Django project"),
        ({"a/manage.py": "", "b/manage.py": ""}, r"several Django projects \(a, b\)"),
        ({"manage.py": "def (\n"}, "manage.py, line 1: "),
        ({"manage.py": MANAGE.format("not a module")}, "A Python module is written with dots"),
    ],
)
def test_one_clear_message(tmp_path: Path, files: dict[str, str], message: str) -> None:
    with pytest.raises(StepFailed, match=message):
        inspect_project(project(tmp_path, files), "", "")


def test_star_imports_in_a_circle_end(tmp_path: Path) -> None:
    source = project(
        tmp_path,
        {"manage.py": MANAGE.format("a.one"), "a/one.py": "from .two import *\n", "a/two.py": "from .one import *\n"},
    )
    assert inspect_project(source, "", "").wsgi == ""


def test_the_wanted_python(tmp_path: Path) -> None:
    assert wanted_python(tmp_path, ".") == ("", "")
    project(tmp_path, {".python-version": "3.12\n", "pyproject.toml": '[project]\nrequires-python = ">=3.11"\n'})
    assert wanted_python(tmp_path, ".") == ("3.12", ">=3.11")
    project(tmp_path, {"src/.python-version": "../../etc\n", ".python-version": "cpython-3.13.1\n"})
    assert wanted_python(tmp_path, "src") == ("3.13.1", ">=3.11")
    project(tmp_path, {"pyproject.toml": "[project\n"})
    with pytest.raises(StepFailed, match=r"pyproject\.toml cannot be read"):
        wanted_python(tmp_path, ".")
