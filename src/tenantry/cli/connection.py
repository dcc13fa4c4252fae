"""Where the platform is and with which token: `--home`, TENANTRY_URL and TENANTRY_TOKEN, TENANTRY_HOME, the default."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from tenantry.cli.errors import NotConnected

ROOT_HOME = Path("/var/lib/tenantry")
USER_HOME = Path(".tenantry")  # in the person's own home directory


@dataclass(frozen=True, slots=True)
class Connection:
    """An address and its token. `source` says where they came from, for messages."""

    url: str
    token: str = field(repr=False)
    source: str


@dataclass(frozen=True, slots=True)
class Joined:
    """The platform that a node's home belongs to. `ca`: the file with the authority of its certificate."""

    node: str
    url: str
    ca: Path


def find_joined(home: Path) -> Joined | None:
    """Return the platform that `home` is a node of; None for a platform's own home, and where nothing can be read."""
    try:
        config = json.loads((home / "config.json").read_text(encoding="utf-8"))
        if config["role"] != "node":
            return None
        return Joined(str(config["node"]), str(config["platform_url"]), home / "etc" / "ca.pem")
    except (OSError, ValueError, KeyError, TypeError):
        return None


def find_home(chosen: Path | None, environment: Mapping[str, str]) -> Path:
    """The platform's directory: `--home`, else TENANTRY_HOME, else the default of this user."""
    if chosen is not None:
        return chosen.expanduser().absolute()
    if environment.get("TENANTRY_HOME"):
        return Path(environment["TENANTRY_HOME"]).expanduser().absolute()
    return ROOT_HOME if os.geteuid() == 0 else Path.home() / USER_HOME


def find_connection(chosen_home: Path | None, environment: Mapping[str, str]) -> Connection:
    """The address and token to use. A `--home` on the command line wins over TENANTRY_URL, which wins over the rest.

    Raises `NotConnected` when there is none, or when what is there cannot be used.
    """
    url = environment.get("TENANTRY_URL", "")
    if url and chosen_home is None:
        token = environment.get("TENANTRY_TOKEN", "")
        if not token:
            raise NotConnected(
                "TENANTRY_URL is set, but TENANTRY_TOKEN is not.",
                "Make one on the platform's machine with «tenantry token create NAME» and set TENANTRY_TOKEN to it.",
            )
        return _checked(url, token, "TENANTRY_URL")
    return _read_client_file(find_home(chosen_home, environment) / "client.json")


def _read_client_file(path: Path) -> Connection:
    again = "Run bin/up to make it anew, or name another platform with --home or TENANTRY_URL and TENANTRY_TOKEN."
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        url, token = document["url"], document["token"]
    except (FileNotFoundError, NotADirectoryError):
        joined = find_joined(path.parent)
        if joined is not None:
            raise NotConnected(
                f"{path.parent} is the node {joined.node} of {joined.url}; it holds no token for the API.",
                "Run this on the platform's machine, or set TENANTRY_URL and TENANTRY_TOKEN to one made there "
                f"(tenantry token create NAME), and SSL_CERT_FILE to {joined.ca}.",
            ) from None
        raise NotConnected(
            f"There is no platform at {path.parent} (no client.json).",
            "Run bin/up, or name the platform with --home, or with TENANTRY_URL and TENANTRY_TOKEN.",
        ) from None
    except PermissionError:
        raise NotConnected(
            f"You may not read {path}.",
            "Run this as the user who ran bin/up (with sudo if that was root), or set TENANTRY_URL and TENANTRY_TOKEN.",
        ) from None
    except OSError as error:
        raise NotConnected(f"{path} cannot be read: {error.strerror}.", again) from error
    except (ValueError, KeyError, TypeError):
        raise NotConnected(f'{path} is not a valid client file ({{"url": …, "token": …}}).', again) from None
    if not isinstance(url, str) or not isinstance(token, str):
        raise NotConnected(f"{path}: url and token must be strings.", again)
    return _checked(url, token, str(path))


def _checked(url: str, token: str, source: str) -> Connection:
    """Refuse an address no request can be made to, and a token that cannot be a header."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise NotConnected(f"{source}: «{url}» is no address.", "An address looks like http://127.0.0.1:8081.")
    if not token.isascii() or not token.isprintable() or " " in token or not token:
        raise NotConnected(f"{source}: the token is not usable.", "A token begins with tnt_ and has no spaces.")
    return Connection(url.rstrip("/"), token, source)
