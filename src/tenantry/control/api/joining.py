"""How a machine becomes a node: an administrator makes a token, the machine trades it for all that a node needs."""

import hashlib
import ssl
from dataclasses import asdict
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.http import HttpRequest
from ninja import Router, Status
from psycopg.conninfo import make_conninfo

from tenantry.control.api import schemas
from tenantry.control.api.authentication import Bearer, actor
from tenantry.control.api.parameters import PROBLEMS
from tenantry.control.config import Cluster, ControlConfig
from tenantry.control.errors import Conflict, InvalidInput
from tenantry.control.fleet import services

router = Router(auth=Bearer(), tags=["nodes"])
TOKEN_DEFAULTS = schemas.NodeTokenInput(ttl_minutes=60, with_control=False)
RESERVED = ("tokens", "join")  # what follows /nodes/ and is no node
FINGERPRINT_DIGITS = 32  # hexadecimal: half of a SHA-256, which nobody finds a second certificate for


@router.post("/nodes/tokens", response={201: schemas.NodeToken, **PROBLEMS})
def create_join_token(request: HttpRequest, body: schemas.NodeTokenInput = TOKEN_DEFAULTS) -> Status[schemas.NodeToken]:
    """Make a token that lets one machine join, once. 409 when this platform has no address for other machines."""
    cluster = _cluster()
    ttl = timedelta(minutes=body.ttl_minutes)
    row, text = services.create_join_token(actor(request), ttl=ttl, with_control=body.with_control)
    token = f"{text}.{fingerprint(cluster.ca)}"
    command = f"bin/join {cluster.gateway_url} {token}" + (" --control" if body.with_control else "")
    return Status(201, schemas.NodeToken(token=token, expires_at=row.expires_at, command=command))


@router.post("/nodes/join", auth=None, response={201: schemas.Joined, **PROBLEMS})
def join(request: HttpRequest, body: schemas.JoinInput) -> Status[schemas.Joined]:
    """Become a node. The token in the body is all the authority there is; it works once."""
    cluster = _cluster()
    if body.name in RESERVED:
        raise InvalidInput.of("name", f"«{body.name}» is a word of the API; give the node another name with --name.")
    # The fingerprint is the machine's own affair: by it, it knew whom to tell the rest.
    joined = services.join(body.token.partition(".")[0], name=body.name, version=body.version)
    document = schemas.Joined(
        node=joined.name,
        epoch=UUID(joined.epoch),
        uid_base=joined.uid_base,
        control_url=cluster.gateway_url,
        ca=cluster.ca,
        agent=schemas.JoinedAgent(
            dsn=_dsn(cluster, joined.role, joined.password),
            node_key=joined.node_key,
            node_token=joined.node_token,
        ),
        tenant_database=schemas.Place(host=cluster.address, port=cluster.postgres_port),
        redis=schemas.Place(host=cluster.address, port=cluster.redis_port),
        control=_control() if joined.with_control else None,
    )
    return Status(201, document)


def fingerprint(ca: str) -> str:
    """Return what a join token says of the authority whose certificate (PEM) this is."""
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(ca)).hexdigest()[:FINGERPRINT_DIGITS]


def _cluster() -> Cluster:
    """Raises `Conflict` when other machines cannot reach this platform."""
    cluster = _config().cluster
    if cluster is None:
        raise Conflict(
            "This platform has no address that other machines can reach. Start it again with "
            "bin/up --cluster-address ADDRESS."
        )
    return cluster


def _control() -> dict[str, Any]:
    """The secrets of control, in the shape of control.json."""
    config = _config()
    database = {"name": config.database.name, "user": config.database.user, "password": config.database.password}
    return {
        "platform_key": config.platform_key,
        "secret_key": config.secret_key,
        "database": database,
        "artifacts": asdict(config.artifacts),
    }


def _dsn(cluster: Cluster, role: str, password: str) -> str:
    return make_conninfo(
        host=cluster.address,
        port=cluster.postgres_port,
        dbname=_config().database.name,
        user=role,
        password=password,
        sslmode="verify-full",
    )


def _config() -> ControlConfig:
    config: ControlConfig = settings.TENANTRY
    return config
