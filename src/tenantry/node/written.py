"""What the agent wrote for each site's generations, as hashes in `state/written/<slug>.json`.

A file is right when it reads as this agent would write it, or as an agent wrote it: another release of the agent may
render a document or an ini differently, and a site must not be restarted because of that.
"""

import hashlib
import json
from pathlib import Path

from tenantry.node.effects.files import remove, write_file
from tenantry.node.effects.flushing import Flusher
from tenantry.spec.names import Slug


class Written:
    """The hashes, by site and name of file. Lost or damaged, it knows nothing, which costs a rewrite at most."""

    def __init__(self, directory: Path, flusher: Flusher) -> None:
        self._directory = directory
        self._flusher = flusher
        self._hashes: dict[Slug, dict[str, str]] = {}

    def remember(self, slug: Slug, name: str, content: bytes) -> None:
        """Note what is about to be written; before it is, so that no interruption makes our own file look foreign."""
        hashes = self._read(slug)
        new = _digest(content)
        if hashes.get(name) != new:
            hashes[name] = new
            self._save(slug, hashes)

    def knows(self, slug: Slug, name: str, content: bytes) -> bool:
        """Whether `content` is what was written last as `name`."""
        return self._read(slug).get(name) == _digest(content)

    def noted(self, slug: Slug, name: str) -> bool:
        """Whether it is known what was written last as `name`."""
        return name in self._read(slug)

    def drop(self, slug: Slug, *names: str) -> None:
        """Forget files; without names the whole site."""
        hashes = self._read(slug)
        left = {name: digest for name, digest in hashes.items() if names and name not in names}
        if left == hashes and left:
            return
        self._hashes.pop(slug, None)
        if left:
            self._save(slug, left)
        else:
            remove(self._directory / f"{slug}.json")
            self._flusher.note(self._directory)

    def _read(self, slug: Slug) -> dict[str, str]:
        if slug not in self._hashes:
            try:
                found = json.loads((self._directory / f"{slug}.json").read_bytes())
                self._hashes[slug] = {str(name): str(digest) for name, digest in found.items()}
            except (OSError, ValueError, AttributeError):
                self._hashes[slug] = {}
        return self._hashes[slug]

    def _save(self, slug: Slug, hashes: dict[str, str]) -> None:
        self._hashes[slug] = hashes
        path = self._directory / f"{slug}.json"
        if write_file(path, json.dumps(hashes, sort_keys=True).encode(), mode=0o600):
            self._flusher.note(path)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
