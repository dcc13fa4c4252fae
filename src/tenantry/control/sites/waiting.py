"""Waiting for a site to converge: woken by what nodes report, never by a timer alone."""

import json
import time

from tenantry.control.changelog.feed import CHANGES, Note, feed
from tenantry.control.database import in_database
from tenantry.control.sites.queries import Convergence, convergence

RECHECK_SECONDS = 5.0  # in case that notifications do not come in


async def wait_for_convergence(slug: str, wait_seconds: float) -> Convergence:
    """Return the site's convergence when it has converged or failed, at the latest after `wait_seconds`.

    Raises `NotFound` for a site that never was, or when the last of a deleted one is gone.
    """
    if wait_seconds <= 0:
        return await in_database(convergence, slug)
    deadline = time.monotonic() + wait_seconds
    async with feed().subscribe() as subscription:
        while True:
            state = await in_database(convergence, slug)
            if is_decided(state):
                return state
            while True:
                left = deadline - time.monotonic()
                if left <= 0:
                    return state
                note = await subscription.next(min(left, RECHECK_SECONDS))
                if note is None or concerns(note, slug):
                    break


def is_decided(state: Convergence) -> bool:
    """Whether waiting longer brings nothing: converged, failed, or a node tried this revision in vain."""
    failed_here = any(node.state == "failed" and node.lag == 0 for node in state.nodes)
    return state.converged or state.status == "failed" or failed_here


def concerns(note: Note, slug: str) -> bool:
    """Whether the note may have moved the site's convergence. Every report may."""
    if note.channel != CHANGES or not note.payload:
        return True
    return bool(json.loads(note.payload).get("site") == slug)
