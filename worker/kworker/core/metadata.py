"""Commit metadata: which offsets above the committed one are finished, as a string a broker will store.

Promises: exact (what is decoded is what was encoded), versioned, at most `LIMIT` characters, and never a guess:
text that was not written by this format for this very offset decodes to nothing.

    "kw1" alphabet payload        alphabet: "w" = 15 bits a character, "a" = base64url
    payload = section [section]   section = crc32(4) varint(length of the rest) the rest
    first section: form(1) body   second section: the run mark (mark.py), when there is one
    form 0: bitmap, bit i of the body (least significant first) = offset base + i is finished
    form 1: varints, lengths of runs from base: unfinished, finished, unfinished ...

The checksums cover the base offset too, so metadata that a tool carried over to another offset is refused. A worker
that knows no mark reads the first section and does not see the second.
A broker allows 4095 UTF-16 units and refuses the offset beyond; at 32,767 it drops the connection
(measured on Kafka 4.3.1; `offset.metadata.max.bytes` is 4096).
"""

from __future__ import annotations

import base64
import binascii
import zlib
from bisect import bisect_right
from collections.abc import Sequence
from enum import StrEnum

LIMIT = 3500
"""Characters that a commit's metadata may have."""

_VERSION = "kw1"
_WIDE_BASE = 0x3400  # 32,768 code points from here on hold no surrogate, no control and no NUL
_BITMAP, _RUNS = 0, 1
_NOTHING = bytes([_RUNS])  # the body that says that nothing is finished
_OVERHEAD = 8  # checksum, length (at most 3 bytes for what fits), form


class Alphabet(StrEnum):
    """How bytes become text: `WIDE` where the broker keeps any character, `ASCII` where it counts bytes."""

    WIDE = "w"
    ASCII = "a"


def capacity(alphabet: Alphabet) -> int:
    """How many offsets a bitmap within `LIMIT` covers, whatever their pattern."""
    bits = 15 if alphabet is Alphabet.WIDE else 6
    return ((LIMIT - len(_VERSION) - 1) * bits // 8 - _OVERHEAD) * 8


class Intervals:
    """A set of offsets as half-open intervals in ascending order."""

    __slots__ = ("_bounds",)

    def __init__(self, bounds: Sequence[int] = ()) -> None:
        self._bounds = list(bounds)  # start, end, start, end ...

    def __contains__(self, offset: int) -> bool:
        return bisect_right(self._bounds, offset) % 2 == 1

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Intervals) and self._bounds == other._bounds

    def __hash__(self) -> int:
        return hash(tuple(self._bounds))

    def __bool__(self) -> bool:
        return bool(self._bounds)

    def __repr__(self) -> str:
        pairs = zip(self._bounds[::2], self._bounds[1::2], strict=True)
        return f"Intervals({', '.join(f'{start}..{end - 1}' for start, end in pairs)})"

    @property
    def end(self) -> int:
        """The first offset above all intervals; 0 when there are none."""
        return self._bounds[-1] if self._bounds else 0

    def above(self, offset: int) -> list[int]:
        """The bounds of what lies at or above `offset`."""
        place = bisect_right(self._bounds, offset)
        return [offset, *self._bounds[place:]] if place % 2 else self._bounds[place:]

    @property
    def bounds(self) -> list[int]:
        """start, end, start, end ... of the intervals."""
        return list(self._bounds)


def encode(base: int, bounds: Sequence[int], alphabet: Alphabet = Alphabet.WIDE, mark: bytes = b"") -> tuple[str, bool]:
    """Encode finished offsets, given as start, end, start, end ... (all >= base, ascending), and a mark.

    Returns the text ('' when there is nothing to say) and whether it holds all offsets: if they do not fit, the
    highest are left out, which costs a second run of those after a crash, never a lost task.
    """
    second = _section(base, mark) if mark else b""
    if not bounds:
        return _text(_section(base, _NOTHING) + second, alphabet) if mark else "", True
    room = capacity(alphabet) // 8 - len(second)
    body = _body(base, bounds)
    complete = len(body) - 1 <= room
    if not complete:
        low, high = 0, len(bounds) // 2  # the most intervals that fit: `low` fits, `high` does not
        while high - low > 1:
            middle = (low + high) // 2
            if len(_body(base, bounds[: middle * 2])) - 1 <= room:
                low = middle
            else:
                high = middle
        if low == 0:
            return encode(base, (), alphabet, mark)[0], False
        body = _body(base, bounds[: low * 2])
    return _text(_section(base, body) + second, alphabet), complete


def filler(base: int, bounds: Sequence[int], alphabet: Alphabet) -> str:
    """Metadata of exactly `LIMIT` characters that means the same as `bounds`: to probe what a broker keeps."""
    room = capacity(alphabet) // 8
    bits = _bitmap(base, bounds) if bounds else b""
    if len(bits) > room:
        return encode(base, bounds, alphabet)[0]
    return _text(_section(base, bytes([_BITMAP]) + bits.ljust(room, b"\0")), alphabet)


def decode(text: str | None, base: int) -> Intervals | None:
    """Read what `encode` wrote beside the offset `base`; None when it is foreign, damaged or of another offset."""
    found = read(text, base)
    return None if found is None else found[0]


def read(text: str | None, base: int) -> tuple[Intervals, bytes] | None:
    """The finished offsets, and the mark (empty when there is none); None as `decode`."""
    if not text:
        return Intervals(), b""
    if not text.startswith(_VERSION):
        return None
    payload = _bytes(text[len(_VERSION) :])
    if payload is None:
        return None
    body, rest = _checked(base, payload)
    if not body:
        return None
    if body[0] == _BITMAP:
        return Intervals(_bounds_of_bitmap(base, body[1:])), _checked(base, rest)[0]
    if body[0] == _RUNS:
        return Intervals(_bounds_of_runs(base, body[1:])), _checked(base, rest)[0]
    return None


def _body(base: int, bounds: Sequence[int]) -> bytes:
    runs = bytearray([_RUNS])
    at = base
    for bound in bounds:
        length = bound - at
        while length > 0x7F:
            runs.append(length & 0x7F | 0x80)
            length >>= 7
        runs.append(length)
        at = bound
    if (bounds[-1] - base + 7) // 8 < len(runs) - 1:
        return bytes([_BITMAP]) + _bitmap(base, bounds)
    return bytes(runs)


def _bitmap(base: int, bounds: Sequence[int]) -> bytes:
    # Through a string of binary digits: int(text, 2) is linear, while shifting a big integer per run is not.
    pieces = []
    at = base
    for index, bound in enumerate(bounds):
        pieces.append(("1" if index % 2 else "0") * (bound - at))
        at = bound
    digits = "".join(pieces)
    return int(digits[::-1], 2).to_bytes((len(digits) + 7) // 8, "little")


def _bounds_of_bitmap(base: int, bits: bytes) -> list[int]:
    digits = format(int.from_bytes(bits, "little"), "b")[::-1]
    bounds = []
    at = digits.find("1")
    wanted = "0"
    while at != -1:
        bounds.append(base + at)
        at = digits.find(wanted, at)
        wanted = "1" if wanted == "0" else "0"
    if len(bounds) % 2:
        bounds.append(base + len(digits))
    return bounds


def _bounds_of_runs(base: int, runs: bytes) -> list[int]:
    bounds = []
    at, place = base, 0
    while place < len(runs):
        length, place = _varint(runs, place)
        at += length
        bounds.append(at)
    return bounds


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while place < len(data):
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
    return value, place


def _checksum(base: int, body: bytes) -> bytes:
    return zlib.crc32(body, zlib.crc32(base.to_bytes(8, "big"))).to_bytes(4, "big")


def _section(base: int, content: bytes) -> bytes:
    length = bytearray()
    rest = len(content)
    while rest > 0x7F:
        length.append(rest & 0x7F | 0x80)
        rest >>= 7
    length.append(rest)
    return _checksum(base, content) + bytes(length) + content


def _checked(base: int, data: bytes) -> tuple[bytes, bytes]:
    """The content of the section that `data` begins with, and what follows it; empty when there is no such section."""
    length, start = _varint(data, 4)
    content = data[start : start + length]
    if len(content) != length or data[:4] != _checksum(base, content):
        return b"", b""
    return content, data[start + length :]


def _text(payload: bytes, alphabet: Alphabet) -> str:
    if alphabet is Alphabet.ASCII:
        return _VERSION + "a" + base64.urlsafe_b64encode(payload).decode().rstrip("=")
    digits = format(int.from_bytes(b"\1" + payload, "big"), "b")[1:]  # the 1 keeps leading zeros
    digits += "0" * (-len(digits) % 15)
    return _VERSION + "w" + "".join(chr(_WIDE_BASE + int(digits[i : i + 15], 2)) for i in range(0, len(digits), 15))


def _bytes(text: str) -> bytes | None:
    kind, data = text[:1], text[1:]
    if kind == "a":
        try:
            return base64.b64decode(data + "=" * (-len(data) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            return None
    if kind == "w" and all(_WIDE_BASE <= ord(char) < _WIDE_BASE + 32768 for char in data):
        digits = "".join(format(ord(char) - _WIDE_BASE, "015b") for char in data)
        digits = digits[: len(digits) // 8 * 8]
        return int(digits, 2).to_bytes(len(digits) // 8, "big") if digits else None
    return None
