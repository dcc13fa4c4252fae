"""The documents of REST v1. Input refuses unknown keys: a misspelt one must not be lost in silence."""

from datetime import datetime
from typing import Annotated, Any, Generic, TypeVar
from uuid import UUID

from ninja import Field, Schema
from pydantic import ConfigDict

T = TypeVar("T")

Slug = Annotated[str, Field(description="1 to 40 of a-z, 0-9 and single inner hyphens, beginning with a letter.")]
Environment = dict[str, str]
LimitsInput = dict[str, Annotated[int, Field(strict=True)]]
_LIMITS = "idle_seconds, request_seconds, processes_max, memory_mb, disk_mb; 0 of the last three is no limit."


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


ENGINE = "uwsgi, or granian for an ASGI application: websockets, async views, streams."
WARM_PATHS = "Asked of each thread of a new generation before it takes over; none may answer 500 or more."


class ProjectInput(Input):
    name: Slug
    source: str = Field(description="An absolute path on the platform's machine, or a git URL.")
    settings: str | None = Field(None, description="The settings module; found in manage.py when left out.")
    wsgi: str | None = Field(None, description="module:attribute; found when left out.")
    engine: str = Field("uwsgi", description=ENGINE)
    asgi: str | None = Field(None, description="module:attribute; found when left out, where the engine needs it.")
    python: str | None = Field(None, description="A Python version, for example 3.13; chosen when left out.")
    health_path: str = Field("/", description="Must answer before a new generation of a site takes over.")
    serve_media: bool = Field(True, description="Whether nginx serves the sites' uploaded files under /media/.")
    environment: Environment = Field(default_factory=dict, description="For its builds and each of its sites.")
    warm_paths: list[str] = Field(default_factory=list, description=WARM_PATHS)


class ProjectChange(Input):
    health_path: str | None = Field(None, description="Must answer before a new generation of a site takes over.")
    warm_paths: list[str] | None = Field(None, description=WARM_PATHS)


class Project(Schema):
    name: str
    number: int
    source: str
    settings: str | None
    wsgi: str | None
    engine: str
    asgi: str | None
    python: str | None
    health_path: str
    warm_paths: list[str]
    serve_media: bool
    environment_names: list[str]
    current_release: str | None = Field(description="What new sites run.")
    sites: int
    created_at: datetime


class ReleaseInput(Input):
    activate: bool = Field(False, description="Make it the project's current release as soon as it is ready.")
    engine: str | None = Field(None, description=f"{ENGINE} The project's from then on; as it is when left out.")
    asgi: str | None = Field(None, description="As for a project.")


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
    engine: str = Field(description="The application server that its sites run in.")
    asgi: str
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
    limits: LimitsInput = Field(default_factory=dict, description=_LIMITS)
    runtime: str = Field("on_demand", description="always_on, or on_demand: it sleeps while nobody asks for it.")


class SitePatch(Input):
    """Only what is given changes."""

    release: str | None = Field(None, description="A job runs its migrations first, then a new generation serves.")
    environment: Environment | None = Field(None, description="Replaces all that was set for the site before.")
    processes: int | None = None
    threads: int | None = None
    limits: LimitsInput | None = Field(None, description=f"{_LIMITS} What is not named stays.")


class SiteOnNode(Schema):
    node: str
    revision: int = Field(description="The site's revision that the node has applied.")
    generation: int
    state: str = Field(description="starting, serving, failed or absent")
    message: str
    log: str
    lag: int = Field(description="Revisions behind the site's latest change.")
    reported_at: datetime | None


class ModeOptions(Schema):
    """What goes with a site's mode."""

    message: str = Field(description="What visitors are told.")
    retry_after_seconds: int | None = Field(description="What Retry-After says; null: until `until`, else 120.")
    until: datetime | None = Field(description="When the site is live again by itself.")
    networks: list[str] = Field(description="Visitors from these get the site as if it were live.")
    page: bool = Field(description="Whether it has a page of its own.")


class Site(Schema):
    slug: str
    number: int = Field(description="Never used again, unlike the slug.")
    project: str
    release: str
    pending_release: str | None = Field(description="Asked for, while its migrations run.")
    status: str = Field(description="provisioning, ready, failed or deleting")
    error: str = Field(description="Of the last act that failed; empty when none did.")
    mode: str
    pending_mode: str | None = Field(description="Asked for, while the database is made writable again.")
    mode_options: ModeOptions
    runtime: str
    generation: int
    revision: int = Field(description="Of its latest change; also its ETag.")
    processes: int
    threads: int
    limits: dict[str, int] = Field(description=f"All of them: {_LIMITS}")
    hostnames: list[str]
    url: str | None
    environment_names: list[str] = Field(description="Names only: values are never sent back.")
    created_at: datetime
    updated_at: datetime
    nodes: list[SiteOnNode]


class RuntimeInput(Input):
    runtime: str = Field(description="always_on or on_demand")


class Unreachable(Schema):
    """A node that is not in contact: it follows when it is back."""

    node: str
    last_contact: datetime | None


class Convergence(Schema):
    site: str
    revision: int
    converged: bool = Field(description="Every reachable node serves the site at `revision`.")
    applied: bool = Field(
        description="Every reachable node has applied `revision`, and the database follows the mode, whether or "
        "not the newest generation starts."
    )
    status: str = Field(description="The site's; `failed` also when its last upgrade or removal failed.")
    error: str
    nodes: list[SiteOnNode]
    unreachable: list[Unreachable]


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


class Checked(Schema):
    """A node's last integrity check."""

    sites: int = 0
    paths: int = 0
    seconds: float = 0
    cpu_seconds: float = 0
    drift: int = Field(0, description="What it found that was not as it should be.")


class Node(Schema):
    name: str
    state: str = Field(description="joining, ready, draining, drained or silent (no contact for 15 s)")
    version: str = Field(description="Of its agent; empty when it has not said.")
    joined_at: datetime
    last_contact: datetime | None
    epoch: str | None
    revision: int = Field(description="The latest that it has applied.")
    lag: int = Field(description="Changes that it has not applied yet.")
    digest: str = Field(description="Of what it serves: nodes that serve the same have the same.")
    agrees: bool | None = Field(
        description="Whether it serves what most nodes at the latest revision serve; null when it cannot be compared."
    )
    notifications: bool | None = Field(description="Whether changes are pushed to it; false when it only polls.")
    draining: bool
    drained: bool = Field(description="Draining, and no visitor is connected.")
    conditions: list[dict[str, Any]]
    sites: int
    failed: int
    drift_open: int = Field(description="Differences from the desired state that are not repaired.")
    checked_id: int = Field(description="The last check asked for that it has answered.")
    checked_at: datetime | None
    checked: Checked | None
    problems: list[str] = Field(description="Why it is not as it should be, in words; empty when it is.")
    notes: list[str] = Field(description="What a person should know of it all the same.")


class Drift(Schema):
    """A difference between what a node should have and what it had."""

    site: str | None
    kind: str
    path: str = Field(description="Below the node's home.")
    detail: str
    good_at: datetime | None = Field(description="When it was last seen right.")
    found_at: datetime
    repaired_at: datetime | None
    took_seconds: float | None = Field(description="How long its repair took.")


class NodeTokenInput(Input):
    ttl_minutes: int = Field(60, ge=1, le=10_080, description="How long it may be used.")
    with_control: bool = Field(
        False, description="The machine may run control too: it gets the platform's own secrets."
    )


class NodeToken(Schema):
    token: str = Field(description="Shown this once. It lets one machine join, and names the platform's authority.")
    expires_at: datetime
    command: str = Field(description="What to run on that machine.")


class JoinInput(Input):
    token: str
    name: str = Field(description="The node's name.")
    version: str = Field("", max_length=100, description="Of Tenantry on that machine.")


class JoinedAgent(Schema):
    dsn: str = Field(
        description="How the agent logs in to PostgreSQL, without the place of the authority's certificate."
    )
    node_key: str = Field(description="Opens the secrets that are sealed for this node.")
    node_token: str = Field(description="The agent's own token.")


class Place(Schema):
    host: str
    port: int


class Joined(Schema):
    """All that a machine needs to be a node. Shown this once."""

    node: str
    epoch: UUID
    uid_base: int | None
    control_url: str
    ca: str = Field(description="The certificate of the platform's authority, PEM.")
    agent: JoinedAgent
    tenant_database: Place
    redis: Place
    control: dict[str, Any] | None = Field(description="What control's configuration needs; null without the right.")


class DrainInput(Input):
    undo: bool = False


class ConfirmInput(Input):
    token: str = Field(description="As the node's condition shows it.")


class CheckInput(Input):
    repair: bool = False


class CheckOrder(Schema):
    check: int = Field(description="The node has answered when its `checked_id` is this or more.")
    requested_at: datetime


class NodeProgress(Schema):
    node: str
    revision: int
    applied: bool
    reasons: list[str] = Field(description="What keeps it, in words.")


class Application(Schema):
    """How far the nodes have come with a revision of the change log."""

    revision: int
    converged: bool = Field(description="Every reachable node has applied it, and there is one.")
    nodes: list[NodeProgress]
    unreachable: list[Unreachable]


class CompactInput(Input):
    keep_days: int = Field(365, ge=1, le=36_500, description="Younger changes stay; so do the latest 10,000.")


class Compacted(Schema):
    removed: int
    tail: int = Field(description="Changes up to this revision may be missing from the log.")


class NewEpoch(Schema):
    epoch: UUID
    revision: int


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
