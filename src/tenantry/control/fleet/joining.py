"""How a machine becomes a node: with a token that a person made, or, on the platform's own machine, by the set-up.

A node's identity is its PostgreSQL role. What the machine gets besides: the key that opens secrets sealed for it, and
a token for the API. All are made here, told once, and kept as a hash or sealed.
"""

import re
import secrets as random
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta

from django.conf import settings
from django.db import IntegrityError, connection, transaction
from psycopg import sql

from tenantry.control.access.actors import SETUP, Actor, require_admin
from tenantry.control.access.services import hash_token
from tenantry.control.changelog import queries as changelog
from tenantry.control.changelog.services import ChangeType, act, append
from tenantry.control.config import ControlConfig
from tenantry.control.database import database_now
from tenantry.control.deferral import defer
from tenantry.control.errors import Conflict, InvalidInput, NotAuthenticated
from tenantry.control.fleet import secrets
from tenantry.control.fleet.models import NUMBERS, JoinToken, Node
from tenantry.control.sites.models import Site, SiteStatus
from tenantry.sealing import Sealer, SealError, generate_key

JOIN_PREFIX = "tnj_"  # so that people and secret scanners recognise a token
NODE_PREFIX = "tnn_"
NODES_ROLE = "tenantry_nodes"  # the group that may call agent_v1, made with the database
TOKEN_BYTES = 32
VERSION_MAX = 100  # characters
SHORTEST = timedelta(minutes=1)
LONGEST = timedelta(days=7)  # a token that lies about longer is found by somebody else

_NODE_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,98}[A-Za-z0-9])?\Z")
_ROLE = re.compile(r"[a-z_][a-z0-9_]{0,62}\Z")


@dataclass(frozen=True, slots=True)
class Joined:
    """What a machine is told when it has joined, once. The role can log in as soon as its job has run."""

    name: str
    number: int
    role: str
    password: str = field(repr=False)
    node_key: str = field(repr=False)
    node_token: str = field(repr=False)
    epoch: str
    revision: int
    uid_base: int | None
    with_control: bool


def create_join_token(actor: Actor, *, ttl: timedelta, with_control: bool = False) -> tuple[JoinToken, str]:
    """Make a token with which one machine can join within `ttl`; return its row and its text, shown this once.

    `with_control`: the machine is also given what a control process needs, all secrets included.
    """
    require_admin(actor)
    if not SHORTEST <= ttl <= LONGEST:
        raise InvalidInput.of("ttl_minutes", "A token to join lasts from 1 minute to 7 days (10,080 minutes).")
    text = JOIN_PREFIX + random.token_urlsafe(TOKEN_BYTES)
    with act():
        token = JoinToken.objects.create(
            hash=hash_token(text),
            created_by=actor.name,
            expires_at=database_now() + ttl,
            with_control=with_control,
        )
        metadata = {"token": token.pk, "expires_at": token.expires_at.isoformat(), "with_control": with_control}
        append(ChangeType.NODE_TOKEN, actor=actor.name, metadata=metadata)
    token.refresh_from_db()
    return token, text


def join(text: str, *, name: str, version: str) -> Joined:
    """Make a node of the machine that has a token, and use the token up.

    Raises `InvalidInput` for the token (unknown, used, expired), the name or the version, `Conflict` when there is a
    node of that name; nothing is changed then. A text may have the certificate's fingerprint behind a
    dot, which the machine has checked.
    """
    with act():
        token = _usable_token(text)
        _check_name(name, "name")
        if not version.isprintable() or len(version) > VERSION_MAX:
            raise InvalidInput.of("version", f"A version has at most {VERSION_MAX} printable characters.")
        secrets.lock_nodes()
        _check_free(name)
        number, role = _next_role()
        password, key = random.token_urlsafe(TOKEN_BYTES), generate_key()
        node_token = NODE_PREFIX + random.token_urlsafe(TOKEN_BYTES)
        node = Node.objects.create(
            name=name,
            number=number,
            role=role,
            sealed_key=secrets.seal_key(key),
            token_hash=hash_token(node_token),
            version=version,
        )
        secrets.seal_all_for(node, _ready_sites())
        token.used_at, token.node = database_now(), name
        token.save(update_fields=["used_at", "node"])
        defer("make_node_role", lock=node_lock(number), role=role, verifier=_verifier(role, password))
        metadata = {"node": name, "role": role, "token": token.pk, "with_control": token.with_control}
        revision = append(ChangeType.NODE_JOINED, actor=token.created_by, metadata=metadata)
        epoch, _ = changelog.head()
    config: ControlConfig = settings.TENANTRY
    place = (str(epoch), revision, config.uid_base, token.with_control)
    return Joined(name, number, role, password, key, node_token, *place)


def adopt_node(name: str, role: str, node_key: str = "", node_token: str = "") -> bool:
    """Make sure that the node is known by its PostgreSQL role, and may call agent_v1 and nothing else.

    Returns whether the node is new. The role must exist. Without `node_key` a node keeps the key that it has; one that
    never had any gets secrets sealed with the platform's key. With another key than before, everything is sealed anew
    and the node reads it in full. Raises `InvalidInput` for a name, role or key that is none, `Conflict` when the name
    is another node's.
    """
    _check_name(name, "node-name")
    if not _ROLE.match(role):
        raise InvalidInput.of("node-role", "A role's name has lowercase letters, digits and underscores.")
    with act():
        secrets.lock_nodes()
        _grant(role)
        node = Node.objects.select_for_update(no_key=True).filter(role=role).first()
        if node is not None and node.name != name:
            node.delete()  # the machine was renamed: its role is the identity that counts
            node = None
        is_new = node is None
        node = node or _insert(name, role)
        rekeyed = _take_credentials(node, node_key, node_token)
        if is_new or rekeyed:
            metadata = {"node": name, "rekeyed": rekeyed and not is_new}
            revision = append(ChangeType.NODE_JOINED, actor=SETUP.name, metadata=metadata)
            if rekeyed:
                Node.objects.filter(pk=node.pk).update(full_from=revision)
    return is_new


def authenticate_node(text: str) -> Node:
    """Return the node of an API token of a node. Raises `NotAuthenticated`, which never says what was wrong with it."""
    node = Node.objects.filter(token_hash=hash_token(text)).first() if text.startswith(NODE_PREFIX) else None
    if node is None:
        raise NotAuthenticated("The node's token is not valid.")
    return node


def node_lock(number: int) -> str:
    """Jobs of one node run one after another."""
    return f"node-{number}"


def _usable_token(text: str) -> JoinToken:
    """Lock the token, so that nobody else uses it meanwhile; `InvalidInput` for one that is none."""
    token = JoinToken.objects.select_for_update().filter(hash=hash_token(text.partition(".")[0])).first()
    again = "Make a new one: tenantry node token"
    if token is None:
        raise InvalidInput.of("token", f"There is no such token to join: it was never made, or copied badly. {again}")
    if token.used_at is not None:
        raise InvalidInput.of("token", f"This token was used already, by the node «{token.node}». {again}")
    if token.expires_at <= database_now():
        raise InvalidInput.of("token", f"This token expired at {token.expires_at:%Y-%m-%d %H:%M:%S} UTC. {again}")
    return token


def _check_free(name: str) -> None:
    if Node.objects.filter(name__iexact=name).exists():
        raise Conflict(
            f"There is a node «{name}» already. Choose another name, or remove that node first: "
            f"tenantry node remove {name}",
            field="name",
        )


def _check_name(name: str, field_name: str) -> None:
    if not _NODE_NAME.match(name):
        raise InvalidInput.of(field_name, "A node's name is a host name: letters, digits, hyphens and dots.")


def _insert(name: str, role: str) -> Node:
    try:
        with transaction.atomic():
            node = Node.objects.create(name=name, role=role)
    except IntegrityError as error:
        raise Conflict(f"There is a node «{name}» already, with another role.", field="node-name") from error
    node.refresh_from_db()
    return node


def _take_credentials(node: Node, key: str, token: str) -> bool:
    """Keep the credentials that are given; returns whether the node's key is another than before."""
    if token and node.token_hash != hash_token(token):
        node.token_hash = hash_token(token)
        node.save(update_fields=["token_hash"])
    if not key or (node.sealed_key and _opens(node.sealed_key) == key):
        return False
    try:
        Sealer([key])
    except SealError as error:
        raise InvalidInput.of("node-key", "The node's key is no Fernet key (32 bytes, url-safe base64).") from error
    node.sealed_key = secrets.seal_key(key)
    node.save(update_fields=["sealed_key"])
    secrets.seal_all_for(node, _ready_sites())
    return True


def _opens(sealed_key: str) -> str | None:
    try:
        return secrets.open_key(sealed_key)
    except SealError:
        return None  # sealed with another platform key: worthless, so the node gets a new one


def _ready_sites() -> Iterable[Site]:
    return Site.objects.filter(status=SiteStatus.READY).only("number", "sealed").order_by("number")


def _next_role() -> tuple[int, str]:
    """Return a node number and the name of a role that nobody has: roles are the server's, this log may be restored."""
    with connection.cursor() as cursor:
        while True:
            cursor.execute("SELECT nextval(%s)", [NUMBERS])
            number = int(cursor.fetchone()[0])
            role = f"tenantry_node_{number}"
            cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role])
            if cursor.fetchone() is None:
                return number, role


def _verifier(role: str, password: str) -> str:
    """Return what PostgreSQL keeps of a password. The job that makes the role never sees the password itself."""
    connection.ensure_connection()
    libpq = connection.connection.pgconn
    return str(libpq.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode())


def _grant(role: str) -> None:
    """Grant the role, and the group of all nodes' roles, what an agent needs.

    Repeated at every set-up, because a migration may bring new functions.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [NODES_ROLE])
        grantees = [role] if cursor.fetchone() is None else [role, NODES_ROLE]
        database = sql.Identifier(str(connection.settings_dict["NAME"]))
        names = sql.SQL(", ").join(sql.Identifier(name) for name in grantees)
        for statement in (
            sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(database),
            sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(database, names),
            sql.SQL("GRANT USAGE ON SCHEMA agent_v1 TO {}").format(names),
            sql.SQL("GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA agent_v1 TO {}").format(names),
        ):
            cursor.execute(statement.as_string(cursor.connection))
