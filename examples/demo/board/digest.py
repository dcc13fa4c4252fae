"""The board in numbers: costly enough to be cached, plain enough to be checked."""

import re
import time
from collections import Counter
from typing import Any

from django.core.cache import cache
from django.db.models import Count
from django.utils import timezone

from board.models import Note, Upload

KEY = "digest"
KEPT_SECONDS = 60
_WORD = re.compile(r"[^\W\d_]{4,}")


def read() -> tuple[dict[str, Any], bool]:
    """Return the digest and whether it came from the cache. It may be up to KEPT_SECONDS old."""
    cached = cache.get(KEY)
    if cached is not None:
        return cached, True
    digest = compute()
    cache.set(KEY, digest, KEPT_SECONDS)
    return digest, False


def forget() -> None:
    cache.delete(KEY)


def compute() -> dict[str, Any]:
    """Count from the database: notes, authors, words, files, the busiest authors and the commonest words."""
    began = time.perf_counter()
    words = Counter[str]()
    for text in Note.objects.values_list("text", flat=True).order_by().iterator():
        words.update(word.lower() for word in _WORD.findall(text))
    authors = Note.objects.order_by().values("author").annotate(notes=Count("pk")).order_by("-notes", "author")
    return {
        "notes": Note.objects.count(),
        "authors": authors.count(),
        "words": sum(words.values()),
        "files": Upload.objects.count(),
        "busiest": bars([(row["author"], row["notes"]) for row in authors[:5]]),
        "commonest": bars(words.most_common(8)),
        "computed_at": timezone.now(),
        "milliseconds": (time.perf_counter() - began) * 1000,
    }


def bars(counts: list[tuple[str, int]]) -> list[dict[str, Any]]:
    """Each name with its count and its share of the largest, in percent."""
    largest = max((count for _, count in counts), default=1)
    return [{"name": name, "count": count, "percent": round(100 * count / largest)} for name, count in counts]
