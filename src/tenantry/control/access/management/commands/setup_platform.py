"""setup_platform: what must exist once the tables do. Run after every migrate; what is right already stays."""

import json
import os
import tempfile
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.core.management.base import BaseCommand, CommandError

from tenantry.control.access.actors import Actor
from tenantry.control.access.services import authenticate, create_token, ensure_administrator
from tenantry.control.errors import ControlError, NotAuthenticated
from tenantry.control.fleet.services import adopt_node

ADMINISTRATOR = "admin"


class Command(BaseCommand):
    help = "Make sure that the administrator, the CLI's token and this node exist."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--node-name", required=True)
        parser.add_argument("--node-role", required=True, help="The node's PostgreSQL role; it must exist.")
        parser.add_argument("--node-key-file", type=Path, help="The key that secrets are sealed with for this node.")
        parser.add_argument("--node-token-file", type=Path, help="The token that this node shows to the API.")
        parser.add_argument("--admin-password-file", required=True, type=Path)
        parser.add_argument("--client-file", required=True, type=Path, help="Where the CLI finds its URL and token.")
        parser.add_argument("--url", default="", help="Where control answers; control_url of the configuration else.")

    def handle(self, *args: Any, **options: Any) -> None:
        """Raises CommandError, which ends the command with exit code 1 and its message."""
        try:
            password = options["admin_password_file"].read_text().strip()
            if not password:
                raise CommandError(f"{options['admin_password_file']} is empty: it must hold the password.")
            if ensure_administrator(ADMINISTRATOR, password):
                self.stdout.write(f"The administrator «{ADMINISTRATOR}» was created.")
            credentials = _content(options["node_key_file"]), _content(options["node_token_file"])
            if adopt_node(options["node_name"], options["node_role"], *credentials):
                self.stdout.write(f"The node «{options['node_name']}» has joined.")
            if ensure_client_file(options["client_file"], options["url"] or settings.TENANTRY.control_url):
                self.stdout.write(f"A new token is in {options['client_file']}.")
        except OSError as error:
            raise CommandError(f"{error.filename}: {error.strerror}") from error
        except ControlError as error:
            raise CommandError(error.message) from error


def _content(path: Path | None) -> str:
    """The text of a file with a secret; empty when no file was named, for which the node stays as it is."""
    if path is None:
        return ""
    text = path.read_text().strip()
    if not text:
        raise CommandError(f"{path} is empty: it must hold the secret.")
    return text


def ensure_client_file(path: Path, url: str) -> bool:
    """Make sure that the CLI's file holds `url` and a token that works; return whether a new token was made."""
    token = _token_in(path)
    if token is not None:
        _write(path, {"url": url, "token": token})
        return False
    user = User.objects.get(username=ADMINISTRATOR)
    _, text = create_token(Actor(name="setup", is_admin=True, username=user.username), "cli")
    _write(path, {"url": url, "token": text})
    return True


def _token_in(path: Path) -> str | None:
    """The token in the file, if it is one and works."""
    try:
        token = str(json.loads(path.read_text())["token"])
        authenticate(token)
    except (OSError, ValueError, KeyError, TypeError, NotAuthenticated):
        return None
    return token


def _write(path: Path, document: dict[str, str]) -> None:
    """Write the file as its owner's alone, in one step; unchanged bytes are not written."""
    text = json.dumps(document) + "\n"
    if path.exists() and path.read_text() == text and path.stat().st_mode & 0o777 == 0o600:
        return
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
