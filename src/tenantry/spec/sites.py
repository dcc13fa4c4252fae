"""What a node needs to know to serve a site: the desired state as `agent_v1.desired` hands it out.

The shapes are frozen; `*.from_document` checks every value it takes over, because what it builds ends in paths
and in nginx's and uWSGI's files.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from tenantry.spec.errors import InvalidDocument, InvalidName
from tenantry.spec.limits import DEFAULT_LIMITS, Limits
from tenantry.spec.modes import NO_OPTIONS, ModeOptions
from tenantry.spec.names import Fqdn, Slug, parse_hostname, parse_slug

PATH_MAX = 500  # characters
_ARTIFACT = re.compile(r"sha256:[0-9a-f]{64}")
_PYTHON = re.compile(r"3\.[0-9]{1,2}(?:\.[0-9]{1,3})?")


class Mode(StrEnum):
    """How a site answers its visitors."""

    LIVE = "live"
    READ_ONLY = "read_only"
    MAINTENANCE = "maintenance"
    PAUSED = "paused"


class Runtime(StrEnum):
    """How a site's processes live (DESIGN, runtimes)."""

    ALWAYS_ON = "always_on"
    ON_DEMAND = "on_demand"
    POOLED = "pooled"


class Engine(StrEnum):
    """The application server that a release's sites run in."""

    UWSGI = "uwsgi"
    GRANIAN = "granian"

    @property
    def grows(self) -> bool:
        """Whether workers are added while those there are busy, up to `processes_max`."""
        return self is Engine.UWSGI


class SiteState(StrEnum):
    """What a node says of a site it was told to serve."""

    STARTING = "starting"
    SERVING = "serving"
    FAILED = "failed"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class ReleaseName:
    """`<project slug>-<number>`: the directory under `releases/`."""

    project: Slug
    number: int

    @classmethod
    def parse(cls, text: str) -> "ReleaseName":
        project, _, number = text.rpartition("-")
        if not number.isascii() or not number.isdigit() or number.startswith("0"):
            raise InvalidName("release", "A release is written «project-number», for example «demo-3».")
        return cls(parse_slug(project, field="release"), int(number))

    def __str__(self) -> str:
        return f"{self.project}-{self.number}"


@dataclass(frozen=True, slots=True)
class ReleaseSpec:
    """The build a site runs. `static` is a path relative to the release's directory, or None.

    `artifact` («sha256:…») names the archive that a node without the release fetches, `artifact_size` its bytes; None
    before it was published. `python` is the version it was built with, None when the database does not say. `asgi`
    («module:attribute») is what an engine for ASGI loads, empty for a project without.
    """

    name: ReleaseName
    digest: str
    wsgi: str
    settings: str
    manage: str
    static: str | None
    serve_media: bool
    artifact: str | None = None
    artifact_size: int | None = None
    python: str | None = None
    project_number: int | None = None
    engine: Engine = Engine.UWSGI
    asgi: str = ""


@dataclass(frozen=True, slots=True)
class SiteSpec:
    """One site as a node should serve it. `sealed` holds the secrets, readable with the platform key only.

    `warm_paths` are asked of a new generation, after its health path, before visitors are.
    """

    slug: Slug
    number: int
    project_number: int
    revision: int
    generation: int
    mode: Mode
    runtime: Runtime
    processes: int
    threads: int
    release: ReleaseSpec
    health_path: str
    hostnames: tuple[Fqdn, ...]
    database: str
    sealed: str
    mode_options: ModeOptions = NO_OPTIONS
    limits: Limits = DEFAULT_LIMITS
    warm_paths: tuple[str, ...] = ()

    @property
    def sleeps(self) -> bool:
        """Whether it has a process only while somebody visits it. Who is let into a paused site wakes it, too."""
        return self.runtime is Runtime.ON_DEMAND or self.mode is Mode.PAUSED

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "SiteSpec":
        """Build from one entry of `agent_v1.desired`; raises `InvalidDocument` naming the site and the key."""
        slug = document.get("slug")
        try:
            release = document["release"]
            return cls(
                slug=parse_slug(document["slug"]),
                number=_positive(document, "number"),
                project_number=_positive(document, "project_number"),
                revision=_positive(document, "revision"),
                generation=_positive(document, "generation"),
                mode=Mode(document["mode"]),
                runtime=Runtime(document["runtime"]),
                processes=_positive(document, "processes"),
                threads=_positive(document, "threads"),
                release=_release(release, _positive(document, "project_number")),
                health_path=_url_path("health_path", document["health_path"]),
                hostnames=tuple(sorted(parse_hostname(name) for name in document["hostnames"])),
                database=_database(document),
                sealed=str(document["sealed"]),
                # Younger than the others: databases and memories of before lack them.
                mode_options=ModeOptions.from_document(document.get("mode_options")),
                limits=Limits.from_document(document.get("limits")),
                warm_paths=tuple(_url_path("warm_paths", path) for path in document.get("warm_paths") or ()),
            )
        except KeyError as error:
            raise InvalidDocument(f"site {slug!r}: the key {error} is missing") from error
        except (InvalidName, ValueError, TypeError, AttributeError) as error:
            raise InvalidDocument(f"site {slug!r}: {error}") from error


def _release(document: Mapping[str, Any], project_number: int) -> ReleaseSpec:
    """The keys after `serve_media` are younger than the others: databases and memories of before lack them."""
    return ReleaseSpec(
        name=ReleaseName.parse(document["name"]),
        digest=str(document["digest"]),
        wsgi=str(document["wsgi"]),
        settings=str(document["settings"]),
        manage=str(document["manage"]),
        static=_inner_path(document["static"]),
        serve_media=bool(document["serve_media"]),
        artifact=_matching(document, "artifact", _ARTIFACT),
        artifact_size=None if document.get("artifact_size") is None else _positive(document, "artifact_size"),
        python=_matching(document, "python", _PYTHON),
        project_number=project_number,
        engine=Engine(document.get("engine") or Engine.UWSGI),
        asgi=str(document.get("asgi") or ""),
    )


def _matching(document: Mapping[str, Any], key: str, pattern: re.Pattern[str]) -> str | None:
    """The text at `key`, None when it is missing, null or empty."""
    value = document.get(key)
    if value is None or value == "":
        return None
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise InvalidDocument(f"{key} must be of the form {pattern.pattern}, not {value!r}")
    return value


def _positive(document: Mapping[str, Any], key: str) -> int:
    value = document[key]
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidDocument(f"{key} must be a positive integer, not {value!r}")
    return value


def _database(document: Mapping[str, Any]) -> str:
    expected = f"site_{document['number']}"
    if document["database"] != expected:
        raise InvalidDocument(f"database must be {expected}, not {document['database']!r}")
    return expected


def _inner_path(value: str | None) -> str | None:
    """A relative path that stays inside its directory, or None."""
    if value is None:
        return None
    parts = value.split("/")
    if not value or value.startswith("/") or ".." in parts or "\0" in value or "\n" in value:
        raise InvalidDocument(f"static must be a path inside the release, not {value!r}")
    return value


def is_url_path(text: str) -> bool:
    """Whether a node can ask for `text`: an absolute path of printable ASCII."""
    return text.startswith("/") and text.isascii() and text.isprintable() and " " not in text and len(text) <= PATH_MAX


def _url_path(key: str, value: str) -> str:
    """An absolute URL path of printable ASCII: it is sent in the node's own requests."""
    if not is_url_path(value):
        raise InvalidDocument(f"{key} must be an absolute path of printable ASCII, not {value!r}")
    return value
