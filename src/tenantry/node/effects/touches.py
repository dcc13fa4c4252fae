"""The files by whose time a site is restarted: one that root alone can write, and one of the site's own."""

import os
import stat
from collections.abc import Sequence

from tenantry.node.integrity import sign
from tenantry.node.layout import Layout
from tenantry.node.upstream import LINK_NAMES
from tenantry.spec.names import Slug


class Touches:
    """Looks at these files, follows none of them, and writes nothing."""

    def __init__(self, layout: Layout) -> None:
        self._sites = f"{layout.sites}/"
        self._data = f"{layout.home}/data/"

    def with_file(self, slugs: Sequence[Slug], *, own: bool) -> list[Slug]:
        """Return which of the sites have the file."""
        before, after = self._around(own=own)
        access, exists = os.access, os.F_OK
        return [slug for slug in slugs if access(f"{before}{slug}{after}", exists)]

    def touched(self, slug: Slug, *, own: bool) -> int | None:
        """Return when the file was touched, by the time that no program can set.

        None unless visitors were led to what serves before that.
        """
        # Of a site on demand the link that visitors take changes whenever it falls asleep; `serving` does not.
        links = (sign(f"{self._sites}{slug}/{name}") for name in ("serving", *LINK_NAMES))
        found, led = sign(str(slug).join(self._around(own=own))), next(filter(None, links), None)
        if found is None or not stat.S_ISREG(found[4]) or (led is not None and found[3] <= led[3]):
            return None
        return found[3]

    def _around(self, *, own: bool) -> tuple[str, str]:
        """Return what is before and after the slug in the file's path."""
        return (self._data, "/home/restart") if own else (self._sites, "/restart")
