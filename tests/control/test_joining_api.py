"""How a machine joins, through the API: what it is given, and how each wrong token is refused."""

import hashlib
import json
import ssl
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone
from procrastinate.contrib.django.models import ProcrastinateJob
from psycopg.conninfo import conninfo_to_dict

from tenantry.control.changelog.models import Change
from tenantry.control.config import Cluster
from tenantry.control.fleet.models import JoinToken, Node
from tenantry.control.sites.models import Site

from .conftest import Api

NOBODY = Api(None)


def new_token(api: Api, **asked: Any) -> dict[str, Any]:
    response = api("POST", "/nodes/tokens", asked)
    assert response.status_code == 201, response.content
    document: dict[str, Any] = response.json()
    return document


def join(token: str, name: str = "node-2", **more: Any) -> Any:
    return NOBODY("POST", "/nodes/join", {"token": token, "name": name, "version": "0.1.0", **more})


def refusal(response: Any, status: int) -> tuple[str, str]:
    """The field at fault and what is said of it."""
    assert response.status_code == status, response.content
    assert response.headers["Content-Type"] == "application/problem+json"
    error = response.json()["errors"][0]
    return error["field"], error["message"]


def test_a_token_names_the_authority_and_the_command(api: Api, cluster: Cluster) -> None:
    made = new_token(api, ttl_minutes=30)
    text, _, fingerprint = made["token"].partition(".")
    assert text.startswith("tnj_")
    assert fingerprint == hashlib.sha256(ssl.PEM_cert_to_DER_cert(cluster.ca)).hexdigest()[:32]
    assert made["command"] == f"bin/join https://192.0.2.1:8081 {made['token']}"
    row = JoinToken.objects.get()
    assert timedelta(minutes=29) < row.expires_at - timezone.now() <= timedelta(minutes=30)
    assert text not in json.dumps(list(JoinToken.objects.values()), default=str)
    assert new_token(api, with_control=True)["command"].endswith(" --control")


def test_without_an_address_for_other_machines_nobody_joins(api: Api) -> None:
    for response in (api("POST", "/nodes/tokens", {}), join("tnj_whatever")):
        assert response.status_code == 409
        assert "bin/up --cluster-address" in response.json()["detail"]


@pytest.mark.parametrize("ttl", [0, -1, 10_081, "x", None, 1.5])
def test_a_token_lasts_a_minute_to_a_week(api: Api, cluster: Cluster, ttl: Any) -> None:
    assert refusal(api("POST", "/nodes/tokens", {"ttl_minutes": ttl}), 422)[0] == "ttl_minutes"
    assert not JoinToken.objects.exists()


def test_a_machine_is_given_all_that_a_node_needs(api: Api, cluster: Cluster, make_site: Callable[..., Site]) -> None:
    make_site("blog")
    response = join(new_token(api)["token"])
    assert response.status_code == 201, response.content
    given = response.json()
    node = Node.objects.get(name="node-2")
    assert given["node"] == "node-2"
    assert given["uid_base"] == 200_000
    assert given["control_url"] == "https://192.0.2.1:8081"
    assert given["ca"] == cluster.ca
    assert given["tenant_database"] == {"host": "192.0.2.1", "port": 5432}
    assert given["redis"] == {"host": "192.0.2.1", "port": 6380}
    assert given["control"] is None
    assert given["epoch"] == api.get("/status")["epoch"]
    login = conninfo_to_dict(given["agent"]["dsn"])
    assert (login["host"], login["port"], login["user"], login["sslmode"]) == (
        "192.0.2.1",
        "5432",
        node.role,
        "verify-full",
    )
    assert "sslrootcert" not in login
    assert given["agent"]["node_token"].startswith("tnn_")
    assert api.get("/nodes/node-2")["state"] == "joining"
    change = Change.objects.get(type="node.joined", metadata__node="node-2")
    kept = json.dumps([change.metadata, *ProcrastinateJob.objects.values_list("args", flat=True)])
    kept += json.dumps(list(Node.objects.values()), default=str)
    for secret in (login["password"], given["agent"]["node_key"], given["agent"]["node_token"]):
        assert secret not in kept
        assert secret not in api("GET", "/nodes").content.decode()


def test_only_a_token_with_control_gives_the_platforms_own_secrets(api: Api, cluster: Cluster, settings: Any) -> None:
    plain = join(new_token(api)["token"], "node-2")
    assert settings.TENANTRY.platform_key not in plain.content.decode()
    full = join(new_token(api, with_control=True)["token"], "node-3").json()
    assert full["control"]["platform_key"] == settings.TENANTRY.platform_key
    assert set(full["control"]) >= {"platform_key", "secret_key", "database"}


def test_a_token_works_once(api: Api, cluster: Cluster) -> None:
    token = new_token(api)["token"]
    assert join(token).status_code == 201
    field, message = refusal(join(token, "node-3"), 422)
    assert field == "token"
    assert "used already, by the node «node-2»" in message
    assert Node.objects.count() == 2, "the one of the tests and the one that joined"


def test_an_expired_an_unknown_and_a_misspelt_token_are_told_apart(api: Api, cluster: Cluster) -> None:
    token = new_token(api)["token"]
    JoinToken.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    assert "expired" in refusal(join(token), 422)[1]
    JoinToken.objects.update(expires_at=timezone.now() + timedelta(hours=1))
    for wrong in ("tnj_" + "a" * 43, token[:-40], "", "tnt_x", "\U0001f600", "x" * 10_000):
        field, message = refusal(join(wrong), 422)
        assert field == "token"
        assert "tenantry node token" in message
    assert Node.objects.count() == 1
    assert join(token).status_code == 201, "none of these used it up"


@pytest.mark.parametrize("name", ["", "-a", "a b", "a/b", "../x", "a" * 101, "nöde", "a\n", "tokens", "join"])
def test_a_name_that_is_none_leaves_the_token_unused(api: Api, cluster: Cluster, name: str) -> None:
    token = new_token(api)["token"]
    assert refusal(join(token, name), 422)[0] == "name"
    assert join(token).status_code == 201


def test_a_name_that_is_taken_leaves_the_token_unused(api: Api, cluster: Cluster) -> None:
    token = new_token(api)["token"]
    field, message = refusal(join(token, "node-1"), 409)
    assert field == "name"
    assert "tenantry node remove node-1" in message
    assert join(token).status_code == 201


@pytest.mark.parametrize(
    "body", [{}, {"token": "tnj_x"}, {"name": "n"}, {"token": 1, "name": "n"}, {"token": "t", "name": "n", "x": 1}, []]
)
def test_a_body_that_is_none_is_refused(cluster: Cluster, api: Api, body: Any) -> None:
    assert NOBODY("POST", "/nodes/join", body).status_code == 422
    assert not JoinToken.objects.filter(used_at__isnull=False).exists()
