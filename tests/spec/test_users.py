"""Every number has a user id of its own, inside its home's range, or none at all."""

from collections.abc import Callable

import pytest

from tenantry.spec.errors import UserIdsExhausted
from tenantry.spec.users import (
    RANGE_SIZE,
    SMALL_BASE,
    SMALL_SIZE,
    control_uid,
    project_uid,
    range_size,
    redis_uid,
    site_uid,
)

BASE = 1_900_000_000


@pytest.mark.parametrize(("base", "size"), [(BASE, 100_000), (SMALL_BASE, 25_000)])
def test_the_last_site_has_the_last_id_of_the_range(base: int, size: int) -> None:
    assert range_size(base) == size
    last = size - 20_001
    assert site_uid(base, last) == base + size - 1
    with pytest.raises(UserIdsExhausted, match=f"no user id for site number {last + 1}: its range ends at {last:,}"):
        site_uid(base, last + 1)


def test_the_last_project_comes_before_the_first_site() -> None:
    assert project_uid(BASE, 9_999) == site_uid(BASE, 0) - 1
    with pytest.raises(UserIdsExhausted, match="project number 10000"):
        project_uid(BASE, 10_000)


@pytest.mark.parametrize("uid_of", [project_uid, site_uid])
def test_a_negative_number_does_not_lead_below(uid_of: Callable[[int, int], int]) -> None:
    with pytest.raises(UserIdsExhausted):
        uid_of(BASE, -1)


@pytest.mark.parametrize("base", [BASE, SMALL_BASE])
def test_no_two_have_one_id(base: int) -> None:
    sites = {site_uid(base, number) for number in range(1, range_size(base) - 20_000)}
    projects = {project_uid(base, number) for number in range(1, 10_000)}
    single = {control_uid(base), redis_uid(base)}
    assert len(sites | projects | single) == len(sites) + len(projects) + len(single)
    assert all(base <= uid < base + range_size(base) for uid in sites | projects | single)


def test_recorded_homes_keep_their_numbers() -> None:
    """Files on disk belong to these ids: changing one of them takes a home's files from their owners."""
    found = control_uid(BASE), redis_uid(BASE), project_uid(BASE, 1), site_uid(BASE, 17)
    assert found == (1_900_000_001, 1_900_000_002, 1_900_010_001, 1_900_020_017)
    assert (RANGE_SIZE, SMALL_BASE, SMALL_SIZE) == (100_000, 20_000, 25_000)
