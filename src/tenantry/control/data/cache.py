"""The tenants' Redis: one user a site, who can touch only keys and channels that begin with the site's prefix."""

import contextlib
import hashlib
from collections import Counter
from dataclasses import dataclass, field

import redis

from tenantry.spec.environment import CacheAccess

CALM_CLIENTS = 1000  # below this many connections of all sites nobody's are counted; the server takes 10,000
SITE_CLIENTS = 250  # of one site, when there are many
SCAN_COUNT = 1000  # keys looked at in one step: about a millisecond of the server's time

# An allow list. What a user may do is what works on keys named in the command, where Redis checks the pattern:
# - no KEYS, SCAN, RANDOMKEY, DBSIZE, PUBSUB, INFO, MONITOR, SLOWLOG: they show others' keys, channels or commands;
# - no CLIENT TRACKING: it reports others' keys in broadcast mode; no SELECT, MOVE, SWAPDB, COPY: one database is used;
# - no FLUSH*, CONFIG, DEBUG, SORT and the like: @admin, @dangerous;
# - EVAL stays (redis-py's locks need it): Redis checks each command inside a script against the same patterns. The
#   script cache is shared, so only LOAD and EXISTS of SCRIPT; no FUNCTION: functions are seen and run by all users.
COMMANDS = (
    "-@all",
    "+@read",
    "+@write",
    "+@transaction",
    "+@pubsub",
    "-@admin",
    "-@dangerous",
    "-keys",
    "-scan",
    "-randomkey",
    "-dbsize",
    "-pubsub",
    "-move",
    "-copy",
    "-select",
    "-function",
    "+auth",
    "+hello",
    "+ping",
    "+echo",
    "+quit",
    "+reset",
    "+client|id",
    "+client|getname",
    "+client|setname",
    "+eval",
    "+evalsha",
    "+eval_ro",
    "+evalsha_ro",
    "+script|load",
    "+script|exists",
)


@dataclass(slots=True)
class CacheServer:
    """The Redis server, seen by the user who edits the access list."""

    socket: str
    user: str
    password: str = field(repr=False)
    _client: "redis.Redis" = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._client = redis.Redis(
            unix_socket_path=self.socket,
            username=self.user or None,
            password=self.password or None,
            socket_timeout=10,
            decode_responses=True,
        )

    def access(self, user: str, prefix: str, password: str) -> CacheAccess:
        """How `user` reaches the server."""
        return CacheAccess(self.socket, user, prefix, password)

    def provision_user(self, user: str, prefix: str, password: str) -> None:
        """Make or reset `user`, limited to keys and channels `<prefix>:*`; kept across restarts of the server."""
        secret = hashlib.sha256(password.encode()).hexdigest()
        rules = ("reset", "on", f"#{secret}", f"~{prefix}:*", "resetchannels", f"&{prefix}:*", *COMMANDS)
        self._send("ACL SETUSER", user, *rules)
        self._send("ACL SAVE")

    def end_user(self, user: str) -> None:
        """Remove `user` and end its connections; the keys stay, for another user of the same prefix."""
        self._send("ACL DELUSER", user)
        self._send("ACL SAVE")

    def drop_user(self, user: str, prefix: str) -> None:
        """Remove `user`, end its connections and delete every key `<prefix>:*`."""
        # The user first: nothing can write the keys anew.
        self.end_user(user)
        for keys in self._batches(f"{prefix}:*"):
            self._client.unlink(*keys)

    def users(self) -> list[str]:
        """Return the names of all users."""
        names = self._send("ACL USERS")
        return [str(name) for name in names] if isinstance(names, list) else []

    def end_stuck_script(self) -> str | None:
        """End a script that runs for longer than the server allows; return what was done, None when nothing was.

        Redis does nothing else meanwhile, for no site, and a script may run for ever.
        """
        try:
            self._send("PING")
        except redis.ResponseError as error:
            if not str(error).startswith("BUSY"):
                raise
        else:
            return None
        try:
            self._send("SCRIPT KILL")
        except redis.ResponseError as error:
            if str(error).startswith("NOTBUSY"):
                return None
            # It wrote something, and Redis does not stop such a script. Its supervisor starts the server again.
            with contextlib.suppress(redis.ConnectionError):
                self._send("SHUTDOWN", "NOSAVE")
            return "a script of a site did not end and had written: Redis was started anew"
        return "a script of a site did not end and was killed"

    def end_connection_hoarders(self) -> list[str]:
        """End the connections of users who hold so many that others could find no place; returns the users.

        Redis has no limit for a user. Who has not logged in counts as the user «default».
        """
        clients = self._client.info("clients")
        if clients["connected_clients"] < CALM_CLIENTS:
            return []
        counted = Counter(str(client["user"]) for client in self._client.client_list())
        found = [user for user, count in counted.items() if count > SITE_CLIENTS and user != self.user]
        for user in found:
            self._send("CLIENT KILL", "USER", user)
        return found

    def _send(self, *command: str) -> object:
        return self._client.execute_command(*command)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        self._client.close()

    def _batches(self, pattern: str) -> "list[list[str]]":
        cursor, batches = 0, []
        while True:
            cursor, keys = self._client.scan(cursor, match=pattern, count=SCAN_COUNT)
            if keys:
                batches.append([str(key) for key in keys])
            if cursor == 0:
                return batches
