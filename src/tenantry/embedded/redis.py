"""The embedded Redis: the sites' cache, on a unix socket, one user for each site and none without a password."""

import hashlib

import redis

from tenantry.embedded.certificates import Certificates
from tenantry.embedded.config import Config
from tenantry.embedded.credentials import REDIS_ADMIN, Credentials, redis_socket
from tenantry.embedded.errors import ComponentFailed
from tenantry.embedded.files import write_file
from tenantry.embedded.home import Home
from tenantry.embedded.programs import need_program
from tenantry.spec.users import REDIS, redis_uid

_TIMEOUT_SECONDS = 2


def prepare_redis(
    home: Home,
    config: Config,
    credentials: Credentials,
    certificates: Certificates | None = None,
    *,
    running: bool,
) -> None:
    """Write the configuration, and the access list with the administrator's line; the sites' users stay.

    While the server runs the access list is its own: it writes it, and a user added meanwhile would be lost here.
    """
    owner = None if config.uid_base is None else redis_uid(config.uid_base)
    write_file(home.etc / "redis.conf", render_settings(home, config, certificates))
    if running:
        return
    access = home.root / "redis" / "users.acl"
    known = access.read_text() if access.exists() else ""
    write_file(access, render_access(known, credentials.redis_password), 0o600, owner)


def render_settings(home: Home, config: Config | None = None, certificates: Certificates | None = None) -> str:
    """Return redis.conf. The home's path has no character that would need quoting."""
    directory = home.root / "redis"
    cluster = {}
    if config and certificates:
        cluster = {
            "bind": str(config.cluster_address),
            "tls-port": str(config.redis_port),
            "tls-cert-file": str(certificates.chain),
            "tls-key-file": str(certificates.redis_key),
            "tls-ca-cert-file": str(home.authority),
            # Clients say who they are with their password.
            "tls-auth-clients": "no",
        }
    settings = {
        "port": "0",
        "unixsocket": str(redis_socket(home)),
        "unixsocketperm": "777",
        "daemonize": "no",
        "dir": str(directory / "data"),
        "aclfile": str(directory / "users.acl"),
        "databases": "1",
        # A cache: bounded, and a snapshot now and then so that a restart is not cold.
        "maxmemory": "256mb",
        "maxmemory-policy": "allkeys-lru",
        # A script that runs longer is ended by the jobs worker: nobody else is served meanwhile. (The name of Redis 6.)
        "lua-time-limit": "500",
        # What one connection may make the server hold: answers that it does not read, and a command it goes on sending.
        "client-output-buffer-limit": "normal 64mb 16mb 30",
        "client-query-buffer-limit": "64mb",
        "proto-max-bulk-len": "32mb",
        "save": "60 1",
        "appendonly": "no",
        # With a full disk the sites' caches go on working in memory.
        "stop-writes-on-bgsave-error": "no",
        **cluster,
    }
    return "".join(f"{name} {value}\n" for name, value in settings.items())


def render_access(known: str, password: str) -> str:
    """Return the access list `known` with the lines of `default` and the administrator set right, the others kept."""
    own = {"default", REDIS_ADMIN}
    kept = [line for line in known.splitlines() if line.split()[1:2] and line.split()[1] not in own]
    digest = hashlib.sha256(password.encode()).hexdigest()
    first = ["user default off resetchannels -@all", f"user {REDIS_ADMIN} on sanitize-payload #{digest} ~* &* +@all"]
    return "\n".join([*first, *kept]) + "\n"


def redis_command(home: Home, config: Config) -> list[str]:
    """Return the server's command line; as root it becomes a user of its own first."""
    server = str(need_program("redis-server", "redis-server"))
    # It writes the access list anew, with its own umask: no site may read the others' password hashes.
    private = ["/bin/sh", "-c", 'umask 077 && exec "$0" "$@"']
    return [*as_user(config, REDIS), *private, server, str(home.etc / "redis.conf")]


def as_user(config: Config, offset: int) -> list[str]:
    """Return what must stand before a command so that it runs as the home's user number `offset`."""
    if config.uid_base is None:
        return []
    setpriv = str(need_program("setpriv", "util-linux"))
    number = config.uid_base + offset
    return [setpriv, f"--reuid={number}", f"--regid={number}", "--clear-groups"]


def probe_redis(home: Home, credentials: Credentials) -> str | None:
    """Return None when the server answers PING, else why not."""
    client = _administrator(home, credentials)
    try:
        client.ping()
    except redis.RedisError as error:
        return str(error)
    finally:
        client.close()
    return None


def reload_redis(home: Home, credentials: Credentials, certificates: Certificates) -> None:
    """Let a running server read its certificate anew."""
    client = _administrator(home, credentials)
    try:
        client.config_set("tls-cert-file", str(certificates.chain))
    except redis.RedisError as error:
        raise ComponentFailed("redis", f"Redis does not take the new certificate: {error}") from error
    finally:
        client.close()


def _administrator(home: Home, credentials: Credentials) -> "redis.Redis":
    return redis.Redis(
        unix_socket_path=str(redis_socket(home)),
        username=REDIS_ADMIN,
        password=credentials.redis_password,
        socket_timeout=_TIMEOUT_SECONDS,
        socket_connect_timeout=_TIMEOUT_SECONDS,
    )
