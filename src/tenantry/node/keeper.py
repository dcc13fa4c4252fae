"""The releases in use, verified again and again; those no longer used, removed.

Verifying has its own pace, beside the integrity check: it reads what changed, slowly, and the check only asks whether a
release was found damaged. Together they find damage within a minute: VERIFY_SECONDS here, a round of the check there.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Protocol

from tenantry.node.errors import NodeError
from tenantry.spec.sites import ReleaseName

logger = logging.getLogger(__name__)

FIRST_SECONDS = 10.0  # after the start, when sites have been looked at
VERIFY_SECONDS = 20.0
COLLECT_SECONDS = 3600.0


class KeptReleases(Protocol):
    """The releases of this machine."""

    async def clean(self) -> None: ...

    async def verify(self, name: ReleaseName) -> str | None: ...

    async def collect(self, used: frozenset[ReleaseName]) -> list[str]: ...


class ReleaseKeeper:
    """Keeps the releases that `used` names. `run` never returns."""

    def __init__(
        self,
        releases: KeptReleases,
        used: Callable[[], frozenset[ReleaseName]],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._releases = releases
        self._used = used
        self._clock = clock
        self._collect_at = 0.0
        self._said: dict[ReleaseName, str] = {}

    async def run(self) -> None:
        try:
            await self._releases.clean()
        except OSError as error:
            logger.warning("what an earlier agent left of releases cannot be removed: %s", error)
        await asyncio.sleep(FIRST_SECONDS)
        while True:
            await self.round()
            await asyncio.sleep(VERIFY_SECONDS)

    async def round(self) -> None:
        """Verify each release once; remove what may go when it is time. What fails is logged, the others go on."""
        used = self._used()
        for name in sorted(used, key=str):
            try:
                self._note(name, await self._releases.verify(name))
            except (NodeError, OSError) as error:
                words = f"cannot be verified: {error}"
                if self._said.get(name) != words:
                    logger.warning("the release %s %s", name, words)
                self._said[name] = words
        self._said = {name: words for name, words in self._said.items() if name in used}
        # An empty state is what a node has before it heard of any: nothing is removed on such a word.
        if used and self._clock() >= self._collect_at:
            self._collect_at = self._clock() + COLLECT_SECONDS
            try:
                removed = await self._releases.collect(used)
            except (NodeError, OSError) as error:
                logger.warning("releases that are not used cannot be removed: %s", error)
            else:
                if removed:
                    logger.info("removed releases that no site here uses: %s", ", ".join(removed))

    def _note(self, name: ReleaseName, words: str | None) -> None:
        """Say once what is wrong with a release, and that it is whole again."""
        before = self._said.pop(name, None)
        if words is not None:
            self._said[name] = words
            if words != before:
                logger.warning("the release %s is damaged: %s", name, words)
        elif before is not None:
            logger.info("the release %s is whole again", name)
