"""`exec`: a command in a site's environment, as the site's user.

It replaces this process, so that the terminal, signals and the exit code pass through.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from tenantry.node import vassal
from tenantry.node.config import Config
from tenantry.node.effects.content import build_document
from tenantry.node.effects.terminal import forbid_typing
from tenantry.node.errors import NodeError
from tenantry.node.memory import LastKnown
from tenantry.node.upstream import read_upstream
from tenantry.sealing import Sealer
from tenantry.spec.names import Slug


def run_command(config: Config, slug: Slug, argv: Sequence[str]) -> None:
    """Become `argv` in the environment of `slug`; `NodeError` when the node does not know the site."""
    document = _document(config, slug)
    command = command_line(document, argv)
    environment = dict(document["environment"])
    if "TERM" in os.environ:
        environment["TERM"] = os.environ["TERM"]
    vassal.become(dict(document))
    if document["user"] is not None:  # else the site's code is the person's own user, who may do as much
        forbid_typing()
    try:
        os.execvpe(command[0], command, environment)  # noqa: S606
    except OSError as error:
        raise NodeError(f"{command[0]}: {error.strerror}") from error


def command_line(document: Mapping[str, Any], argv: Sequence[str]) -> list[str]:
    """Return what to execute: `manage.py …` runs under the release's Python with the site's cache prefix enforced."""
    if not argv:
        raise NodeError("a command is needed, for example: manage.py migrate")
    return [*document["manage"], *argv[1:]] if argv[0] == "manage.py" else list(argv)


def _document(config: Config, slug: Slug) -> dict[str, Any]:
    """Return the document of the serving generation; of the last known state for a site that does not serve."""
    serving = read_upstream(config.layout.site(slug)).generation
    if serving is not None:
        try:
            return vassal.read_document(str(config.layout.document(slug, serving)))
        except FileNotFoundError:
            pass  # switched this moment: the last known state is as good
    entry = LastKnown(config.layout.state).load_site(slug)
    if entry is None or entry.spec is None:
        raise NodeError(f"this node does not serve a site {slug}")
    return dict(build_document(entry.spec, Sealer(config.platform_keys), config, config.nginx_gid()))
