"""PURE: whether notifications reach this node's listening connection.

A pooler in transaction mode takes LISTEN and delivers nothing, without an error. So it is tried: some time after
LISTEN somebody's notification proves it, else this node sends one to all that listen (an *echo*; one node's proves it
for every other, so a thousand that come back together send a few). What arrives while a query of the connection itself
is under way proves nothing: a pooler hands that over, too.
"""

import enum
import math

ECHO_SPREAD_SECONDS = 2.0  # within which nodes that begin together send their echo, if it is still needed
ECHO_ANSWER_SECONDS = 2.0
AGAIN_SECONDS = 60.0  # between tries where they do not arrive
OWN_QUERY_SECONDS = 0.05  # what is heard this soon after a query may have come with its answer
ECHOES = 2  # unanswered in a row before it is said that none arrives: a machine under load may miss one


class _Step(enum.Enum):
    PROVEN = "proven"
    SENDING = "sending"
    WAITING = "waiting"


class Hearing:
    """What is known of one session, under the caller's clock. `arrives` None: not known yet."""

    def __init__(self, now: float, jitter: float) -> None:
        self.arrives: bool | None = None
        self._step = _Step.SENDING
        self._due = now + 2 * OWN_QUERY_SECONDS + ECHO_SPREAD_SECONDS * jitter
        self._unanswered = 0
        self._queried_at = now
        self._epoch: str | None = None
        self._expected = 0  # the head before the latest, of which a notification must have come by now
        self._told = 0

    @property
    def due(self) -> float:
        """When to call `step`; infinite when nothing is to be done."""
        return self._due

    def step(self, now: float) -> bool:
        """It is time for the next step; returns whether an echo is to be sent."""
        if self._step is _Step.SENDING:
            self._step, self._due = _Step.WAITING, now + ECHO_ANSWER_SECONDS
            return True
        self._unanswered += 1
        if self._unanswered < ECHOES:
            self._step, self._due = _Step.SENDING, now
        else:
            self.arrives = False
            self._step, self._due = _Step.SENDING, now + AGAIN_SECONDS
        return False

    def unsent(self, now: float) -> None:
        """The echo could not be sent: that says nothing."""
        if self._step is _Step.WAITING:
            self._step, self._due = _Step.SENDING, now + ECHO_ANSWER_SECONDS

    def heard(self, now: float, revision: int | None = None) -> None:
        """A notification arrived; `revision` is the one it told of."""
        self._told = max(self._told, revision or 0)
        if now - self._queried_at > OWN_QUERY_SECONDS:
            self.arrives = True
            self._unanswered = 0
            self._step, self._due = _Step.PROVEN, math.inf
        elif self._step is _Step.WAITING:
            self._step, self._due = _Step.SENDING, now + 2 * OWN_QUERY_SECONDS  # no proof, and no answer missing

    def beaten(self, now: float, epoch: str | None, revision: int | None) -> None:
        """A heartbeat answered the head. A change of which no notification came by the next beat calls for a test."""
        self._queried_at = now
        if epoch != self._epoch:
            self._epoch, self._expected, self._told = epoch, revision or 0, revision or 0
        if self._expected > self._told and self._step is _Step.PROVEN:
            self._step, self._due = _Step.SENDING, now
        if self._expected > self._told:
            self._told = self._expected  # tested once for it
        self._expected = revision or 0
