"""What `agent_v1.desired` says of limits and of modes, checked by the node."""

from datetime import UTC, datetime

import pytest

from tenantry.spec.errors import InvalidDocument
from tenantry.spec.limits import BOUNDS, Limits
from tenantry.spec.modes import ModeOptions


def test_what_is_missing_has_the_default_and_what_is_unknown_is_left_out() -> None:
    assert Limits.from_document(None) == Limits()
    assert Limits.from_document({"idle_seconds": 5, "of_the_future": 1}) == Limits(idle_seconds=5)
    assert set(BOUNDS) == set(Limits.__dataclass_fields__)


@pytest.mark.parametrize("value", ["5", True, -1, 10**9, 1.5])
def test_a_limit_that_is_none_is_refused(value: object) -> None:
    with pytest.raises(InvalidDocument, match="memory_mb"):
        Limits.from_document({"memory_mb": value})


def test_options_of_a_mode() -> None:
    document = {"message": "Back at <noon>", "until": "2030-01-01T12:00:00+00:00", "networks": ["10.0.0.0/8"]}
    options = ModeOptions.from_document(document)
    assert options.until == datetime(2030, 1, 1, 12, tzinfo=UTC)
    assert [str(network) for network in options.networks] == ["10.0.0.0/8"]
    assert ModeOptions.from_document(None) == ModeOptions.from_document({}) == ModeOptions()


@pytest.mark.parametrize(
    "document", [{"until": "2030-01-01"}, {"networks": ["10.0.0.1/8"]}, {"retry_after_seconds": -1}, []]
)
def test_options_that_are_none_are_refused(document: object) -> None:
    with pytest.raises(InvalidDocument, match="mode_options"):
        ModeOptions.from_document(document)
