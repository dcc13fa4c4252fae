"""What is heard, and how soon it is tried again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantry.node.listener import Hint, parse_head, parse_payload, reconnect_delay


@pytest.mark.parametrize("payload", ["", "{", "[]", "null", '{"revision": 3}', '{"epoch": "e", "revision": "x"}', "7"])
def test_whatever_is_said_is_at_least_a_hint(payload: str) -> None:
    assert parse_payload(payload) == Hint(None, None)


def test_a_notification_names_the_head() -> None:
    assert parse_payload('{"epoch": "e", "revision": 12, "type": "site.created"}') == Hint("e", 12)
    assert parse_head({"epoch": "e", "revision": 12}) == Hint("e", 12)
    assert parse_head(None) == Hint(None, None)


@given(st.integers(0, 1000), st.floats(0, 1))
def test_reconnecting_is_never_a_storm_and_never_far_away(attempt: int, jitter: float) -> None:
    assert 0.5 <= reconnect_delay(attempt, jitter) <= 6.0
