"""`tenantry site`: the tenants."""

from enum import StrEnum
from typing import Annotated

import typer

from tenantry.cli import names, site_modes, site_process
from tenantry.cli.client import PAGE_SIZE, path
from tenantry.cli.command import Session, command, noun, parse_environment
from tenantry.cli.documents import Convergence, Document, Site, SiteOnNode
from tenantry.cli.errors import UsageProblem
from tenantry.cli.limits import (
    DiskMb,
    IdleSeconds,
    MemoryMb,
    ProcessesMax,
    RequestSeconds,
    given_limits,
    show_limits,
)
from tenantry.cli.names import SlugArgument
from tenantry.cli.output import ago, took
from tenantry.cli.waiting import (
    SITE_SECONDS,
    Timeout,
    Wait,
    note_unreachable,
    stopwatch,
    wait_for_site,
    wait_until_gone,
)

app = noun("site", "The tenants: create, watch, change, remove.")


OPTIONAL = ("error", "moving to", *site_modes.OPTIONAL)  # not shown when there is nothing


class Runtime(StrEnum):
    """When a site has processes."""

    ALWAYS_ON = "always_on"
    ON_DEMAND = "on_demand"
    POOLED = "pooled"


DUMP_SECONDS = 3600  # the job dumps the database before it drops it

Environment = Annotated[
    list[str] | None,
    typer.Option(
        "--env",
        metavar="NAME=VALUE",
        help="A variable of the site; NAME alone takes the value from here. Repeatable.",
        show_default=False,
    ),
]
ReleaseOption = Annotated[
    str | None, typer.Option("--release", metavar="RELEASE", help="Else the project's current one.", show_default=False)
]
Processes = Annotated[
    int | None, typer.Option("--processes", min=1, help="Workers of the site.", metavar="N", show_default=False)
]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, help="Threads of each worker.", metavar="N", show_default=False)
]


@command(app, "create", example="tenantry site create blog --project demo --wait")
def create(
    session: Session,
    slug: SlugArgument,
    project: Annotated[str, typer.Option("--project", "-p", metavar="PROJECT", help="What it runs.")],
    hostnames: Annotated[
        list[str] | None,
        typer.Option("--hostname", metavar="NAME", help="A name that leads to it. Repeatable.", show_default=False),
    ] = None,
    environment: Environment = None,
    release: ReleaseOption = None,
    processes: Processes = None,
    threads: Threads = None,
    processes_max: ProcessesMax = None,
    request_seconds: RequestSeconds = None,
    idle_seconds: IdleSeconds = None,
    memory_mb: MemoryMb = None,
    disk_mb: DiskMb = None,
    runtime: Annotated[
        Runtime | None,
        typer.Option("--runtime", metavar="RUNTIME", help="on_demand (as without) or always_on.", show_default=False),
    ] = None,
    wait: Wait = False,
    timeout: Timeout = SITE_SECONDS,
) -> None:
    """Create a site with its own database, keys, cache space and files.

    With --wait the command returns when every node serves it, and prints its URL and the time that took.
    """
    elapsed = stopwatch()
    document: Document = {"slug": names.site(slug), "project": names.project(project)}
    if hostnames:
        document["hostnames"] = [names.hostname(name) for name in hostnames]
    limits = given_limits(
        processes_max=processes_max,
        request_seconds=request_seconds,
        idle_seconds=idle_seconds,
        memory_mb=memory_mb,
        disk_mb=disk_mb,
    )
    document |= _changes(environment, release, processes, threads, limits)
    if runtime is not None:
        document["runtime"] = runtime.value
    site: Site = session.client.post(path("sites"), document)
    if wait:
        _wait(session, site, timeout, known_error=None)
    place = f"serves at {site['url']}" if site["url"] else "is ready, without a hostname yet,"
    _conclude(session, site, wait, f"{site['slug']} {place} after {took(elapsed())}.", "is being made")


@command(app, "list", example="tenantry site list --project demo --status failed")
def list_(
    session: Session,
    project: Annotated[
        str | None, typer.Option("--project", "-p", help="Only sites of this project.", show_default=False)
    ] = None,
    query: Annotated[
        str | None, typer.Option("--query", "-q", help="Only slugs and hostnames with this text.", show_default=False)
    ] = None,
    status: Annotated[
        str | None, typer.Option("--status", help="Only sites of this status.", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most this many.")] = 1000,
) -> None:
    """List the sites."""
    asked = {"project": project, "q": query, "status": status, "limit": min(limit, PAGE_SIZE)}
    sites: list[Site] = session.client.items(path("sites"), asked, limit=limit)
    rows = [(site["slug"], _state(site), site["release"], ago(site["created_at"]), site["url"]) for site in sites]

    def show() -> None:
        filtered = project or query or status
        empty = (
            "No site matches." if filtered else "No site yet. Make one with «tenantry site create SLUG --project P»."
        )
        session.output.table(
            ("slug", "state", "release", "created", "url"), rows, empty, keep=("slug", "state", "created")
        )

    session.output.result(sites, show)


@command(app, "show", example="tenantry site show blog")
def show_(session: Session, slug: SlugArgument) -> None:
    """Show a site, and what each node last said of it."""
    site: Site = session.client.get(path("sites", names.site(slug)))
    nodes = [_on_node(node, site["revision"]) for node in site["nodes"]]
    pairs = (
        ("slug", site["slug"]),
        ("status", site["status"]),
        ("error", site["error"]),
        ("url", site["url"]),
        ("hostnames", site["hostnames"]),
        ("project", site["project"]),
        ("release", site["release"]),
        ("moving to", site.get("pending_release")),
        *site_modes.pairs_of(site),
        ("runtime", f"{site['runtime']}, {site['processes']} × {site['threads']} (processes × threads)"),
        ("limits", show_limits(site["limits"])),
        ("environment", sorted(site["environment_names"])),
        ("generation", site["generation"]),
        ("revision", site["revision"]),
        ("created", ago(site["created_at"])),
        ("changed", ago(site["updated_at"])),
        ("nodes", nodes or "no node has reported yet"),
    )

    def show() -> None:
        session.output.card([(name, value) for name, value in pairs if value or name not in OPTIONAL])
        for node in site["nodes"]:
            session.output.tail(f"log of {node['node']}", node["log"])

    session.output.result(site, show)


@command(app, "update", example="tenantry site update blog --release demo-2 --wait")
def update(
    session: Session,
    slug: SlugArgument,
    release: Annotated[
        str | None,
        typer.Option("--release", metavar="RELEASE", help="Migrate to it and run it.", show_default=False),
    ] = None,
    environment: Environment = None,
    processes: Processes = None,
    threads: Threads = None,
    processes_max: ProcessesMax = None,
    request_seconds: RequestSeconds = None,
    idle_seconds: IdleSeconds = None,
    memory_mb: MemoryMb = None,
    disk_mb: DiskMb = None,
    wait: Wait = False,
    timeout: Timeout = SITE_SECONDS,
) -> None:
    """Change a site. Variables given with --env replace all that were set before.

    A new release's migrations run first; the old processes serve until the new ones answer.
    """
    name = names.site(slug)
    limits = given_limits(
        processes_max=processes_max,
        request_seconds=request_seconds,
        idle_seconds=idle_seconds,
        memory_mb=memory_mb,
        disk_mb=disk_mb,
    )
    changes = _changes(environment, release, processes, threads, limits)
    if not changes:
        raise UsageProblem(
            "options", "nothing to change; give at least one of --release, --env, --processes, --threads or a limit."
        )
    elapsed = stopwatch()
    site: Site = session.client.patch(path("sites", name), changes)
    if wait:
        act = f"{name} was not moved to {release}" if release is not None else ""
        _wait(session, site, timeout, known_error=site["error"], act=act)
    _conclude(session, site, wait, f"{name} serves its new version after {took(elapsed())}.", "is being changed")


@command(app, "restart", example="tenantry site restart blog --wait")
def restart(session: Session, slug: SlugArgument, wait: Wait = False, timeout: Timeout = SITE_SECONDS) -> None:
    """Start a site's processes anew without losing a request."""
    name = names.site(slug)
    elapsed = stopwatch()
    site: Site = session.client.post(path("sites", name, "restart"))
    if wait:
        _wait(session, site, timeout, known_error=site["error"])
    _conclude(session, site, wait, f"{name} is restarted after {took(elapsed())}.", "is being restarted")


@command(app, "runtime", example="tenantry site runtime blog on_demand --wait")
def runtime_(
    session: Session,
    slug: SlugArgument,
    runtime: Annotated[Runtime, typer.Argument(metavar="RUNTIME", help="always_on or on_demand.", show_default=False)],
    wait: Wait = False,
    timeout: Timeout = SITE_SECONDS,
) -> None:
    """Choose whether a site keeps its processes (always_on), or sleeps while nobody asks for it (on_demand)."""
    name = names.site(slug)
    elapsed = stopwatch()
    site: Site = session.client.put(path("sites", name, "runtime"), {"runtime": runtime.value})
    if wait:
        _wait(session, site, timeout, known_error=site["error"])
    _conclude(session, site, wait, f"{name} is {runtime.value} after {took(elapsed())}.", "changes its runtime")


@command(app, "delete", example="tenantry site delete blog --confirm blog")
def delete(
    session: Session,
    slug: SlugArgument,
    confirm: Annotated[
        str | None,
        typer.Option("--confirm", metavar="SLUG", help="The slug again, not to be asked.", show_default=False),
    ] = None,
    dump: Annotated[bool, typer.Option("--dump/--no-dump", help="Keep a last dump of its database and media.")] = True,
    wait: Wait = False,
    timeout: Timeout = DUMP_SECONDS,
) -> None:
    """Delete a site, its database, its cache and its files. Asks for the slug; keeps a last database dump."""
    name = names.site(slug)
    if confirm is None:
        kept = "A last dump of both is kept." if dump else "NO dump of them is kept."
        session.output.remark(f"This deletes the site {name}, its database and its uploaded files. {kept}")
        confirm = session.ask(f"Type {name} to go on", "--confirm")
    if confirm != name:
        raise UsageProblem("confirm", f"«{confirm}» is not «{name}»; nothing was deleted.")
    query = {"confirm": name, "dump": "true" if dump else "false"}
    answer: Document = session.client.delete(path("sites", name), query) or {}
    if wait:
        wait_until_gone(session.client, name, seconds=timeout, known_error=answer.get("error"))
    kept_at = _dump_of(session, name, int(answer.get("revision") or 0)) if wait and dump else None

    def show() -> None:
        session.output.line(f"{name} is deleted." if wait else f"{name} is being deleted.")
        if kept_at:
            session.output.line(f"Its last dump is in {kept_at}.")
        elif dump and wait:
            session.output.line("No dump of it was made.")
        elif dump:
            session.output.line(f"Its last dump goes to {session.home / 'backups'}.")

    session.output.result({"slug": name, "gone": wait, "dump": kept_at}, show)


@command(app, "logs", example="tenantry site logs blog -f")
def logs(
    session: Session,
    slug: SlugArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many lines from the end.")] = 100,
) -> None:
    """Print what a site's processes wrote. With --json, one JSON document a line."""
    query = {"lines": lines, "follow": "true" if follow else None}
    for line in session.client.lines(path("sites", names.site(slug), "logs"), query):
        session.output.log_entry(line)


site_modes.add_to(app)
site_process.add_to(app)


def _changes(
    environment: list[str] | None,
    release: str | None,
    processes: int | None,
    threads: int | None,
    limits: dict[str, int],
) -> Document:
    """What the person chose to set, in the API's words; the rest is left out."""
    changes: Document = {}
    if environment:
        changes["environment"] = parse_environment(environment)
    if release is not None:
        changes["release"] = names.release(release)
    if processes is not None:
        changes["processes"] = processes
    if threads is not None:
        changes["threads"] = threads
    if limits:
        changes["limits"] = limits
    return changes


def _dump_of(session: Session, slug: str, since: int) -> str | None:
    """Where the job kept the site's last dump: the change that ends a removal says it."""
    for change in session.client.items(path("changes"), {"since": since, "limit": PAGE_SIZE}):
        if change["type"] == "site.removed" and change["site"] == slug:
            dump: str | None = change["metadata"].get("dump")
            return dump
    return None


def _wait(session: Session, site: Site, seconds: float, *, known_error: str | None, act: str = "") -> Convergence:
    """Wait until every reachable node serves the site as it is now, and name the others."""
    slug, revision = site["slug"], site["revision"]
    state = wait_for_site(session.client, slug, seconds=seconds, revision=revision, known_error=known_error, act=act)
    note_unreachable(session.output, state["unreachable"])
    return state


def _on_node(node: SiteOnNode, revision: int) -> str:
    """What a node last said of a site, and how far it has come with it."""
    applied = f"revision {node['revision']}" + (f" of {revision}" if node["lag"] else " (the latest)")
    message = f": {node['message']}" if node["message"] else ""
    reported = ago(node.get("reported_at"))
    return f"{node['node']}: {node['state']}, {applied}, generation {node['generation']}, {reported}{message}"


def _conclude(session: Session, site: Site, waited: bool, done: str, going: str) -> None:
    """Print how it ended: the site as it is now for programs, one sentence for people."""
    document = session.client.get(path("sites", site["slug"])) if waited and session.output.as_json else site
    text = done if waited else f"{site['slug']} {going}; see «tenantry site show {site['slug']}»."

    def show() -> None:
        session.output.line(text)
        if not site["url"]:
            session.output.remark(f"Next: tenantry hostname add {site['slug']} HOSTNAME", "dim")

    session.output.result(document, show)


def _state(site: Site) -> str:
    """One word for a list: the platform's status until it is ready, then what the nodes say."""
    if site["status"] != "ready":
        return site["status"]
    states = {node["state"] for node in site["nodes"]}
    if "failed" in states:
        return "failed"
    behind = any(node["lag"] for node in site["nodes"])
    return "serving" if states == {"serving"} and not behind else "starting"
