"""What a build is asked for, what it may use, what it answers."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tenantry.control.data.cache import CacheServer
from tenantry.control.data.server import TenantServer
from tenantry.control.releases.artifacts import ArtifactStore
from tenantry.spec.sites import Engine

STEPS = (
    "fetch",
    "inspect",
    "interpreter",
    "venv",
    "install",
    "check",
    "static",
    "bytecode",
    "template",
    "freeze",
    "publish",
)

LOG_TAIL_LINES = 60  # what the API and the CLI show of a failed build


class Cancellation(Protocol):
    """Says whether the build should stop; asked several times a second. `threading.Event` is one."""

    def is_set(self) -> bool: ...


class BuildError(Exception):
    """A step failed. `message` tells a person what is wrong and what to do; `log_tail` is the end of the log."""

    def __init__(self, step: str, message: str, log_tail: str = "") -> None:
        super().__init__(f"{step}: {message}")
        self.step = step
        self.message = message
        self.log_tail = log_tail


class StepFailed(Exception):
    """Raised inside a step; the pipeline turns it into a `BuildError` with the step's name and the log's end."""


@dataclass(frozen=True, slots=True)
class StepUpdate:
    """A step began, or said something that a person should read (a warning, a choice that was made)."""

    step: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """One release to make. Empty `settings`, `wsgi`, `asgi` and `python` mean: find out."""

    project: str
    project_number: int
    number: int
    source: str
    ref: str = ""
    settings: str = ""
    wsgi: str = ""
    python: str = ""
    engine: Engine = Engine.UWSGI
    asgi: str = ""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        return f"{self.project}-{self.number}"


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds. A build that passes one is stopped: a hung install would block every later build."""

    fetch: float = 300
    install: float = 900
    command: float = 300
    migrate: float = 900


@dataclass(frozen=True, slots=True)
class BuildContext:
    """What builds use of the platform. `uid_base` is None when the platform does not run as root.

    Without a store nothing is published: the release can be used in this home only.
    """

    home: Path
    uid_base: int | None
    server: TenantServer
    cache: CacheServer | None
    library_wheel: Path | None
    uv: Path
    limits: Limits = Limits()
    on_step: Callable[[StepUpdate], None] = lambda update: None
    cancelled: Cancellation = field(default_factory=threading.Event)
    store: ArtifactStore | None = None


@dataclass(frozen=True, slots=True)
class BuildResult:
    """What the control plane keeps of a finished build. `static` is relative to the release's directory.

    `artifact` is «sha256:…» and `artifact_size` bytes, None when it was not published. `asgi` is empty where the engine
    needs none, `wsgi` where the engine needs none and the project has none.
    """

    name: str
    digest: str
    commit: str
    python: str
    django: str
    settings: str
    wsgi: str
    manage: str
    static: str | None
    template: str
    warnings: tuple[str, ...]
    artifact: str | None = None
    artifact_size: int | None = None
    engine: Engine = Engine.UWSGI
    asgi: str = ""
