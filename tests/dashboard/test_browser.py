"""The dashboard in a real browser, in front of the real control process: changes arrive by themselves."""

import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import transaction

from .conftest import PASSWORD, USERNAME, Control, free_port, start_control, stop

playwright = pytest.importorskip("playwright.sync_api")
expect = playwright.expect

CONTRASTS = """() => {
  const probe = document.body.appendChild(document.createElement("i"));
  const channels = (name) => {
    probe.style.setProperty("color", `var(${name})`);
    return getComputedStyle(probe).color.match(/[0-9.]+/g).slice(0, 3).map(Number);
  };
  const linear = (value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const luminance = (name) => {
    const [red, green, blue] = channels(name).map((value) => linear(value / 255));
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const ratio = (one, other) => {
    const [dark, bright] = [luminance(one), luminance(other)].sort((a, b) => a - b);
    return (bright + 0.05) / (dark + 0.05);
  };
  const pairs = [
    ["--on-accent", "--accent"], ["--bad", "--bad-tint"], ["--wait", "--wait-tint"], ["--ink", "--tint"],
    ["--ink", "--flash"], ["--soft", "--flash"], ["--soft", "--sunken"], ["--paper", "--ink"],
  ];
  for (const ink of ["--ink", "--soft", "--accent", "--wait", "--bad"])
    for (const ground of ["--paper", "--panel"]) pairs.push([ink, ground]);
  return pairs.map(([ink, ground]) => [ink, ground, ratio(ink, ground)]);
}"""
A_MOMENT_MS = 4_000  # generous for a machine that runs other tests at the same time


def seeds() -> Any:
    from . import seeds

    return seeds


def row(page: Any, slug: str) -> Any:
    return page.locator(f"#site-{slug}")


def live(page: Any) -> None:
    """Wait for the stream to open. Not a promise about time: on a busy machine a browser takes long to load a page."""
    expect(page.locator("#stream")).to_have_text("live", timeout=4 * A_MOMENT_MS)


def stay(page: Any) -> None:
    """Mark the document: a full reload would lose the mark."""
    page.evaluate("window.stayed = true")


def stayed(page: Any) -> bool:
    return bool(page.evaluate("window.stayed === true"))


def test_changes_reports_and_nodes_arrive_without_a_reload(page: Any, control: Control) -> None:
    name = seeds().project()
    made = seeds().site("arrives", name, provisioned=False)
    page.goto("/")
    live(page)
    stay(page)
    status = row(page, "arrives").locator(".cell-status")
    expect(status).to_have_text("provisioning")

    from tenantry.control.sites import services

    started = time.monotonic()
    services.mark_site_provisioned(made.number)
    expect(status).to_have_text("ready", timeout=A_MOMENT_MS)
    assert time.monotonic() - started < 2.0
    expect(page.locator("#changes li").first).to_contain_text("site.provisioned")
    expect(page.locator("#tab-ready b")).not_to_have_text("0")

    nodes = row(page, "arrives").locator(".cell-nodes")
    expect(nodes).to_have_text("node-1 waiting")
    seeds().serving(control.database, "arrives")
    expect(nodes).to_have_text("node-1 serving", timeout=A_MOMENT_MS)
    services.restart_site(seeds().ADMIN, "arrives")
    expect(nodes).to_have_text("node-1 behind", timeout=A_MOMENT_MS)
    seeds().report(control.database, conditions=[{"type": "DiskFull", "status": True, "message": "no space"}])
    expect(page.locator("#nodes")).to_contain_text("DiskFull", timeout=A_MOMENT_MS)
    assert stayed(page)


def test_a_new_site_comes_into_the_list_and_a_removed_one_leaves(page: Any, control: Control) -> None:
    from tenantry.control.sites import services

    name = seeds().project()
    page.goto(f"/?project={name}")
    live(page)
    stay(page)
    made = seeds().site("comes", name)
    expect(row(page, "comes")).to_be_visible(timeout=A_MOMENT_MS)
    expect(page.locator("#tab-all b")).to_have_text("1")
    services.delete_site(seeds().ADMIN, "comes", confirm="comes")
    expect(row(page, "comes").locator(".cell-status")).to_have_text("deleting", timeout=A_MOMENT_MS)
    services.finish_site_removal(made.number)
    expect(row(page, "comes")).to_have_count(0, timeout=A_MOMENT_MS)
    assert stayed(page)


def test_many_changes_at_once_are_one_reading_of_the_list(page: Any, control: Control) -> None:
    name = seeds().project()
    page.goto(f"/?project={name}")
    live(page)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    with transaction.atomic():  # one commit: the notes arrive together, however slow this machine is
        for number in range(60):
            seeds().site(f"burst-{number}", name)
    expect(page.locator("#tab-ready b")).to_have_text("60", timeout=3 * A_MOMENT_MS)
    assert len(asked) <= 5, asked


def test_crafted_text_that_arrives_live_is_not_run(page: Any, control: Control) -> None:
    seeds().site("crafted", seeds().project())
    page.goto("/sites/crafted")
    live(page)
    page.on("dialog", lambda dialog: pytest.fail("a script of the report was run"))
    crafted = "<img src=x onerror=alert(1)>\r\n\r\nevent: message\ndata: <script>alert(2)</script>"
    seeds().failing(control.database, "crafted", crafted, f"</pre>{crafted}")
    expect(page.locator("#site-state .why")).to_contain_text("<img src=x", timeout=A_MOMENT_MS)
    expect(page.locator("#site-state pre")).to_contain_text("<script>alert(2)")
    assert page.locator("#site-state img").count() == 0


def test_a_lost_stream_says_so_and_catches_up(page: Any, control: Control, browser: Any) -> None:
    """The process is killed and started again on its port; what changed meanwhile is on the page afterwards."""
    from tenantry.control.sites import services

    server, database, home = control.database.server, control.database, control.home
    name = seeds().project()
    made = seeds().site("meanwhile", name, provisioned=False)
    port = free_port()
    other = home / "other"
    other.mkdir(exist_ok=True)
    first = start_control(server, database, other, port)
    context = browser.new_context(base_url=first.url)
    tab = context.new_page()
    second = None
    try:
        tab.goto(f"/login?next=/?project={name}")
        tab.get_by_label("User name").fill(USERNAME)
        tab.get_by_label("Password").fill(PASSWORD)
        tab.keyboard.press("Enter")
        live(tab)
        stay(tab)
        stop(first.process)
        expect(tab.locator("#stream")).to_have_text("reconnecting…", timeout=A_MOMENT_MS)
        services.mark_site_provisioned(made.number)
        seeds().site("newcomer", name)
        second = start_control(server, database, other, port)
        expect(tab.locator("#stream")).to_have_text("live", timeout=4 * A_MOMENT_MS)
        expect(row(tab, "meanwhile").locator(".cell-status")).to_have_text("ready", timeout=A_MOMENT_MS)
        expect(row(tab, "newcomer")).to_be_visible(timeout=A_MOMENT_MS)
        assert stayed(tab)
    finally:
        context.close()
        stop(first.process)
        if second:
            stop(second.process)


def test_a_stream_ends_with_its_session(page: Any, control: Control) -> None:
    from django.contrib.sessions.models import Session

    page.goto("/changes")
    live(page)
    Session.objects.all().delete()
    expect(page).to_have_url(re.compile(r"/login\?next=%2Fchanges$"), timeout=10_000)


def test_a_site_is_created_with_the_keyboard_alone(page: Any, control: Control) -> None:
    name = seeds().project("keyboard")
    page.goto("/")
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="New site")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_label("Slug")).to_be_focused()
    page.keyboard.type("Bad Slug")
    page.keyboard.press("Enter")
    expect(page.get_by_text("A slug begins with a letter a-z")).to_be_visible()
    expect(page.get_by_label("Slug")).to_be_focused()
    assert page.get_by_label("Slug").get_attribute("aria-invalid") == "true"
    page.keyboard.press("Control+A")
    page.keyboard.type("typed")
    page.keyboard.press("Tab")
    page.keyboard.type(name)
    page.keyboard.press("Tab")
    page.keyboard.type("typed.localhost")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="typed")).to_be_visible()
    expect(page.get_by_text("Created. It serves in a moment.")).to_be_visible()

    from tenantry.control.sites.models import Site

    assert Site.objects.get(slug="typed").project.name == name


def test_hostnames_are_edited_in_place(page: Any, control: Control) -> None:
    seeds().site("names", seeds().project())
    page.goto("/sites/names")
    live(page)
    stay(page)
    page.get_by_label("Hostname to add").fill("in valid")
    page.get_by_role("button", name="Add").click()
    expect(page.locator("#hostname-error")).to_contain_text("A hostname is made of parts")
    page.get_by_label("Hostname to add").fill("names.example.org")
    page.get_by_role("button", name="Add").click()
    link = page.get_by_role("link", name="names.example.org")
    expect(link).to_have_attribute("href", "http://names.example.org:8080/")
    expect(page.get_by_label("Hostname to add")).to_have_value("")
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Remove names.example.org").click()
    expect(link).to_have_count(0)
    assert stayed(page)


def test_the_log_follows_its_file(page: Any, control: Control) -> None:
    seeds().site("logged", seeds().project())
    logs = control.home / "logs" / "sites"
    logs.mkdir(parents=True, exist_ok=True)
    page.goto("/sites/logged")
    expect(page.locator("#site-log")).to_contain_text("Nothing logged yet")
    with (logs / "logged.log").open("a") as file:
        file.write("first line <b>\n")
    expect(page.locator("#site-log pre")).to_have_text("first line <b>", timeout=6_000)


def test_a_site_deleted_by_somebody_else_is_gone_from_its_page(page: Any, control: Control) -> None:
    from tenantry.control.sites import services

    made = seeds().site("leaves", seeds().project())
    page.goto("/sites/leaves")
    live(page)
    services.delete_site(seeds().ADMIN, "leaves", confirm="leaves")
    expect(page.locator("#site-head")).to_contain_text("deleting", timeout=A_MOMENT_MS)
    services.finish_site_removal(made.number)
    expect(page.locator("#site-head")).to_contain_text("gone", timeout=A_MOMENT_MS)


def test_searching_updates_the_list_and_the_address(page: Any, control: Control) -> None:
    name = seeds().project()
    for slug in ("findable", "other-one"):
        seeds().site(slug, name)
    page.goto(f"/?project={name}")
    page.get_by_label("Search by slug or hostname").fill("findable")
    expect(row(page, "other-one")).to_have_count(0)
    expect(row(page, "findable")).to_be_visible()
    assert "q=findable" in page.url
    page.go_back()
    expect(row(page, "other-one")).to_be_visible()
    page.goto("/?q=findable")
    live(page)
    seeds().serving(control.database, "findable")
    expect(row(page, "findable").locator(".cell-nodes")).to_have_text("node-1 serving", timeout=A_MOMENT_MS)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_pages_fit_and_load_nothing_from_elsewhere(
    browser: Any, page: Any, control: Control, scheme: str, width: int
) -> None:
    name = seeds().project()
    slug = "a-very-long-slug-that-fills-forty-letter"
    from tenantry.control.sites.models import Site

    if not Site.objects.filter(slug=slug).exists():
        seeds().site(slug, name, "x" * 60 + ".y" * 40 + ".example.org")
    page.set_viewport_size({"width": width, "height": 844})
    page.emulate_media(color_scheme=scheme)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    for address in (
        "/",
        f"/sites/{slug}",
        "/sites/new",
        "/projects",
        f"/projects/{name}",
        f"/releases/{name}-1",
        "/changes",
    ):
        page.goto(address)
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, (address, wide)
    assert asked
    assert all(url.startswith((control.url, "data:")) for url in asked), asked


def test_text_has_contrast_in_both_schemes(page: Any, control: Control) -> None:
    """WCAG AA: 4.5 for every text colour on every ground it stands on."""
    page.goto("/")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for ink, ground, ratio in page.evaluate(CONTRASTS):
            assert ratio >= 4.5, (scheme, ink, ground, ratio)


def test_open_streams_leave_the_pool_free(page: Any, control: Control) -> None:
    """Twenty streams on one process: more than its pool of connections has."""
    import urllib.request

    cookies = "; ".join(f"{cookie['name']}={cookie['value']}" for cookie in page.context.cookies())

    def first_bytes(_: int) -> Any:
        request = urllib.request.Request(f"{control.url}/live", headers={"Cookie": cookies})
        answer = urllib.request.urlopen(request, timeout=10)
        assert answer.headers["Content-Type"] == "text/event-stream"
        assert answer.readline().startswith(b"retry:")
        return answer

    with ThreadPoolExecutor(20) as threads:
        streams = list(threads.map(first_bytes, range(20)))
    try:
        page.goto("/projects")
        expect(page.get_by_role("heading", name="Projects")).to_be_visible()
    finally:
        for stream in streams:
            stream.close()


def test_a_nodes_page_follows_drift_draining_and_a_confirmation(page: Any, control: Control) -> None:
    from tenantry.control.fleet.models import Node
    from tenantry.testing.control import NODE_NAME

    seeds().report(control.database)
    page.goto(f"/nodes/{NODE_NAME}")
    live(page)
    stay(page)
    expect(page.locator("#node-drift")).to_contain_text("Nothing has drifted")
    seeds().report(control.database, drift=[seeds().drift("run/hosts/broken.localhost", repaired=False)])
    expect(page.locator("#node-drift")).to_contain_text("run/hosts/broken.localhost", timeout=A_MOMENT_MS)
    expect(page.locator("#node-drift")).to_contain_text("not repaired")
    seeds().report(control.database, drift=[seeds().drift("run/hosts/broken.localhost", repaired=True)])
    expect(page.locator("#node-drift")).to_contain_text("repaired in 0.21 s", timeout=A_MOMENT_MS)
    held = {"type": "MassRemovalRefused", "status": True, "message": "9 of 10 would go. Confirm with 1f2e3d4c"}
    seeds().report(control.database, conditions=[held])
    expect(page.locator("#confirm-removal")).to_be_visible(timeout=A_MOMENT_MS)
    assert stayed(page)
    # The button came through the stream: its form has a token of this session.
    page.locator("#confirm-removal").click()
    expect(page.get_by_text("Confirmed. The node removes these sites now.")).to_be_visible()
    assert Node.objects.get(name=NODE_NAME).confirmed == "1f2e3d4c"

    seeds().report(control.database)
    page.get_by_role("button", name="Drain").click()
    expect(page.get_by_role("button", name="Take visitors again")).to_be_visible()
    live(page)
    drained = {"type": "Drained", "status": True, "message": ""}
    seeds().report(control.database, conditions=[drained])
    expect(page.locator("#node-head .state")).to_have_text("drained", timeout=A_MOMENT_MS)
    page.get_by_role("button", name="Take visitors again").click()
    expect(page.locator("#node-head .state")).to_have_text("ready", timeout=A_MOMENT_MS)
    page.get_by_role("button", name="Check now").click()
    expect(page.locator("#node-drift")).to_contain_text("a check is asked for")
    live(page)
    number = Node.objects.get(name=NODE_NAME).check_requested
    checked = {"id": number, "sites": 1, "paths": 12, "seconds": 0.02, "cpu_seconds": 0.01, "drift": 0}
    seeds().report(control.database, checked=checked)
    expect(page.locator("#node-drift")).to_contain_text("12 paths compared", timeout=A_MOMENT_MS)
    expect(page.locator("#node-drift")).not_to_contain_text("a check is asked for")


@pytest.mark.parametrize("width", [1280, 390])
def test_pages_of_nodes_fit_their_window(page: Any, control: Control, width: int) -> None:
    from tenantry.testing.control import NODE_NAME

    message = "a-very-long-name-without-any-space-" * 10
    seeds().report(
        control.database,
        conditions=[{"type": "MassRemovalRefused", "status": True, "message": message}],
        drift=[seeds().drift("run/" + "x" * 300, repaired=False, detail=message)],
        digest="sha256x:" + "f" * 64,
    )
    page.set_viewport_size({"width": width, "height": 800})
    for address in ("/nodes", f"/nodes/{NODE_NAME}", "/"):
        page.goto(address)
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), address
    seeds().report(control.database, drift=[seeds().drift("run/" + "x" * 300, repaired=True)])
