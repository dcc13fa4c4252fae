"""setup_platform, the configuration file, and the checks that a process is set up."""

import json
import os
import stat
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client

from tenantry.control.access.models import Token
from tenantry.control.access.services import authenticate
from tenantry.control.changelog.models import Change
from tenantry.control.config import ConfigError, parse_config, read_config
from tenantry.control.fleet.models import Node
from tenantry.control.fleet.secrets import open_key
from tenantry.control.fleet.services import authenticate_node
from tenantry.sealing import generate_key
from tenantry.testing.control import NODE_NAME, NODE_ROLE, NODES_ROLE, ControlDatabase

PASSWORD = "a password from a file"
URL = "http://127.0.0.1:8081"


def set_up(directory: Path, **changed: Any) -> str:
    password = directory / "admin-password"
    if not password.exists():
        password.write_text(PASSWORD + "\n")
    options = {
        "node_name": NODE_NAME,
        "node_role": NODE_ROLE,
        "admin_password_file": password,
        "client_file": directory / "client.json",
        "url": URL,
        **changed,
    }
    out = StringIO()
    call_command("setup_platform", stdout=out, **options)
    return out.getvalue()


def test_a_new_platform_gets_its_administrator_and_a_token(control_database: ControlDatabase, tmp_path: Path) -> None:
    output = set_up(tmp_path)
    user = User.objects.get()
    assert (user.username, user.is_superuser, user.check_password(PASSWORD)) == ("admin", True, True)
    client = json.loads((tmp_path / "client.json").read_text())
    assert client["url"] == URL
    assert authenticate(client["token"]).is_admin
    assert stat.S_IMODE((tmp_path / "client.json").stat().st_mode) == 0o600
    assert client["token"] not in output
    assert PASSWORD not in output


def test_a_second_time_changes_nothing(control_database: ControlDatabase, tmp_path: Path) -> None:
    set_up(tmp_path)
    changes, before = Change.objects.count(), os.stat(tmp_path / "client.json")
    (tmp_path / "admin-password").write_text("another")
    assert set_up(tmp_path) == ""
    assert Change.objects.count() == changes
    assert os.stat(tmp_path / "client.json").st_mtime_ns == before.st_mtime_ns
    assert User.objects.get().check_password(PASSWORD), "the password a person may have changed is kept"


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"token": "tnt_wrong"}', '{"token": 7}'])
def test_a_client_file_that_does_not_work_is_made_anew(
    control_database: ControlDatabase, tmp_path: Path, content: str
) -> None:
    (tmp_path / "client.json").write_text(content)
    (tmp_path / "client.json").chmod(0o644)
    set_up(tmp_path)
    assert authenticate(json.loads((tmp_path / "client.json").read_text())["token"]).is_admin
    assert stat.S_IMODE((tmp_path / "client.json").stat().st_mode) == 0o600


def test_another_port_is_told_to_the_cli_with_the_same_token(control_database: ControlDatabase, tmp_path: Path) -> None:
    set_up(tmp_path)
    before = json.loads((tmp_path / "client.json").read_text())
    set_up(tmp_path, url="http://127.0.0.1:9999")
    after = json.loads((tmp_path / "client.json").read_text())
    assert after == {"url": "http://127.0.0.1:9999", "token": before["token"]}
    assert Token.objects.count() == 1


def test_a_renamed_machine_keeps_its_role(control_database: ControlDatabase, tmp_path: Path) -> None:
    set_up(tmp_path, node_name="renamed")
    assert [(node.name, node.role) for node in Node.objects.all()] == [("renamed", NODE_ROLE)]


def test_the_nodes_credentials_are_taken_from_files(control_database: ControlDatabase, tmp_path: Path) -> None:
    key, token = tmp_path / "node.key", tmp_path / "node.token"
    key.write_text(generate_key() + "\n")
    token.write_text("tnn_first\n")
    files = {"node_key_file": key, "node_token_file": token}
    output = set_up(tmp_path, **files)
    assert authenticate_node("tnn_first").name == NODE_NAME
    assert open_key(Node.objects.get().sealed_key) == key.read_text().strip()
    assert key.read_text().strip() not in output
    changes = Change.objects.count()
    set_up(tmp_path, **files)
    set_up(tmp_path)
    assert Change.objects.count() == changes
    assert authenticate_node("tnn_first").name == NODE_NAME
    key.write_text("\n")
    with pytest.raises(CommandError, match=r"node\.key is empty"):
        set_up(tmp_path, **files)
    with pytest.raises(CommandError, match="nowhere"):
        set_up(tmp_path, node_key_file=tmp_path / "nowhere")


def test_new_functions_are_granted_again(control_database: ControlDatabase, tmp_path: Path) -> None:
    """A later migration may bring some: the first node's role and the group of all the others get them."""
    with connection.cursor() as cursor:
        cursor.execute("CREATE FUNCTION agent_v1.later() RETURNS int LANGUAGE sql AS 'SELECT 1'")
        cursor.execute("REVOKE ALL ON FUNCTION agent_v1.later() FROM PUBLIC")
        set_up(tmp_path)
        for role in (NODE_ROLE, NODES_ROLE):
            cursor.execute("SELECT has_function_privilege(%s, 'agent_v1.later()', 'EXECUTE')", [role])
            assert cursor.fetchone() == (True,)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"node_name": "a b"}, "host name"),
        ({"node_role": "x; DROP TABLE node"}, "role"),
        ({"admin_password_file": Path("/nonexistent/file")}, "/nonexistent/file"),
    ],
)
def test_what_is_wrong_is_said(
    control_database: ControlDatabase, tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(CommandError, match=message):
        set_up(tmp_path, **changed)


def test_an_empty_password_file_is_refused(control_database: ControlDatabase, tmp_path: Path) -> None:
    (tmp_path / "admin-password").write_text("\n")
    with pytest.raises(CommandError, match="empty"):
        set_up(tmp_path)
    assert not User.objects.exists()


def test_models_and_migrations_agree(control_database: ControlDatabase) -> None:
    call_command("makemigrations", check=True, dry_run=True, verbosity=0)


def test_a_database_that_is_not_migrated_is_not_ready(control_database: ControlDatabase) -> None:
    client = Client()
    assert client.get("/readyz").status_code == 200
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM django_migrations WHERE app = 'fleet' AND name LIKE '0004%%'")
    response = client.get("/readyz")
    assert response.status_code == 503
    assert "1 migrations" in response.json()["reason"]


def test_the_configuration_is_read_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "control.json"
    document = {"home": "/srv/t", "database": {"host": "/s", "name": "tenantry", "user": "u", "password": "pw"}}
    path.write_text(json.dumps({**document, "platform_key": "key", "uid_base": None, "of_a_newer_version": 1}))
    config = read_config(path)
    assert (config.home, config.database.name, config.uid_base) == (Path("/srv/t"), "tenantry", None)
    assert "pw" not in repr(config)
    assert "key'" not in repr(config)
    assert parse_config({**document, "uid_base": 7}).uid_base == 7


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "not valid JSON"), ("[]", "object"), ('{"home": "/x"}', "database"), ('{"home": 1, "database": {}}', "json")],
)
def test_a_configuration_that_cannot_be_used_is_said(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "control.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        read_config(path)
    with pytest.raises(ConfigError, match="bin/up"):
        read_config(tmp_path / "missing.json")
