"""A real node with many sites, what they should be, and what visitors and files show they are."""

import contextlib
import http.client
import json
import os
import random
import socket
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import node_lab as lab

APPLICATION = """
import os
SITE = os.environ["TENANTRY_SITE"].encode()
def application(environ, start_response):
    start_response("200 OK", [("Content-Length", str(len(SITE)))])
    return [SITE]
"""
RELEASES = ("demo-1", "demo-2")
CLOSED_MODES = ("maintenance", "paused")
START_SECONDS = 180.0
VISIT_SECONDS = 10.0  # a visitor who waits longer has gone
RARELY = 0.03  # of the visits that another site gets, so that sites on demand sleep between
PAUSE_SECONDS = 0.01  # between visits of one visitor


class World:
    """The node and its desired state. Site s<number> keeps the hostname s<number>.localhost while it is there.

    Every third is on demand and may sleep after `idle_seconds`.
    """

    def __init__(self, node: "lab.Node", sites: int, seed: int, *, idle_seconds: int) -> None:
        self.node = node
        self.idle_seconds = idle_seconds
        self.random = random.Random(seed)
        self.documents: dict[str, dict[str, Any]] = {}
        self.allowed: dict[str, set[int]] = {}  # answers that visitors may get besides 200, of every state since
        self.count = sites
        self.head = 0

    def start(self) -> None:
        """Start the node and bring all sites up."""
        for release in RELEASES:
            self.node.release(release, APPLICATION)
        self.node.start()
        for number in range(1, self.count + 1):
            slug = f"s{number}"
            self.put(self.node.document(slug, number, RELEASES[0], **self._runtime(number)))
        self.converge(START_SECONDS)

    def _runtime(self, number: int) -> dict[str, Any]:
        if number % 3:
            return {}
        return {"runtime": "on_demand", "limits": {"idle_seconds": self.idle_seconds}}

    def is_on_demand(self, slug: str) -> bool:
        """Whether the site may sleep."""
        return bool(self.documents[slug]["runtime"] == "on_demand")

    def put(self, document: dict[str, Any]) -> None:
        """What control does for one change."""
        slug = document["slug"]
        self.documents[slug] = document
        self.allowed.setdefault(slug, set()).add(self.expected(slug))
        self.head = self.node.put(document)

    # Changes

    def change(self) -> None:
        """Make one random change: another hostname, mode, generation or release; a site comes or goes."""
        slug = self.random.choice(sorted(self.documents))
        document = dict(self.documents[slug])
        stable = document["number"] <= self.count * 0.8
        kind = self.random.choices(("hostname", "mode", "restart", "release", "presence"), (5, 3, 3, 1, 1))[0]
        if not document["present"]:
            document |= {"present": True, "generation": document["generation"] + 1}
        elif kind == "mode":
            document["mode"] = self.random.choice(("live", "live", "read_only", "maintenance"))
        elif kind == "restart":
            document["generation"] += 1
        elif kind == "release":
            name = self.random.choice(RELEASES)
            document["release"] = document["release"] | {"name": name, "digest": f"sha256:{name}"}
            document["generation"] += 1
        elif kind == "presence" and not stable:
            document["present"] = False
        else:
            extra = f"{slug}-{self.random.randrange(5)}.localhost"
            document["hostnames"] = sorted({*document["hostnames"]} ^ {extra})
        self.put(document)

    # What the node says

    def converge(self, seconds: float, since: float | None = None) -> float:
        """Wait until the node has reported the head, visitors see it and nothing is left lying about.

        Returns the seconds since `since` (monotonic; now when not given).
        """
        began = time.monotonic() if since is None else since
        deadline = began + seconds
        waits: list[str] = ["nothing was looked at"]
        while True:
            waits = self._differences()
            if not waits:
                self.allowed = {slug: {self.expected(slug)} for slug in self.documents}
                return time.monotonic() - began
            if time.monotonic() > deadline:
                raise AssertionError(f"not converged within {seconds} s: {waits}\n{self.node.output('agent')[-4000:]}")
            time.sleep(0.05)

    def _differences(self) -> list[str]:
        rows = self.node.sql("SELECT report->>'revision' FROM agent_v1.received ORDER BY number DESC LIMIT 1")
        if not rows or int(rows[0][0]) < self.head:
            return [f"revision {rows[0][0] if rows else None} of {self.head} is reported"]
        return [*self.torn_files(), *self.leftovers(), *self.wrong_answers()]

    def drifts(self) -> list[dict[str, Any]]:
        """Return every drift reported so far, with `found` and `repaired` on the database's clock (seconds)."""
        rows = self.node.sql(
            "SELECT extract(epoch FROM at)::float8, report->'drift' FROM agent_v1.received"
            " WHERE report ? 'drift' ORDER BY number"
        )
        return [
            line
            | {
                "found": at - line["found_seconds"],
                "repaired": None if line["repaired_seconds"] is None else at - line["repaired_seconds"],
            }
            for at, lines in rows
            for line in lines
        ]

    # What visitors see

    def expected(self, slug: str) -> int:
        document = self.documents[slug]
        if not document["present"]:
            return 404
        return 503 if document["mode"] in CLOSED_MODES else 200

    def wrong_answers(self) -> list[str]:
        """Ask every site under every name it has, and under those it no longer has."""
        wrong = []
        for slug, document in self.documents.items():
            for number in range(-1, 5):
                host = f"{slug}.localhost" if number < 0 else f"{slug}-{number}.localhost"
                wanted = self.expected(slug) if host in document["hostnames"] else 404
                if wanted == 404 and number >= 0 and (self.node.home / "run" / "hosts" / host).is_symlink():
                    wrong.append(f"{host} is still linked")
                if host in document["hostnames"] or number < 0:
                    status, body = self.visit(host)
                    if status != wanted or (status == 200 and body != slug.encode()):
                        wrong.append(f"{host}: {status} {body[:60]!r} instead of {wanted}")
        return wrong

    def visit(self, host: str) -> tuple[int, bytes]:
        """Return the status and the body that a visitor gets; 0 and the error where there is no answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.node.port, timeout=VISIT_SECONDS)
        try:
            connection.request("GET", "/", headers={"Host": host})
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            return 0, repr(error).encode()
        finally:
            connection.close()

    # What is on disk

    def torn_files(self) -> list[str]:
        """Return the files and links that are not whole."""
        home = self.node.home
        torn = [f"{path}: not JSON" for path in (home / "state").rglob("*.json") if not _is_json(path)]
        torn += [f"{path}: not JSON" for path in (home / "run" / "sites").glob("*/site.*.json") if not _is_json(path)]
        for path in (home / "run" / "vassals").glob("*.ini"):
            text = _read(path)
            if text is not None and not (
                text.startswith("[uwsgi]\n") and text.endswith(f"procname-prefix-spaced = {path.stem}\n")
            ):
                torn.append(f"{path}: {text!r:.100}")
        for link in (home / "run" / "sites").glob("*/app.sock"):
            if not _answers(link):
                torn.append(f"{link} -> {os.readlink(link)}: nobody listens")
        for link in (home / "run" / "hosts").iterdir():
            if not link.name.startswith(".") and not (link / "app.sock").is_symlink():
                torn.append(f"{link}: leads nowhere")
        return torn

    def leftovers(self) -> list[str]:
        """Return what interrupted writes and replaced generations left."""
        home = self.node.home
        left = []
        directories = [home / name for name in ("etc", "state", "state/sites", "run", "run/hosts", "run/vassals")]
        for directory in (*directories, home / "run/sites", *(home / "run/sites").iterdir()):
            left += [str(path) for path in directory.iterdir() if path.name.startswith(".")]
        for slug, document in self.documents.items():
            directory = home / "run" / "sites" / slug
            if not document["present"]:
                left += [str(directory)] if directory.exists() else []
                continue
            sockets = [path.name for path in directory.glob("[0-9]*.sock")]
            inis = [path.name for path in (home / "run" / "vassals").glob(f"{slug}.*.ini")]
            sleeps = self.is_on_demand(slug) and not inis
            if not sleeps and (len(sockets) != 1 or len(inis) != 1):
                left.append(f"{slug}: {sockets} {inis}")
        return left


class Visitors:
    """Threads that visit sites without pause; `failures` counts what no visitor should see, by site and answer."""

    def __init__(self, world: World, threads: int = 2) -> None:
        self.world = world
        self.visits = 0
        self.failures: Counter[str] = Counter()
        self.failed_at: list[tuple[str, float]] = []  # slug, when (time.time())
        self.slowest = 0.0
        self.excused: dict[str, float] = {}  # slug: until when (monotonic) its failures are expected
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._visit_for_ever, args=(n,)) for n in range(threads)]

    def __enter__(self) -> "Visitors":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _visit_for_ever(self, number: int) -> None:
        chance = random.Random(number)
        while not self._stopped.wait(PAUSE_SECONDS):
            slug = chance.choice(sorted(self.world.documents))
            if self.world.is_on_demand(slug) and chance.random() > RARELY:
                continue  # it would never sleep
            began = time.monotonic()
            status, body = self.world.visit(f"{slug}.localhost")
            seconds = time.monotonic() - began
            self.visits += 1
            if self.excused.get(slug, 0.0) > began:
                continue
            self.slowest = max(self.slowest, seconds)
            if status != 200 and status not in self.world.allowed[slug]:
                self.failures[f"{slug}: {status} {body[:80]!r}"] += 1
                self.failed_at.append((slug, time.time()))


def _is_json(path: Path) -> bool:
    text = _read(path)
    if text is None:
        return True  # it was removed meanwhile
    with contextlib.suppress(ValueError):
        return isinstance(json.loads(text), dict | list)
    return False


def _read(path: Path) -> str | None:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return path.read_text()
    return None


def _answers(link: Path) -> bool:
    """Whether somebody listens where the link leads; one that was removed meanwhile is fine."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(link))
        except OSError:
            return not link.is_symlink()
    return True
