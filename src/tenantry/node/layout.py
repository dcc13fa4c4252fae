"""PURE: where things are below a home. Every path the agent uses is made here."""

import re
from dataclasses import dataclass
from pathlib import Path

from tenantry.spec.names import Fqdn, Slug
from tenantry.spec.sites import ReleaseName

# A unix socket's path ends at 107 bytes: home + "/run/sites/" + 40 + "/" + generation + ".sock".
HOME_MAX_BYTES = 46
# Where app.sock of a sleeping site points; that of a running one points to its generation's socket beside it.
WAKE_TARGET = "../../wake.sock"
WAKE_HTTP_TARGET = "../../wake.http.sock"  # ... of app.http
# nginx and uWSGI parse files that hold the home's path: characters that mean something to them are refused.
_HOME = re.compile(r"(?:/[A-Za-z0-9][A-Za-z0-9._-]*|/\.[A-Za-z0-9_][A-Za-z0-9._-]*)+\Z")

_SLUG = re.compile(r"[a-z](?:[a-z0-9-]*[a-z0-9])?\Z")
_VASSAL = re.compile(r"(?P<slug>[a-z](?:[a-z0-9-]*[a-z0-9])?)\.(?P<generation>[1-9][0-9]{0,8})\.ini\Z")


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths below `home`, which must be absolute and real (no link in it)."""

    home: Path

    @property
    def etc(self) -> Path:
        return self.home / "etc"

    @property
    def run(self) -> Path:
        return self.home / "run"

    @property
    def hosts(self) -> Path:
        return self.home / "run" / "hosts"

    @property
    def sites(self) -> Path:
        return self.home / "run" / "sites"

    @property
    def vassals(self) -> Path:
        return self.home / "run" / "vassals"

    @property
    def modes(self) -> Path:
        """What sites' own processes read of their modes."""
        return self.home / "run" / "modes"

    @property
    def emperor_socket(self) -> Path:
        return self.home / "run" / "emperor.sock"

    @property
    def standby_socket(self) -> Path:
        """Where nginx asks for an answer in place of a site."""
        return self.home / "run" / "standby.sock"

    @property
    def state(self) -> Path:
        return self.home / "state"

    @property
    def written(self) -> Path:
        """What the agent wrote for each site's generations, as hashes."""
        return self.home / "state" / "written"

    @property
    def draining(self) -> Path:
        """The flag that makes nginx's readiness say no."""
        return self.home / "run" / "draining"

    @property
    def wake_socket(self) -> Path:
        """Where visitors of sleeping sites wait: app.sock of such a site leads here."""
        return self.home / "run" / "wake.sock"

    @property
    def wake_http_socket(self) -> Path:
        """The same for sites that speak HTTP: app.http leads here."""
        return self.home / "run" / "wake.http.sock"

    @property
    def wake_failures(self) -> Path:
        """Of each site that could not be woken, why."""
        return self.home / "run" / "failed"

    @property
    def long(self) -> Path:
        """One file for each site whose requests may take long: nginx waits longer for it."""
        return self.home / "run" / "long"

    @property
    def full(self) -> Path:
        """One file for each site that has used up its disk space: nginx takes no uploads for it."""
        return self.home / "run" / "full"

    @property
    def nginx_temporary(self) -> Path:
        """Where nginx keeps what its memory is too small for: uploads, and answers that visitors read slowly."""
        return self.home / "run" / "nginx-tmp"

    @property
    def unspooled(self) -> Path:
        """The flag that keeps nginx from putting answers there: the disk is short of room."""
        return self.home / "run" / "unspooled"

    @property
    def nginx_conf(self) -> Path:
        return self.home / "etc" / "nginx.conf"

    @property
    def nginx_pid(self) -> Path:
        return self.home / "run" / "nginx.pid"

    @property
    def site_logs(self) -> Path:
        return self.home / "logs" / "sites"

    @property
    def nginx_logs(self) -> tuple[Path, ...]:
        return (self.home / "logs" / "access.log", self.home / "logs" / "nginx.log")

    def host(self, fqdn: Fqdn) -> Path:
        return self.hosts / fqdn

    def site(self, slug: Slug) -> Path:
        return self.sites / slug

    def socket(self, slug: Slug, generation: int) -> Path:
        return self.sites / slug / socket_name(generation)

    def document(self, slug: Slug, generation: int) -> Path:
        return self.sites / slug / f"site.{generation:d}.json"

    def mode(self, slug: Slug) -> Path:
        """What standby reads of a site's mode."""
        return self.sites / slug / "mode.json"

    def process_mode(self, slug: Slug) -> Path:
        return self.modes / f"{slug}.json"

    def vassal(self, slug: Slug, generation: int) -> Path:
        return self.vassals / f"{slug}.{generation:d}.ini"

    def parked(self, slug: Slug, generation: int) -> Path:
        """The ini of an on-demand generation, from which its vassal is made whenever a visitor comes."""
        return self.sites / slug / f"vassal.{generation:d}.ini"

    def log(self, slug: Slug) -> Path:
        return self.site_logs / f"{slug}.log"

    def data(self, slug: Slug) -> Path:
        return self.home / "data" / slug

    @property
    def releases(self) -> Path:
        return self.home / "releases"

    def release_record(self, name: ReleaseName) -> Path:
        return self.home / "state" / "releases" / f"{name}.json"

    def release(self, name: ReleaseName) -> Path:
        return self.home / "releases" / str(name)


def socket_name(generation: int) -> str:
    """Return the name of a generation's socket in its site's directory."""
    return f"{generation:d}.sock"


def parse_socket(name: str | None) -> int | None:
    """Return the generation of a socket's name, or None when it is none."""
    number = (name or "").removesuffix(".sock")
    return int(number) if name == f"{number}.sock" and number.isdecimal() and number.isascii() else None


def home_problem(text: str) -> str | None:
    """Return why `text` cannot be a home, or None."""
    if len(text.encode()) > HOME_MAX_BYTES:
        return f"is longer than {HOME_MAX_BYTES} bytes (unix sockets below it would not fit)"
    if not _HOME.match(text):
        return "must be an absolute path of a-z, A-Z, 0-9, '.', '_' and '-', without spaces"
    return None


def is_slug(name: str) -> bool:
    """Whether a directory of this name in `run/sites` may be a site's."""
    return _SLUG.match(name) is not None


def parse_vassal(name: str) -> tuple[Slug, int] | None:
    """Return the site and generation of a file name in `run/vassals`, or None when it is not one of ours."""
    match = _VASSAL.match(name)
    return (Slug(match["slug"]), int(match["generation"])) if match else None
