"""Names on the command line, refused with the platform's own messages before they become part of a path."""

from typing import Annotated

import typer

from tenantry.spec.names import parse_hostname, parse_slug
from tenantry.spec.sites import ReleaseName

SlugArgument = Annotated[str, typer.Argument(metavar="SLUG", help="The site's slug.", show_default=False)]
ProjectArgument = Annotated[str, typer.Argument(metavar="PROJECT", help="The project's name.", show_default=False)]
ReleaseArgument = Annotated[
    str, typer.Argument(metavar="RELEASE", help="A release, written project-number.", show_default=False)
]

NodeArgument = Annotated[str, typer.Argument(metavar="NODE", help="The node's name.", show_default=False)]


def site(text: str) -> str:
    """A site's slug; raises `InvalidName`."""
    return parse_slug(text)


def project(text: str, *, field: str = "project") -> str:
    """A project's name; raises `InvalidName`."""
    return parse_slug(text, field=field)


def release(text: str) -> str:
    """A release's name; raises `InvalidName`."""
    return str(ReleaseName.parse(text))


def hostname(text: str) -> str:
    """A hostname in its canonical form; raises `InvalidName`."""
    return parse_hostname(text)
