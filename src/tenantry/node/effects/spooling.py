"""nginx keeps answers that are read slowly on the disk only while there is room: one that is cut short there fails.

A visitor with many connections can make nginx put much there, and a site can fill the disk by itself. Below the mark a
flag tells nginx to keep to its memory, so that such answers are passed on as fast as they are read, as if there were no
disk. What is being put there at that moment is at most one answer for each process of a site.
"""

import asyncio
import logging
import os

from tenantry.node.effects.files import remove, write_file
from tenantry.node.layout import Layout

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 2.0
ROOM_BYTES = 2 << 30  # what is left to everybody else
ROOM_PART = 10  # ... but no more than a tenth of a small disk
MARGIN = 1.25  # there is room again with a quarter more: the flag does not come and go with each answer
FLAG_MODE = 0o644


async def watch_room(layout: Layout) -> None:
    """Look every two seconds, for ever."""
    while True:
        try:
            note_room(layout)
        except OSError as error:
            logger.warning("cannot look after the room on the disk: %s: %s", error.strerror, error.filename)
        await asyncio.sleep(INTERVAL_SECONDS)


def note_room(layout: Layout, room_bytes: int = ROOM_BYTES, part: int = ROOM_PART) -> None:
    """Raise the flag where less than `room_bytes`, or than the `part`-th part of the disk, is free; else lower it."""
    disk = os.statvfs(layout.run)
    free, least = disk.f_bavail * disk.f_frsize, min(room_bytes, disk.f_blocks * disk.f_frsize // part)
    raised = layout.unspooled.exists()
    if not raised and free < least:
        logger.warning("the disk has %d MB left: what visitors read slowly is not put there", free >> 20)
        write_file(layout.unspooled, b"", mode=FLAG_MODE)
    elif raised and free >= least * MARGIN:
        remove(layout.unspooled)
