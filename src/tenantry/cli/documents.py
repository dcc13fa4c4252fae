"""The API's documents as the CLI reads them. The OpenAPI document is the authority; these name the keys used here."""

from typing import Any, NotRequired, TypedDict

Document = dict[str, Any]


class Project(TypedDict):
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
    current_release: str | None
    sites: int
    created_at: str


class Release(TypedDict):
    name: str
    project: str
    number: int
    status: str
    step: str | None
    error: str | None
    log_tail: str | None
    digest: str | None
    commit: str | None
    python: str | None
    django: str | None
    wsgi: str | None
    engine: str
    asgi: str | None
    settings: str | None
    static: str | None
    created_at: str
    finished_at: str | None


class SiteOnNode(TypedDict):
    node: str
    revision: int
    generation: int
    state: str
    message: str | None
    log: str | None
    lag: int
    reported_at: NotRequired[str | None]


class ModeOptions(TypedDict):
    message: str
    retry_after_seconds: int | None
    until: str | None
    networks: list[str]
    page: bool


class Site(TypedDict):
    slug: str
    number: int
    project: str
    release: str | None
    pending_release: NotRequired[str | None]
    status: str
    error: str | None
    mode: str
    pending_mode: NotRequired[str | None]
    mode_options: NotRequired[ModeOptions]
    runtime: str
    generation: int
    revision: int
    processes: int
    threads: int
    limits: dict[str, int]
    hostnames: list[str]
    url: str | None
    environment_names: list[str]
    created_at: str
    updated_at: str
    nodes: list[SiteOnNode]


class Unreachable(TypedDict):
    """A node that is not in contact: what it has applied is not known."""

    node: str
    last_contact: str | None


class Convergence(TypedDict):
    site: str
    revision: int
    converged: bool
    applied: bool
    status: str
    error: str | None
    nodes: list[SiteOnNode]
    unreachable: list[Unreachable]


class NodeProgress(TypedDict):
    node: str
    revision: int
    applied: bool
    reasons: list[str]


class Application(TypedDict):
    """How far the nodes have come with a revision of the change log."""

    revision: int
    converged: bool
    nodes: list[NodeProgress]
    unreachable: list[Unreachable]


class Node(TypedDict):
    name: str
    state: str
    version: str
    joined_at: str
    last_contact: str | None
    epoch: str | None
    revision: int
    lag: int
    digest: str | None
    agrees: bool | None
    notifications: bool | None
    draining: bool
    drained: bool
    conditions: list[Document]
    sites: int
    failed: int
    drift_open: int
    checked_id: int
    checked_at: str | None
    checked: Document | None
    problems: list[str]
    notes: list[str]


class Drift(TypedDict):
    site: str | None
    kind: str
    path: str
    detail: str
    good_at: str | None
    found_at: str
    repaired_at: str | None
    took_seconds: float | None


class Change(TypedDict):
    revision: int
    epoch: str
    type: str
    site: str | None
    project: str | None
    actor: str
    metadata: Document
    timestamp: str
