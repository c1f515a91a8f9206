"""Avro's variable-length number: zigzag, seven bits a byte, the low ones first."""

from __future__ import annotations

LONGEST = 10
"""Bytes of the longest number: 64 bits."""


def read_long(data: bytes, at: int) -> tuple[int, int]:
    """The number at `at`, and where what follows it begins.

    Raises IndexError when the data ends within it, OverflowError when it has more than 64 bits.
    """
    byte = data[at]
    at += 1
    number, shift = byte & 0x7F, 7
    while byte >= 0x80:
        if shift > 63:
            raise OverflowError(f"a number of more than {LONGEST} bytes")
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        shift += 7
    if number >> 64:
        raise OverflowError("a number of more than 64 bits")
    return (number >> 1) ^ -(number & 1), at
