"""What a site's files hold: the pure renderers, fed with the site's secrets and this machine's circumstances."""

from pathlib import Path

from tenantry.node.config import Config
from tenantry.node.errors import NotReady
from tenantry.node.planner import PROCESS
from tenantry.node.render.document import Secrets, encode, site_document
from tenantry.node.render.engines import driver_of
from tenantry.node.render.modes import process_mode_document, standby_mode_document
from tenantry.node.render.uwsgi import render_unnoted_vassal
from tenantry.sealing import Sealer, SealError
from tenantry.spec.errors import InvalidDocument
from tenantry.spec.sites import SiteSpec

BACKLOG_MAX = 1024


class SiteContent:
    """The bytes of each file that the agent writes for a site."""

    def __init__(self, config: Config, nginx_gid: int | None) -> None:
        self._config = config
        self._nginx_gid = nginx_gid
        self._sealer = Sealer(config.platform_keys)
        self._backlog = min(int(Path("/proc/sys/net/core/somaxconn").read_text()), BACKLOG_MAX)

    def document(self, spec: SiteSpec) -> bytes:
        """Return what the document must hold; `NotReady` when its secrets cannot be opened."""
        return encode(build_document(spec, self._sealer, self._config, self._nginx_gid))

    def document_text(self, spec: SiteSpec, generation: int) -> bytes | None:
        """Return what the document must hold, None when its secrets cannot be opened."""
        try:
            return self.document(spec)
        except NotReady:
            return None

    def vassal_text(self, spec: SiteSpec, generation: int) -> bytes:
        return driver_of(spec.release.engine).ini(spec, generation, self._backlog).encode()

    def unnoted_vassal_text(self, spec: SiteSpec, generation: int) -> bytes:
        return render_unnoted_vassal(
            spec.slug, generation, processes=spec.processes, threads=spec.threads, backlog=self._backlog
        ).encode()

    def mode_text(self, spec: SiteSpec, reader: str) -> bytes | None:
        """Return what the document of the site's mode must hold, None when its secrets cannot be opened."""
        if reader == PROCESS:
            return encode(process_mode_document(spec))
        try:
            return encode(standby_mode_document(spec, open_secrets(spec, self._sealer).bypass_key))
        except NotReady:
            return None


def build_document(spec: SiteSpec, sealer: Sealer, config: Config, nginx_gid: int | None) -> dict[str, object]:
    """Return site.<generation>.json of `spec`; `NotReady` when its secrets cannot be opened."""
    try:
        return site_document(spec, open_secrets(spec, sealer), config, nginx_gid)
    except InvalidDocument as error:
        raise NotReady(str(error)) from error


def open_secrets(spec: SiteSpec, sealer: Sealer) -> Secrets:
    """Return the site's secrets; `NotReady` when they cannot be opened."""
    try:
        return Secrets.from_document(sealer.unseal(spec.sealed))
    except (SealError, InvalidDocument) as error:
        raise NotReady(str(error)) from error
