"""The agent behind a PgBouncer in transaction mode: no notification reaches it, and it works all the same."""

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from node_lab import AS_ROOT, Node, free_port, wait_until

PGBOUNCER = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin:/sbin:/bin")
pytestmark = pytest.mark.skipif(PGBOUNCER is None, reason="needs pgbouncer")


@pytest.fixture
def pooled(serving: Node) -> Iterator[Node]:
    """A running node whose agent reaches the database through the pooler alone; the test reaches it directly."""
    directory = Path(serving.postgres.directory) / serving.home.name
    directory.mkdir()
    port = free_port()
    (directory / "users.txt").write_text('"super" ""\n')
    (directory / "pgbouncer.ini").write_text(f"""\
[databases]
* = host={serving.postgres.directory} user=super
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {directory}/users.txt
pool_mode = transaction
default_pool_size = 3
logfile = {directory}/log
pidfile = {directory}/pid
""")
    as_postgres = []
    if AS_ROOT:
        for path in (directory, *directory.iterdir()):
            shutil.chown(path, "postgres", "postgres")
        as_postgres = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    name = serving.dsn.rpartition("=")[2]
    dsn = f"host=127.0.0.1 port={port} user=super dbname={name}"
    process = subprocess.Popen(
        [*as_postgres, str(PGBOUNCER), str(directory / "pgbouncer.ini")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: answers(dsn), what="pgbouncer")
        serving.stop("agent")
        document = json.loads(serving.config.read_text())
        serving.config.write_text(json.dumps(document | {"dsn": dsn}))
        serving.start_agent()
        yield serving
    finally:
        if "agent" in serving.processes:
            serving.stop("agent")
        process.terminate()
        process.wait(10)


def answers(dsn: str) -> bool:
    try:
        psycopg.connect(dsn, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


def last_report(node: Node) -> dict[str, object]:
    rows = node.sql("SELECT report FROM agent_v1.received ORDER BY number DESC LIMIT 1")
    return dict(rows[0][0]) if rows else {}


def test_behind_a_pooler_it_converges_by_asking_and_says_so(pooled: Node) -> None:
    pooled.reported("one", pooled.put(pooled.document("one", 1, "demo-1")))
    took = []
    for generation in range(6):
        started = time.monotonic()
        revision = pooled.put(pooled.document("one", 1, "demo-1", hostnames=[f"h{generation}.localhost"]))
        pooled.reported("one", revision)
        took.append(time.monotonic() - started)
        assert pooled.page(f"h{generation}.localhost")["site"] == "one"
    print(f"behind PgBouncer: change → reported {sorted(took)[len(took) // 2]:.2f} s median, {max(took):.2f} s at most")
    assert max(took) < 4.5

    def said() -> bool:
        conditions = last_report(pooled).get("conditions")
        return isinstance(conditions, list) and "NotificationsNotArriving" in {c["type"] for c in conditions}

    wait_until(said, 30)
    assert last_report(pooled)["notifications"] is False
    message = next(c["message"] for c in last_report(pooled)["conditions"] if c["type"] == "NotificationsNotArriving")  # type: ignore[attr-defined]
    assert "PgBouncer" in message
    # Connected directly again, it is taken back.
    pooled.stop("agent")
    document = json.loads(pooled.config.read_text())
    pooled.config.write_text(json.dumps(document | {"dsn": pooled.dsn}))
    pooled.start_agent()
    wait_until(lambda: last_report(pooled).get("notifications") is True and not last_report(pooled)["conditions"])
