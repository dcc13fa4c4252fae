"""PURE: the packet in which nginx hands a request to a uWSGI server: a head of four bytes, then the variables.

The head is a modifier (0: a request), the length of the variables (16 bits, little endian) and another modifier. Each
name and each value follows its own length. A body comes after the packet.
"""

import struct
from collections.abc import Mapping

HEAD_BYTES = 4
_HEAD = struct.Struct("<BHB")
_LENGTH = struct.Struct("<H")
_LENGTH_MAX = 0xFFFF


def encode_packet(variables: Mapping[str, str]) -> bytes:
    """Return the packet of a request. `ValueError` when it is too long, or a text is not of latin-1."""
    block = b"".join(_encode_text(name) + _encode_text(value) for name, value in variables.items())
    if len(block) > _LENGTH_MAX:
        raise ValueError(f"the variables of a request have at most {_LENGTH_MAX} bytes, not {len(block)}")
    return _HEAD.pack(0, len(block), 0) + block


def parse_head(head: bytes) -> int:
    """Return how many bytes of variables follow the head. `ValueError` for anything but a request."""
    if len(head) != HEAD_BYTES:
        raise ValueError(f"a packet's head has {HEAD_BYTES} bytes, not {len(head)}")
    modifier, size, _ = _HEAD.unpack(head)
    if modifier != 0:
        raise ValueError(f"a packet of kind {modifier} is no request")
    return int(size)


def parse_variables(block: bytes) -> dict[str, str]:
    """Return the variables of a request, as latin-1. `ValueError` when a length leads beyond the end.

    A name that comes twice has its last value, as in uWSGI.
    """
    variables: dict[str, str] = {}
    position = 0
    while position < len(block):
        name, position = _parse_text(block, position)
        variables[name], position = _parse_text(block, position)
    return variables


def _encode_text(text: str) -> bytes:
    encoded = text.encode("latin-1")
    if len(encoded) > _LENGTH_MAX:
        raise ValueError(f"a variable has at most {_LENGTH_MAX} bytes, not {len(encoded)}")
    return _LENGTH.pack(len(encoded)) + encoded


def _parse_text(block: bytes, position: int) -> tuple[str, int]:
    begin = position + _LENGTH.size
    if begin > len(block):
        raise ValueError("the variables end inside a length")
    (length,) = _LENGTH.unpack_from(block, position)
    end = begin + length
    if end > len(block):
        raise ValueError("the variables end inside a text")
    return block[begin:end].decode("latin-1"), end
