"""`tenantry event`: the log of changes."""

import json
import time
from collections.abc import Iterator
from typing import Annotated

import typer

from tenantry.cli.client import PAGE_SIZE, Client, path
from tenantry.cli.command import Session, command, noun
from tenantry.cli.documents import Change, Document
from tenantry.cli.errors import Unreachable
from tenantry.cli.output import ago

app = noun("event", "The log of changes.")

KEEP_DAYS = 365

SILENCE_SECONDS = 60.0  # the server sends a comment more often than this
RETRY_SECONDS = 1.0
RETRIES = 30  # half a minute: a restart of the platform passes unseen, a platform that is down is reported


@command(app, "list", example="tenantry event list --limit 50")
def list_(
    session: Session,
    since: Annotated[
        int | None, typer.Option("--since", min=0, metavar="REVISION", help="Only later ones.", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=PAGE_SIZE, help="At most this many.")] = 20,
) -> None:
    """List changes, the latest last."""
    changes: list[Change] = session.client.items(path("changes"), {"since": since, "limit": limit}, limit=limit)
    changes.sort(key=lambda change: change["revision"])
    rows = [
        (
            change["revision"],
            change["type"],
            change["site"] or change["project"] or change["metadata"].get("node"),
            change["actor"],
            ago(change["timestamp"]),
            _brief(change["metadata"]),
        )
        for change in changes
    ]

    def show() -> None:
        session.output.table(
            ("revision", "type", "of", "by", "when", "details"),
            rows,
            "Nothing has changed yet.",
            keep=("revision", "type", "when"),
        )

    session.output.result(changes, show)


@command(app, "follow", example="tenantry event follow --json")
def follow(session: Session) -> None:
    """Print changes as they happen, and what nodes report of them, until Ctrl-C. With --json, one document a line.

    A line «reset» says that changes which this command has not seen yet are no longer kept: it goes on after them.
    """
    for kind, document in stream(session.client):
        session.output.entry(document, _line(kind, document))


@command(app, "compact", example="tenantry event compact --keep-days 90")
def compact(
    session: Session,
    keep_days: Annotated[
        int, typer.Option("--keep-days", metavar="DAYS", min=1, max=36_500, help="Younger changes stay.")
    ] = KEEP_DAYS,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete old changes from the log for good; the latest 10,000 stay in any case.

    The platform does so daily for what is older than a year. Revisions go on counting, and sites are not touched.
    """
    if not yes:
        session.confirm(f"Delete the changes older than {keep_days} days?")
    done: Document = session.client.post(path("changes", "compact"), {"keep_days": keep_days})
    removed = f"{done['removed']} change{'' if done['removed'] == 1 else 's'} deleted"
    kept = f"what came after revision {done['tail']} is kept" if done["tail"] else "the log is whole"
    session.output.result(done, lambda: session.output.line(f"{removed}; {kept}."))


@command(app, "new-epoch", example="tenantry event new-epoch --yes")
def new_epoch(
    session: Session,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Say that the database's history was replaced, so that nodes take its state as the one that counts.

    Needed only after the data directory was put back by copying an older one: nodes refuse to go back within an epoch
    (condition StaleState). A promoted replica and a restored dump have a new epoch by themselves. Nodes read
    everything anew and serve on meanwhile; sites that are missing now are kept until a person confirms their removal.
    """
    if not yes:
        session.output.remark(
            "Every node takes the present state of this database for the right one, however old it is."
        )
        session.confirm("Begin a new epoch?")
    done: Document = session.client.post(path("changes", "new-epoch"))
    text = f"Epoch {done['epoch']} begins at revision {done['revision']}; see «tenantry status»."
    session.output.result(done, lambda: session.output.line(text))


def stream(client: Client) -> Iterator[tuple[str, Document]]:
    """The server-sent events: (kind, document). Goes on where it was after a broken connection.

    Raises `Unreachable` when the platform does not answer at the first try, or not for `RETRIES` tries later.
    """
    last_id = ""
    failures = 0
    answered = False
    while True:
        headers = {"Last-Event-ID": last_id} if last_id else {}
        try:
            for identity, kind, document in _events(client, headers):
                last_id = identity or last_id
                answered, failures = True, 0
                if document is not None:
                    yield kind, document
        except Unreachable:
            if not answered or failures >= RETRIES:
                raise
        failures += 1
        answered = True
        time.sleep(RETRY_SECONDS)


def _events(client: Client, headers: dict[str, str]) -> Iterator[tuple[str, str, Document | None]]:
    """Parse `text/event-stream`: (id, kind, data) for each event; data is None for a comment that keeps alive."""
    identity, kind, data = "", "message", list[str]()
    for line in client.lines(path("events"), headers=headers, silence=SILENCE_SECONDS):
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match name:
            case "" if line:
                yield "", "comment", None
            case "":
                if data:
                    yield identity, kind, json.loads("\n".join(data))
                identity, kind, data = "", "message", []
            case "id":
                identity = value
            case "event":
                kind = value
            case "data":
                data.append(value)


def _line(kind: str, document: Document) -> str:
    metadata = document.get("metadata") or {}
    subject = document.get("site") or document.get("project") or document.get("node") or metadata.get("node") or ""
    if kind == "report" and not subject:
        subject = "any node"
    if kind == "reset":
        subject = f"changes up to r{document.get('tail')} are no longer kept"
    what = document.get("type") or kind
    parts = [
        f"{document.get('revision', '')!s:>7}",
        f"{what:<20}",
        f"{subject:<20}",
        _brief(metadata),
    ]
    return "  ".join(parts).rstrip()


def _brief(metadata: Document) -> str:
    """Metadata as `name=value` words, lists with commas; what is nested deeper is for --json."""
    plain = (str, int, float)
    words = {
        name: ",".join(map(str, value)) if isinstance(value, list) else value
        for name, value in metadata.items()
        if isinstance(value, plain) or (isinstance(value, list) and all(isinstance(one, plain) for one in value))
    }
    return " ".join(f"{name}={value}" for name, value in words.items() if value != "")
