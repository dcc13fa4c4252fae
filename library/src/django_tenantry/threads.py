"""The threads that run synchronous code: as many as the site was given, whoever asks.

Left alone, asgiref makes one for each request at a time, and each has a database connection of its own: a hundred
visitors at once would use up what the site may have. A request keeps its thread from beginning to end, which
synchronous code relies on (connections, `threading.local`).
"""

from dataclasses import dataclass, field

from asgiref.sync import SyncToAsync, ThreadSensitiveContext


@dataclass(eq=False)
class SyncThread:
    """One of the threads. Its context is never entered, so never left: asgiref keeps the thread as long as it is."""

    context: ThreadSensitiveContext = field(default_factory=ThreadSensitiveContext)
    unanswered: int = 0

    def bind(self) -> None:
        """Have the current task's synchronous code run here."""
        SyncToAsync.thread_sensitive_context.set(self.context)


class SyncThreads:
    """Shares out threads to requests."""

    def __init__(self, count: int) -> None:
        self._threads = [SyncThread() for _ in range(count)]

    @property
    def count(self) -> int:
        return len(self._threads)

    @property
    def unanswered(self) -> int:
        """How many requests have a thread and no answer yet."""
        return sum(thread.unanswered for thread in self._threads)

    def least_busy(self) -> SyncThread:
        """Return the thread with the fewest unanswered requests: a stream is open for long and seldom needs its own."""
        return min(self._threads, key=lambda thread: thread.unanswered)

    def replace(self, stuck: SyncThread) -> None:
        """Leave a thread to what keeps it, so that nobody else waits behind that."""
        if stuck in self._threads:
            self._threads[self._threads.index(stuck)] = SyncThread()
