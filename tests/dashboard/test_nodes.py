"""Pages of nodes, without a browser: what they show, and what their forms do."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test import Client

from tenantry.control.changelog.models import Change
from tenantry.control.fleet.models import Node
from tenantry.testing.control import NODE_NAME, ControlDatabase

from . import seeds
from .conftest import PASSWORD, USERNAME

HELD = {"type": "MassRemovalRefused", "status": True, "message": "9 of 10 sites would go. Confirm with 1f2e3d4c"}
PAGE = f"/nodes/{NODE_NAME}"
ACTS = ("drain", "check", "confirm", "remove")


def test_the_list_says_that_everything_is_applied(client: Client, control_database: ControlDatabase) -> None:
    role = seeds.another_node(control_database, "node-2")
    for name in (None, role):
        seeds.report(control_database, notifications=True, **({"role": name} if name else {}))
    shown = client.get("/nodes").text
    assert "Every node has applied every change up to r" in shown
    assert "all serve the same" in shown
    assert shown.count("the same</td>") + shown.count("the same <code") == 2
    assert "pushed" in shown
    assert "tenantry node token" in shown


def test_the_list_says_what_is_wrong(client: Client, control_database: ControlDatabase) -> None:
    role = seeds.another_node(control_database, "node-2")
    seeds.report(control_database, notifications=False, conditions=[HELD])
    seeds.report(control_database, role=role, digest="sha256x:other")
    Node.objects.create(name="far", role="far", last_contact=datetime.now(UTC) - timedelta(hours=1))
    shown = client.get("/nodes").text
    assert "Not as it should be: far, node-1, node-2" in shown
    assert "Is silent" in shown
    assert "something else" in shown
    assert "polling" in shown
    assert "Reports MassRemovalRefused" in shown
    assert "not what the others serve" in client.get("/").text


def test_a_nodes_page_shows_its_checks_and_drift(client: Client, control_database: ControlDatabase) -> None:
    checked = {"id": 0, "sites": 3, "paths": 64, "seconds": 0.043, "cpu_seconds": 0.02, "drift": 2}
    drifts = [
        seeds.drift("run/hosts/a.localhost", repaired=True),
        seeds.drift("run/vassals/<b>.ini", repaired=False, kind="file", site="blog"),
    ]
    seeds.report(control_database, checked=checked, drift=drifts)
    shown = client.get(PAGE).text
    assert "3 sites and 64 paths compared in 0.04 s, 2 differences found." in shown
    assert "repaired in 0.21 s" in shown
    assert "not repaired" in shown
    assert "run/vassals/&lt;b&gt;.ini" in shown
    assert "Has drifted in 1 place" in shown
    assert "Check and repair" in shown


def test_a_check_is_asked_for(client: Client, control_database: ControlDatabase) -> None:
    seeds.report(control_database)
    assert client.post(f"{PAGE}/check", {"repair": "1"}).headers["Location"] == f"{PAGE}?done=check"
    node = Node.objects.get()
    assert (node.check_requested, node.check_repair) == (1, True)
    assert "a check is asked for" in client.get(PAGE).text
    assert Change.objects.get(type="node.check").actor == USERNAME
    client.post(f"{PAGE}/check")
    assert Node.objects.get().check_repair is False


def test_draining_is_undone(client: Client, control_database: ControlDatabase) -> None:
    seeds.report(control_database)
    assert client.post(f"{PAGE}/drain").headers["Location"] == f"{PAGE}?done=draining"
    assert "Take visitors again" in client.get(PAGE).text
    seeds.report(control_database, conditions=[{"type": "Drained", "status": True, "message": ""}])
    assert "Is drained." in client.get(PAGE).text
    client.post(f"{PAGE}/drain", {"undo": "1"})
    assert Node.objects.get().draining is False


def test_a_refused_removal_is_confirmed_with_the_token_that_was_shown(
    client: Client, control_database: ControlDatabase
) -> None:
    seeds.report(control_database, conditions=[HELD])
    shown = client.get(PAGE).text
    assert 'name="token" value="1f2e3d4c"' in shown
    assert "Let it remove these sites (1f2e3d4c)" in shown
    assert client.post(f"{PAGE}/confirm", {"token": "1f2e3d4c"}).headers["Location"] == f"{PAGE}?done=confirmed"
    assert Node.objects.get().confirmed == "1f2e3d4c"
    for token, said in (("00000000", "does not ask for this confirmation"), ("<b>", "8 hexadecimal digits"), ("", "8")):
        refused = client.post(f"{PAGE}/confirm", {"token": token})
        assert refused.status_code == 409
        assert said in refused.text


def test_removing_asks_for_the_name_and_a_drained_node(client: Client, control_database: ControlDatabase) -> None:
    seeds.report(control_database)
    wrong = client.post(f"{PAGE}/remove", {"confirm": "node"})
    assert wrong.status_code == 422
    assert "Nothing was removed" in wrong.text
    serving = client.post(f"{PAGE}/remove", {"confirm": NODE_NAME})
    assert serving.status_code == 409
    assert "drain it first" in serving.text
    Node.objects.update(last_contact=datetime.now(UTC) - timedelta(minutes=5))
    assert client.post(f"{PAGE}/remove", {"confirm": NODE_NAME}).headers["Location"] == "/nodes?done=removed"
    assert not Node.objects.exists()
    assert "No node has joined" in client.get("/nodes?done=removed").text
    assert client.get(PAGE).status_code == 404


@pytest.mark.parametrize("act", ACTS)
def test_acts_need_a_post_its_token_and_an_administrator(
    client: Client, control_database: ControlDatabase, act: str
) -> None:
    from django.contrib.auth.models import User

    before = list(Node.objects.values())
    assert client.get(f"{PAGE}/{act}").status_code == 405
    strict = Client(enforce_csrf_checks=True)
    strict.cookies = client.cookies
    assert strict.post(f"{PAGE}/{act}").status_code == 403
    assert client.post(f"/nodes/nothing/{act}", {"confirm": "nothing", "token": "0" * 8}).status_code == 404
    User.objects.create_user("guest", password=PASSWORD)
    guest = Client()
    guest.login(username="guest", password=PASSWORD)
    for address in ("/nodes", PAGE):
        assert guest.get(address).status_code == 403
    assert guest.post(f"{PAGE}/{act}", {"confirm": NODE_NAME}).status_code == 403
    assert list(Node.objects.values()) == before


def test_crafted_text_of_a_node_is_shown_and_never_run(client: Client, control_database: ControlDatabase) -> None:
    crafted = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
    seeds.report(
        control_database,
        conditions=[{"type": crafted, "status": True, "message": crafted}, HELD | {"message": crafted + " 1f2e3d4c"}],
        drift=[seeds.drift(crafted, repaired=False, kind="<b>", detail=crafted, site="<i>")],
        version=crafted,
        digest=crafted,
        checked={"id": 0, "sites": crafted, "paths": crafted, "seconds": crafted, "drift": crafted},
    )
    for address in ("/nodes", PAGE, "/"):
        response = client.get(address)
        assert response.status_code == 200, address
        assert "<script>alert" not in response.text
        assert "<img" not in response.text
        assert "<b>" not in response.text.replace("<b>0</b>", "")


def test_changes_name_their_node(client: Client, control_database: ControlDatabase) -> None:
    client.post(f"{PAGE}/check")
    assert f'<a href="{PAGE}">{NODE_NAME}</a> · {USERNAME}' in client.get("/changes").text
    Node.objects.all().delete()
    shown = client.get("/changes").text
    assert f"{NODE_NAME} · {USERNAME}" in shown
    assert f'href="{PAGE}"' not in shown


def live_parts(client: Client, query: str) -> Any:
    """The reader of a page's stream."""
    from django.test import RequestFactory

    from tenantry.control.dashboard.news import Reader, Watched

    request = RequestFactory().get("/live")
    page, _, subject = query.partition(" ")
    return Reader(request, Watched(page, subject), None)


def test_the_stream_sends_parts_of_a_node_when_they_have_changed(
    client: Client, control_database: ControlDatabase
) -> None:
    seeds.report(control_database)
    reader = live_parts(client, f"node {NODE_NAME}")
    assert len(reader.read().fragments) == 4
    assert reader.read().fragments == []
    Node.objects.update(last_contact=datetime.now(UTC))
    assert [fragment.split(" ")[1] for fragment in reader.read().fragments] == ['id="node-facts"'], "its last contact"
    seeds.report(control_database, drift=[seeds.drift("run/hosts/a", repaired=False)])
    assert any("run/hosts/a" in fragment for fragment in reader.read().fragments)
    Node.objects.all().delete()
    assert "is no node any more" in reader.read().fragments[0]
    fleet = live_parts(client, "nodes")
    assert "No node has joined" in fleet.read().fragments[0]
