"""A generation's files and process: written, parked, started, waited for, mended, removed.

Its life, and what an interruption leaves, is the planner's; here are its steps.
"""

import asyncio
import os
import stat
import time
from dataclasses import dataclass

from tenantry.node.config import Config
from tenantry.node.effects.content import SiteContent
from tenantry.node.effects.emperor import wake_emperor
from tenantry.node.effects.files import remove, set_access, sync, write_file
from tenantry.node.effects.node_integrity import NodeIntegrity
from tenantry.node.effects.readiness import Readiness
from tenantry.node.errors import Transient
from tenantry.node.integrity import sign
from tenantry.node.probes import Tables
from tenantry.node.site_places import DOCUMENT_MODE, VASSAL_MODE
from tenantry.node.upstream import forget_generation
from tenantry.node.vassal import SOCKET_MODE, find_groups, step_aside
from tenantry.node.written import Written
from tenantry.spec.names import Slug
from tenantry.spec.sites import SiteSpec

WAKE_SECONDS = 0.2
END_SECONDS = 20.0  # uWSGI kills workers that do not end within ten
REBOUND_SECONDS = 30.0  # a process ends its requests (10 s), the emperor waits before it starts one that failed


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What is known of the node, shared with those who look at it: tables, hashes of files, times of inis."""

    tables: Tables
    written: Written
    node: NodeIntegrity


class Generations:
    """The generations of all sites of this machine."""

    def __init__(self, config: Config, content: SiteContent, knowledge: Knowledge, ready_seconds: float) -> None:
        self._layout = config.layout
        self._nginx_gid = config.nginx_gid()
        self._content = content
        self._tables, self._written, self._node = knowledge.tables, knowledge.written, knowledge.node
        self._readiness = Readiness(config, ready_seconds)

    def write_document(self, spec: SiteSpec, generation: int) -> None:
        """Write site.<generation>.json; `NotReady` when the site's secrets cannot be opened."""
        path = self._layout.document(spec.slug, generation)
        content = self._content.document(spec)
        self._written.remember(spec.slug, path.name, content)
        write_file(path, content, mode=DOCUMENT_MODE)

    def park(self, spec: SiteSpec, generation: int) -> None:
        """Write the ini that standby copies to run/vassals; its own name there is noted, too."""
        path, content = self._layout.parked(spec.slug, generation), self._content.vassal_text(spec, generation)
        for name in (path.name, self._layout.vassal(spec.slug, generation).name):
            self._written.remember(spec.slug, name, content)
        write_file(path, content, mode=VASSAL_MODE, durable=True)

    def unpark(self, slug: Slug, generation: int) -> None:
        """Remove what `park` wrote: standby starts the generation no more."""
        path = self._layout.parked(slug, generation)
        remove(path)
        self._written.drop(slug, path.name)

    async def write_vassal(self, spec: SiteSpec, generation: int) -> None:
        """Write the ini; one that was changed gets a time by which the emperor starts its process anew.

        Not if the process is older than the change: then it runs from the right text, and with the time that text
        had the emperor sees nothing new. Should it see the change first, the check of its list finds out.
        """
        path = self._layout.vassal(spec.slug, generation)
        content = self._content.vassal_text(spec, generation)
        changed = sign(str(path))
        started = sign(str(self._layout.socket(spec.slug, generation)))
        mtime_ns = None
        if changed is not None:
            before = self._node.times.of(path.name)
            untouched = started is not None and started[2] < changed[3] and before is not None
            mtime_ns = before if untouched else self._node.times.newer(path.name)
        self._readiness.begin(spec.slug, generation)
        self._tables.vassals.add(spec.slug, generation)
        self._written.remember(spec.slug, path.name, content)
        write_file(path, content, mode=VASSAL_MODE, mtime_ns=mtime_ns)
        self._node.times.note(path.name)
        await self._wake_emperor()

    async def restore_socket(self, slug: Slug, generation: int) -> None:
        """Make the process reachable again: its socket's mode and owner, else a new process of the generation.

        A socket whose file is gone cannot be given another. The process first answers whom it has; visitors who come
        meanwhile find nobody, as since the file went.
        """
        path = self._layout.socket(slug, generation)
        self._tables.forget_sockets()
        self._tables.refresh_sockets(0.0)
        found = sign(str(path))
        right = found is not None and stat.S_ISSOCK(found[4])
        if right and found is not None and self._tables.sockets.is_bound(slug, generation, found[0]):
            changed = (stat.S_IMODE(found[4]), found[5]) != (SOCKET_MODE, os.geteuid())
            changed |= self._nginx_gid is not None and found[6] != self._nginx_gid
            if changed:
                set_access(path, SOCKET_MODE, os.geteuid(), self._nginx_gid)
                return
        elif found is not None:
            remove(path)
        await self._restart(slug, generation)

    async def _restart(self, slug: Slug, generation: int) -> None:
        """Have the emperor start the generation's process anew; returns when the new one listens."""
        path, vassal = self._layout.socket(slug, generation), self._layout.vassal(slug, generation)
        before = sign(str(path))
        self._readiness.begin(slug, generation)
        self._node.times.set(vassal.name, self._node.times.newer(vassal.name))
        await self._wake_emperor()
        deadline = time.monotonic() + REBOUND_SECONDS
        while (now := sign(str(path))) is None or now == before:
            if time.monotonic() > deadline:
                raise Transient(f"the emperor did not start {vassal.name} anew within {REBOUND_SECONDS:.0f} s")
            await asyncio.sleep(WAKE_SECONDS)
            await self._wake_emperor()  # it starts the next one when it looks, not when the last one ended

    async def await_end(self, slug: Slug, generation: int) -> None:
        """Return when nobody listens on the generation's socket; `Transient` when somebody goes on."""
        deadline = time.monotonic() + END_SECONDS
        while True:
            self._tables.forget_sockets()
            self._tables.refresh_sockets(0.0)
            if generation not in self._tables.sockets.listening.get(slug, ()):
                return
            if time.monotonic() > deadline:
                raise Transient(f"the process of generation {generation} does not end")
            await asyncio.sleep(WAKE_SECONDS)

    async def await_ready(self, spec: SiteSpec, generation: int, *, served: int | None) -> None:
        """Return when the generation answers; `served` is the one that visitors are led to.

        The files reach the disk while the application loads, so that what gets switched to is durable.
        """
        durable = asyncio.create_task(asyncio.to_thread(self._make_durable, spec.slug, generation))
        try:
            await self._readiness.wait(spec, generation, served=served)
        finally:
            await durable

    def _make_durable(self, slug: Slug, generation: int) -> None:
        for path in (self._layout.document(slug, generation), self._layout.vassal(slug, generation)):
            sync(path)
            sync(path.parent)

    async def remove(self, slug: Slug, generation: int) -> None:
        """The ini first: whatever interrupts, the emperor never sees an ini without its document."""
        vassal = self._layout.vassal(slug, generation)
        if sign(str(vassal)) is not None:
            self._tables.refresh_sockets(0.0)
            if not self._tables.sockets.connections.get(slug, {}).get(generation):
                step_aside(f"{slug}.{generation}", find_groups(str(self._layout.home)))
            remove(vassal)
            await self._wake_emperor()
        document, parked = self._layout.document(slug, generation), self._layout.parked(slug, generation)
        forget_generation(self._layout.site(slug), generation)
        remove(self._layout.socket(slug, generation))
        remove(parked)
        remove(document)
        self._written.drop(slug, vassal.name, parked.name, document.name)
        self._tables.vassals.discard(slug, generation)
        self._node.times.forget(vassal.name)
        self._readiness.forget(slug, generation)

    async def _wake_emperor(self) -> None:
        """Have the emperor look at once. One that does not answer looks by itself, within 5 s."""
        await wake_emperor(self._layout.emperor_socket)
