"""User ids of a home that runs as root: the one place that knows which number is whose. A uid is also the gid.

    base + 1                  control's web processes
    base + 2                  Redis
    base + 10,000 + number    builds of project `number`, up to the sites
    base + 20,000 + number    site `number`, up to the end of the home's range

Numbers of projects and sites are never used again, so a home has room for so many over its whole life. Invariant:
what these functions return lies in its own part of the home's range; a uid past it would be another site's or home's.
"""

from tenantry.spec.errors import UserIdsExhausted

RANGE_SIZE = 100_000  # of one home
# Inside a container with a small uid map (65,536 ids) there is one range, with room for some thousands of sites.
SMALL_BASE = 20_000
SMALL_SIZE = 25_000

CONTROL = 1
REDIS = 2
_PROJECTS = 10_000
_SITES = 20_000


def range_size(base: int) -> int:
    """Return how many ids belong to the home whose first one is `base`."""
    return SMALL_SIZE if base == SMALL_BASE else RANGE_SIZE


def control_uid(base: int) -> int:
    """Return the uid of control's web processes."""
    return base + CONTROL


def redis_uid(base: int) -> int:
    """Return the uid of the home's Redis."""
    return base + REDIS


def project_uid(base: int, number: int) -> int:
    """Return the uid that builds project `number`; `UserIdsExhausted` when the number leads into the sites' ids."""
    return base + _PROJECTS + _within(number, _SITES - _PROJECTS - 1, "project")


def site_uid(base: int, number: int) -> int:
    """Return the uid of site `number`; `UserIdsExhausted` when the number leads out of the home's range."""
    return base + _SITES + _within(number, range_size(base) - _SITES - 1, "site")


def _within(number: int, last: int, kind: str) -> int:
    if not 0 <= number <= last:
        raise UserIdsExhausted(
            f"This platform has no user id for {kind} number {number}: its range ends at {last:,}, and the number of a "
            f"{kind} that was removed is not used again. Start another platform with a home of its own (--home)."
        )
    return number
