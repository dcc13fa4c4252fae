"""The demo project and its three sites, made at the first up through the REST API as a person would.

Once they were made, a site that a person deleted stays deleted: later ups only wait for those that exist.
"""

from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx

from tenantry.embedded.components import Platform, connectable
from tenantry.embedded.errors import DemoFailed
from tenantry.embedded.files import read_json
from tenantry.embedded.progress import Step, View
from tenantry.embedded.signals import Interruption

PROJECT = "demo"
SITES = ("alpha", "beta", "gamma")
_CLOSED = ("maintenance", "paused")  # modes in which somebody wants a site to answer 503
# The first build downloads the demo's packages.
_BUILD_LIMIT = timedelta(minutes=10)
_SITE_LIMIT = timedelta(minutes=2)
_REQUEST_SECONDS = 20


def host_demo(platform: Platform, view: View, interruption: Interruption, *, made_before: bool) -> list[str]:
    """Make what is missing (nothing when `made_before`), wait until it serves, and return the demo sites' URLs.

    Raises `DemoFailed` with the reason and the end of the log.
    """
    with _client(platform) as api:
        known = {slug for slug in SITES if _get(api, f"/sites/{slug}") is not None}
        if not made_before:
            view.add(PROJECT, *SITES)
            _make_project(platform, api, view, interruption)
            for slug in SITES:
                if slug not in known:
                    view.show(slug, Step.WORKING, "creating")
                    _post(api, "/sites", {"slug": slug, "project": PROJECT, "hostnames": [f"{slug}.localhost"]})
                    known.add(slug)
        serving = [slug for slug in SITES if slug in known]
        return [_wait_for_site(platform, api, slug, view, interruption) for slug in serving]


def _make_project(platform: Platform, api: httpx.Client, view: View, interruption: Interruption) -> None:
    source = platform.config.demo_source
    if _get(api, f"/projects/{PROJECT}") is None:
        if source is None or not Path(source).is_dir():
            raise DemoFailed("The demo project is not there. Run bin/up from the checkout, or add --no-demo.")
        view.show(PROJECT, Step.WORKING, "adding the project")
        _post(api, "/projects", {"name": PROJECT, "source": source})
    elif _newest_release(api) in (None, "failed"):
        _post(api, f"/projects/{PROJECT}/releases", {})
    view.show(PROJECT, Step.WORKING, "building its first release")
    for _ in interruption.poll(_BUILD_LIMIT, every_seconds=0.2):
        release = _newest(api)
        if release is None:
            continue
        if release["status"] == "ready":
            view.show(PROJECT, Step.READY, f"release {release['name']}, Django {release.get('django') or '?'}")
            return
        if release["status"] == "failed":
            view.show(PROJECT, Step.FAILED, f"step {release.get('step')}")
            raise DemoFailed(
                f"The demo's release {release['name']} failed in the step {release.get('step')}: "
                f"{release.get('error')}\n{release.get('log_tail') or ''}"
            )
        view.show(PROJECT, Step.WORKING, f"building {release['name']}: {release.get('step') or release['status']}")
    raise DemoFailed(
        f"The demo's release was not built within {_BUILD_LIMIT.seconds // 60} minutes; see logs/jobs.log."
    )


def _wait_for_site(platform: Platform, api: httpx.Client, slug: str, view: View, interruption: Interruption) -> str:
    """Wait until the node serves the site and it answers through nginx, as its mode says; return its URL."""
    url = f"http://{slug}.localhost:{platform.config.http_port}/"
    if platform.config.http_port == 80:
        url = f"http://{slug}.localhost/"
    address = f"http://{connectable(platform.config.bind)}:{platform.config.http_port}/"
    seen = ""
    for _ in interruption.poll(_SITE_LIMIT, every_seconds=0.1):
        site = _get(api, f"/sites/{slug}") or {"status": "gone"}
        seen = site["status"]
        if seen == "failed":
            view.show(slug, Step.FAILED, str(site.get("error")))
            raise DemoFailed(f"The demo site {slug} could not be made: {site.get('error')}")
        if seen == "ready":
            seen = _ask(address, f"{slug}.localhost")
            closed = site["mode"] in _CLOSED
            if seen == ("503" if closed else "200"):
                view.show(slug, Step.READY, f"{url} ({site['mode']})" if closed else url)
                return url
            seen = f"answers {seen}"
        view.show(slug, Step.WORKING, seen)
    view.show(slug, Step.FAILED, seen)
    raise DemoFailed(f"The demo site {slug} does not serve ({seen}); see logs/sites/{slug}.log and logs/agent.log.")


def _ask(address: str, host: str) -> str:
    try:
        answer = httpx.get(address, headers={"Host": host}, timeout=_REQUEST_SECONDS, trust_env=False)
    except httpx.HTTPError:
        return "nothing"
    return str(answer.status_code)


def _newest(api: httpx.Client) -> dict[str, Any] | None:
    document = _get(api, f"/projects/{PROJECT}/releases")
    releases = document if isinstance(document, list) else (document or {}).get("items", [])
    return max(releases, key=lambda release: int(release["number"]), default=None)


def _newest_release(api: httpx.Client) -> str | None:
    release = _newest(api)
    return None if release is None else str(release["status"])


def _client(platform: Platform) -> httpx.Client:
    client = read_json(platform.home.client) or {}
    return httpx.Client(
        base_url=f"{platform.config.control_url}/api/v1",
        headers={"Authorization": f"Bearer {client.get('token', '')}"},
        timeout=_REQUEST_SECONDS,
        trust_env=False,
    )


def _get(api: httpx.Client, path: str) -> Any:
    """Return the answer's document, None for 404."""
    answer = _send(api, "GET", path, None)
    return None if answer.status_code == 404 else answer.json()


def _post(api: httpx.Client, path: str, document: dict[str, Any]) -> Any:
    return _send(api, "POST", path, document).json()


def _send(api: httpx.Client, method: str, path: str, document: dict[str, Any] | None) -> httpx.Response:
    try:
        answer = api.request(method, path, json=document)
    except httpx.HTTPError as error:
        raise DemoFailed(f"The API does not answer ({method} {path}: {error}); see logs/control.log.") from error
    if answer.is_error and not (method == "GET" and answer.status_code == 404):
        raise DemoFailed(f"{method} {path} was refused ({answer.status_code}): {_problem(answer)}")
    return answer


def _problem(answer: httpx.Response) -> str:
    try:
        document = answer.json()
    except ValueError:
        return answer.text[:500]
    errors: Iterable[dict[str, Any]] = document.get("errors") or ()
    fields = "; ".join(f"{error.get('field')}: {error.get('message')}" for error in errors)
    return fields or str(document.get("detail") or document.get("title") or document)
