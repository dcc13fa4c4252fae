"""The packet in which nginx hands on a request: what is encoded is parsed, and nothing else is believed."""

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantry.spec.uwsgi import HEAD_BYTES, encode_packet, parse_head, parse_variables

texts = st.text(st.characters(max_codepoint=255), max_size=40)


@given(st.dictionaries(texts, texts, max_size=20))
def test_what_is_encoded_is_parsed(variables: dict[str, str]) -> None:
    packet = encode_packet(variables)
    assert parse_head(packet[:HEAD_BYTES]) == len(packet) - HEAD_BYTES
    assert parse_variables(packet[HEAD_BYTES:]) == variables


@given(st.binary(max_size=200))
def test_any_bytes_are_variables_or_a_value_error(block: bytes) -> None:
    with contextlib.suppress(ValueError):
        variables = parse_variables(block)
        assert sum(len(name) + len(value) + 4 for name, value in variables.items()) <= len(block)


@given(st.dictionaries(texts, texts, min_size=1, max_size=5), st.data())
def test_a_block_that_was_cut_off_is_refused(variables: dict[str, str], data: st.DataObject) -> None:
    block = encode_packet(variables)[HEAD_BYTES:]
    name, value = next(reversed(variables.items()))
    last = 4 + len(name) + len(value)
    cut = data.draw(st.integers(1, last - 1))
    with pytest.raises(ValueError, match="end inside"):
        parse_variables(block[:-cut])


def test_a_head_of_anything_else_is_refused() -> None:
    for head in (struct.pack("<BHB", 1, 10, 0), b"GET", b""):
        with pytest.raises(ValueError, match=r"head has|is no request"):
            parse_head(head)
    with pytest.raises(ValueError, match="at most 65535 bytes"):
        encode_packet({str(number): "x" * 60_000 for number in range(2)})
