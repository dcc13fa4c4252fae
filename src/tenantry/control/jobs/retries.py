"""When a job is tried again, and what people are told when it is not."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from procrastinate import BaseRetryStrategy, JobContext, RetryDecision
from procrastinate.jobs import Job

ATTEMPTS = 6  # with the waits below: about a minute, longer than a restart of PostgreSQL or Redis
LONGEST_WAIT_SECONDS = 30


class Terminal(Exception):
    """Trying again cannot help. The message is for a person."""


class Interrupted(Exception):
    """The worker is ending; the job goes on when it is back."""


class Retries(BaseRetryStrategy):
    """An interrupted job at once and always; a terminal failure never; anything else a few times, ever later."""

    def get_retry_decision(self, *, exception: BaseException, job: Job) -> RetryDecision | None:
        if isinstance(exception, Interrupted):
            return RetryDecision(retry_in={"seconds": 0})
        if isinstance(exception, Terminal) or not isinstance(exception, Exception) or is_last(job.attempts):
            return None
        return RetryDecision(retry_in={"seconds": min(2**job.attempts, LONGEST_WAIT_SECONDS)})


def is_last(attempts: int) -> bool:
    """True when a job with so many earlier attempts is in its last one."""
    return attempts + 1 >= ATTEMPTS


@contextmanager
def reported(context: JobContext, report: Callable[[str], None]) -> Iterator[None]:
    """Hand the message of a failure that is final to `report`; every failure passes on to procrastinate."""
    try:
        yield
    except Interrupted:
        raise
    except Terminal as error:
        report(str(error))
        raise
    except Exception as error:
        if is_last(context.job.attempts):
            report(f"{type(error).__name__}: {error}")
        raise
