"""Notices a second agent with the same agent.json: a machine that was copied. Both would do as the database says."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from tenantry.node.errors import StoreUnavailable

logger = logging.getLogger(__name__)

LOOK_SECONDS = 60.0
# One that was just restarted elsewhere, or whose connection broke unseen, is gone when looked for again.
AGAIN_SECONDS = 15.0


class Sessions(Protocol):
    """Who is connected as this node."""

    async def others_alive(self, name: str, own: str) -> int: ...


async def watch_for_twins(
    sessions: Sessions,
    name: str,
    own: str,
    tell: Callable[[int], None],
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Tell for ever how many other agents work as this node, once they have been seen twice."""
    seen_before = False
    while True:
        await sleep(AGAIN_SECONDS if seen_before else LOOK_SECONDS)
        try:
            others = await sessions.others_alive(name, own)
        except StoreUnavailable as error:
            logger.warning("cannot look for other agents of this node: %s", error)
            continue
        if others and not seen_before:
            seen_before = True
            continue
        seen_before = False
        tell(others)
