"""Suite `create`: from the request for a site to its first 200 through nginx, and what happened in between."""

import subprocess
import time
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from statistics import median
from typing import Any

from bench.by_hand import by_hand
from bench.platform import Platform, first_answer
from bench.results import Row, Table

PATH = "/"  # the demo's page: reads its database and its cache
STEPS = ("answered", "provisioned", "applied", "first_200")
TARGET_SECONDS = 1.0  # what the project promises for the median


def measure(platform: Platform, runs: int) -> Table:
    """Create `runs` sites through the API, as many through the command line, and fewer by hand; one after another."""
    _through_api(platform, "bench-warm")
    rows = []
    for name, create in (("REST API", _through_api), ("tenantry site create", _through_command)):
        print(f"{name}: {runs} sites …", flush=True)
        rows.append(_row(name, [create(platform, f"bench-{number}") for number in range(runs)]))
    rows += _hand_rows(platform, min(runs, 10))
    return Table(
        suite="create",
        title=f"Create → first 200 of {PATH} through nginx, seconds since the request (medians)",
        columns=("runs", *STEPS, "slowest"),
        rows=rows,
        verdict=_verdict(rows[:2]),
    )


def _verdict(rows: list[Row]) -> str:
    worst = max(float(row.values["first_200"] or 0) for row in rows)
    word = "met" if worst < TARGET_SECONDS else "MISSED"
    return f"Target, median under {TARGET_SECONDS:g} s: {word} ({worst:.2f} s)."


def _row(name: str, measured: list[dict[str, float]]) -> Row:
    values: dict[str, Any] = {"runs": len(measured)}
    for step in STEPS:
        seconds = [run[step] for run in measured if step in run]
        values[step] = median(seconds) if seconds else None
    values["slowest"] = max(run["first_200"] for run in measured)
    return Row(name, values, measured)


def _through_api(platform: Platform, slug: str) -> dict[str, float]:
    document = {"slug": slug, "project": "demo", "hostnames": [f"{slug}.localhost"]}
    with ThreadPoolExecutor(1) as pool:
        began = time.time()
        first = pool.submit(first_answer, platform.http_port, f"{slug}.localhost", PATH)
        platform.api.post("/sites", json=document).raise_for_status()
        answered = time.time()
        return _finish(platform, slug, began, answered, first)


def _through_command(platform: Platform, slug: str) -> dict[str, float]:
    """One process of the command line with `--wait`; `answered` is when it ends, so it comes last."""
    argv = [str(platform.command), "site", "create", slug, "--project", "demo", "--hostname", f"{slug}.localhost"]
    with ThreadPoolExecutor(1) as pool:
        began = time.time()
        first = pool.submit(first_answer, platform.http_port, f"{slug}.localhost", PATH)
        subprocess.run([*argv, "--wait"], env=platform.environment, check=True, timeout=120, stdout=subprocess.DEVNULL)
        answered = time.time()
        return _finish(platform, slug, began, answered, first)


def _finish(platform: Platform, slug: str, began: float, answered: float, first: Future[float]) -> dict[str, float]:
    """Collect the steps from the platform's own records (the clock is the same machine's), then delete the site."""
    first_200 = first.result()
    # Asked for only now: a long poll beside the measurement would be measured too.
    platform.api.get(f"/sites/{slug}/convergence", params={"wait": 20}).raise_for_status()
    site = platform.api.get(f"/sites/{slug}").json()
    steps = {"answered": answered - began, "first_200": first_200 - began}
    reported = [node["reported_at"] for node in site["nodes"] if node.get("reported_at")]
    if reported:
        steps["applied"] = max(_moment(text) for text in reported) - began
    page = platform.api.get("/changes", params={"since": max(0, site["revision"] - 20), "limit": 100}).json()
    for change in page["items"] if isinstance(page, dict) else page:
        if change["site"] == slug and change["type"] == "site.provisioned" and _moment(change["timestamp"]) > began:
            steps["provisioned"] = _moment(change["timestamp"]) - began
    platform.delete(slug)
    return steps


def _moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _hand_rows(platform: Platform, runs: int) -> list[Row]:
    """The same by hand: a copy of the same template database, and, as most tools do it, an empty one and `migrate`."""
    site = platform.api.get("/sites/alpha").json()
    template = "tpl_" + site["release"].replace("-", "_")
    rows = []
    with by_hand(platform, "alpha") as arrangement:
        for name, source, count in (
            ("by hand: createdb --template, uWSGI, nginx reload", template, runs),
            ("by hand: createdb, migrate, uWSGI, nginx reload", None, max(3, runs // 2)),
        ):
            print(f"{name}: {count} sites …", flush=True)
            kind = "copy" if source else "empty"
            measured = [arrangement.create(f"{kind}-{number}", PATH, template=source) for number in range(count)]
            rows.append(_row(name, measured))
    return rows
