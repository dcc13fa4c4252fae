"""What jobs use of the machine: the tenants' servers, the home, the programs."""

import functools
import threading
from dataclasses import dataclass, field
from pathlib import Path

import uv

from tenantry.control.config import ControlConfig
from tenantry.control.data.cache import CacheServer
from tenantry.control.data.server import ServerAddress, TenantServer
from tenantry.control.releases.artifacts import ArtifactStore, DirectoryStore, store_of


@dataclass(frozen=True, slots=True)
class Platform:
    """One home's servers and programs. `stopping` is set when the worker is asked to end."""

    home: Path
    uid_base: int | None
    server: TenantServer
    cache: CacheServer | None
    library_wheel: Path | None
    uv: Path
    stopping: threading.Event = field(default_factory=threading.Event)
    artifacts: ArtifactStore | None = None  # None: the home's own directory

    @property
    def store(self) -> ArtifactStore:
        return self.artifacts or DirectoryStore(self.home / "artifacts")


def platform_of(config: ControlConfig) -> Platform:
    """Return the platform that a configuration describes; nothing is connected to yet."""
    address = ServerAddress(
        host=config.tenant_database.host or config.database.host,
        port=config.tenant_database.port,
        database=config.database.name,
        user=config.database.user,
        password=config.database.password,
        binaries=Path(config.postgres_bin) if config.postgres_bin else None,
    )
    redis = config.redis
    return Platform(
        home=config.home,
        uid_base=config.uid_base,
        server=TenantServer(address),
        cache=CacheServer(redis.socket, redis.admin_user, redis.admin_password) if redis.socket else None,
        library_wheel=Path(config.library_wheel) if config.library_wheel else None,
        uv=Path(uv.find_uv_bin()),
        artifacts=store_of(config),
    )


@functools.cache
def platform() -> Platform:
    """Return the platform of this process's configuration, connected once and kept."""
    from django.conf import settings

    found = platform_of(settings.TENANTRY)
    found.server.open()
    return found
