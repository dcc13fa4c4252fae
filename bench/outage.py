"""PostgreSQL goes away in every way that it can, agents and nginx are restarted meanwhile, and visitors ask."""

import tempfile
from pathlib import Path

from bench.lab import lab
from bench.results import Row, Table

NODES = 3
CAUGHT_UP_SECONDS = 10.0


def measure(seconds: float) -> Table:
    """Return what visitors met in each outage of `seconds`; `RuntimeError` where machines cannot be made."""
    reason = lab.why_no_network()
    if reason is not None:
        raise RuntimeError(reason)
    rows = []
    with tempfile.TemporaryDirectory(prefix="tt-bench-") as text:
        golden = Path(text) / "golden"
        lab.make_golden(golden)
        for outage in lab.OUTAGES:
            print(f"measuring: {outage} …", flush=True)
            with lab.cluster(golden, NODES) as cluster:
                outcome = lab.ride_out(lab.busy_cluster(cluster), outage, seconds)
            values = {
                "requests": outcome.requests,
                "failed": len(outcome.failures),
                "slowest": outcome.slowest,
                "caught up": outcome.caught_up_seconds,
            }
            rows.append(Row(outage, values))
    failed = sum(row.values["failed"] for row in rows)
    slowest = max(row.values["caught up"] for row in rows)
    kept = failed == 0 and slowest <= CAUGHT_UP_SECONDS
    return Table(
        "outage",
        f"PostgreSQL away for {seconds:.0f} s, {NODES} nodes, agents killed and nginx replaced meanwhile; seconds",
        ("requests", "failed", "slowest", "caught up"),
        rows,
        f"The promise is {'kept' if kept else 'NOT kept'}: {failed} requests failed, all nodes had caught up at most "
        f"{slowest:.1f} s after it was over.",
    )
