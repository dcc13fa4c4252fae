"""The documents of REST v1. Input refuses unknown keys: a misspelt one must not be lost in silence."""

from datetime import datetime
from typing import Annotated, Any, Generic, TypeVar
from uuid import UUID

from ninja import Field, Schema
from pydantic import ConfigDict

T = TypeVar("T")

Slug = Annotated[str, Field(description="1 to 40 of a-z, 0-9 and single inner hyphens, beginning with a letter.")]
Environment = dict[str, str]


class Input(Schema):
    """Root of request bodies."""

    model_config = ConfigDict(extra="forbid")


class Page(Schema, Generic[T]):
    """A part of a list. Ask again with `cursor` set to `next_cursor` for what follows; null at the end."""

    items: list[T]
    next_cursor: str | None = None


class FieldError(Schema):
    field: str
    message: str


class Problem(Schema):
    """An RFC 9457 problem document, sent as application/problem+json."""

    type: str
    title: str
    status: int
    detail: str | None = None
    instance: str | None = None
    errors: list[FieldError] | None = Field(None, description="The input fields at fault.")


class Nothing(Input):
    """An empty body, or none."""


class WhoAmI(Schema):
    user: str
    is_admin: bool
    token: str | None = Field(description="The name of the token used; null for a session.")
    version: str = Field(description="Of the platform.")


class Status(Schema):
    """The platform at a glance."""

    version: str
    epoch: UUID = Field(description="Changes when the database is restored; revisions count within it.")
    revision: int = Field(description="Of the latest change.")
    projects: int
    sites: dict[str, int] = Field(description="Number of sites by status.")
    nodes: dict[str, int] = Field(description="Number of nodes by state.")


class ProjectInput(Input):
    name: Slug
    source: str = Field(description="An absolute path on the platform's machine, or a git URL.")
    settings: str | None = Field(None, description="The settings module; found in manage.py when left out.")
    wsgi: str | None = Field(None, description="module:attribute; found when left out.")
    python: str | None = Field(None, description="A Python version, for example 3.13; chosen when left out.")
    health_path: str = Field("/", description="Must answer before a new generation of a site takes over.")
    serve_media: bool = Field(True, description="Whether nginx serves the sites' uploaded files under /media/.")
    environment: Environment = Field(default_factory=dict, description="For its builds and each of its sites.")


class Project(Schema):
    name: str
    number: int
    source: str
    settings: str | None
    wsgi: str | None
    python: str | None
    health_path: str
    serve_media: bool
    environment_names: list[str]
    current_release: str | None = Field(description="What new sites run.")
    sites: int
    created_at: datetime


class ReleaseInput(Input):
    activate: bool = Field(False, description="Make it the project's current release as soon as it is ready.")


class Release(Schema):
    name: str
    project: str
    number: int
    status: str = Field(description="queued, building, ready or failed")
    step: str = Field(description="Where the build is, or where it failed.")
    error: str
    log_tail: str = Field(description="Of a failed build; the whole is at /releases/{name}/log.")
    digest: str
    commit: str
    python: str
    django: str
    wsgi: str
    settings: str
    static: str | None
    created_at: datetime
    finished_at: datetime | None


class SiteInput(Input):
    slug: Slug
    project: str
    hostnames: list[str] = Field(default_factory=list, description="Fully qualified names, in ASCII.")
    environment: Environment = Field(default_factory=dict, description="Added to the project's.")
    release: str | None = Field(None, description="The project's current one when left out.")
    processes: int = 1
    threads: int = 1


class SitePatch(Input):
    """Only what is given changes."""

    release: str | None = Field(None, description="A job runs its migrations first, then a new generation serves.")
    environment: Environment | None = Field(None, description="Replaces all that was set for the site before.")
    processes: int | None = None
    threads: int | None = None


class SiteOnNode(Schema):
    node: str
    revision: int = Field(description="The site's revision that the node has applied.")
    generation: int
    state: str = Field(description="starting, serving, failed or absent")
    message: str
    log: str
    lag: int = Field(description="Revisions behind the site's latest change.")
    reported_at: datetime | None


class Site(Schema):
    slug: str
    number: int = Field(description="Never used again, unlike the slug.")
    project: str
    release: str
    pending_release: str | None = Field(description="Asked for, while its migrations run.")
    status: str = Field(description="provisioning, ready, failed or deleting")
    error: str = Field(description="Of the last act that failed; empty when none did.")
    mode: str
    runtime: str
    generation: int
    revision: int = Field(description="Of its latest change; also its ETag.")
    processes: int
    threads: int
    hostnames: list[str]
    url: str | None
    environment_names: list[str] = Field(description="Names only: values are never sent back.")
    created_at: datetime
    updated_at: datetime
    nodes: list[SiteOnNode]


class Convergence(Schema):
    site: str
    revision: int
    converged: bool = Field(description="Every live node serves the site at `revision`.")
    status: str = Field(description="The site's; `failed` also when its last upgrade or removal failed.")
    error: str
    nodes: list[SiteOnNode]


class HostnameInput(Input):
    name: str = Field(description="A fully qualified name, in ASCII.")


class Hostname(Schema):
    name: str
    site: str


class CommandInput(Input):
    argv: list[str] = Field(description="The words of the command, as they will be run.")


class Command(Schema):
    site: str
    revision: int


class Node(Schema):
    name: str
    state: str = Field(description="ready, silent (no contact for 15 s) or joining")
    joined_at: datetime
    last_contact: datetime | None
    epoch: str | None
    revision: int = Field(description="The latest that it has applied.")
    lag: int = Field(description="Changes that it has not applied yet.")
    digest: str
    conditions: list[dict[str, Any]]
    sites: int
    failed: int


class Change(Schema):
    """One act. Revisions have no gaps within an epoch."""

    revision: int
    epoch: UUID
    type: str
    site: str | None
    project: str | None
    actor: str
    metadata: dict[str, Any]
    timestamp: datetime


class TokenInput(Input):
    name: str = Field(description="What it is for.")
    user: str | None = Field(None, description="Whose it is; your own when left out.")
    expires_at: datetime | None = None


class Token(Schema):
    id: int
    name: str
    user: str
    created_by: str
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None


class NewToken(Token):
    token: str = Field(description="The token itself. Shown this once.")
