"""What a JSON payload may not do to the worker, and how a refusal is told.

Promises: `check` runs before anything is built, takes time and memory in proportion to the payload, and costs a
usual message two searches at C speed. What msgspec refuses by itself is left to it (NaN, Infinity, 1e999, a BOM,
invalid UTF-8, lone surrogates, trailing bytes); `refusal` turns its error into ours. Of duplicate keys the last wins.
"""

from __future__ import annotations

import re

import msgspec

from kworker.codecs.limits import Limits
from kworker.errors import DecodeError
from kworker.task import Reason

MESSAGE_LENGTH = 500
"""Characters of an error message: it may quote names from the payload, never the payload."""

_FOLD = bytes.maketrans(b"{}", b"[]")
_NOT_BRACKETS = bytes(set(range(256)) - set(b'"[]{}'))
_NOT_ITEMS = bytes(set(range(256)) - set(b'"[{,'))
_STRING = re.compile(rb'"[^"]*"?')
_BYTE = re.compile(r"\(byte ([0-9]+)\)")
_DIGITS_AS_ZERO = bytes.maketrans(b"123456789", b"000000000")
_SAMPLES = 4
_ARRAY, _OBJECT = b"[{"


def check(value: bytes, limits: Limits) -> None:
    """Raise DecodeError (`too_large`, `too_deep`, `too_many_items`, `number`) if `value` is beyond `limits`.

    It says nothing of syntax. Nesting of malformed JSON may be seen up to twice as deep before it is refused.
    """
    # The usual message, one flat object, is known to be harmless after two looks for one byte; for an int they take a
    # fifth of what they take for bytes.
    if len(value) > limits.small or _ARRAY in value or _OBJECT in value[1:]:
        opened = value.count(b"[") + value.count(b"{")
        if len(value) > limits.small:
            _check_large(value, opened, limits)
        if opened > limits.max_depth and _is_deeper(_outside_strings(value, _NOT_BRACKETS, limits), limits.max_depth):
            raise _refused("too_deep", f"objects and arrays more than {limits.max_depth} deep")


def _check_large(value: bytes, opened: int, limits: Limits) -> None:
    if len(value) > limits.max_bytes:
        raise _refused("too_large", f"payload of {len(value)} bytes: at most {limits.max_bytes} are read")
    if _may_have_long_number(value, limits.max_digits) and _has_long_number(value, limits):
        raise _refused("number", f"a number of more than {limits.max_digits} digits")
    # Every element follows a comma or an opening bracket; those in strings are told apart only when it matters.
    if opened + value.count(b",") > limits.max_items:
        items = len(_outside_strings(value, _NOT_ITEMS, limits))
        if items > limits.max_items:
            raise _refused("too_many_items", f"payload of {items} items: at most {limits.max_items} are read")


def _outside_strings(value: bytes, unwanted: bytes, limits: Limits) -> bytes:
    """What is left of `value` without its strings and the bytes `unwanted`, with { } written [ ]."""
    text = _unescaped(value).translate(_FOLD, unwanted)
    # Two quotes in a row change no other byte from inside a string to outside: cheap, and most of the strings.
    text = text.replace(b'""', b"")
    # An element has at most two strings, a key and a value: more quotes than this prove too many elements,
    # before their pieces are in memory.
    if text.count(b'"') > 4 * limits.max_items + 2:
        raise _refused("too_many_items", f"payload of more than {limits.max_items} items")
    return _STRING.sub(b"", text)


def _unescaped(value: bytes) -> bytes:
    """`value` without escaped backslashes and quotes: every quote left begins or ends a string."""
    return value.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in value else value


def _is_deeper(brackets: bytes, depth: int) -> bool:
    """Whether `brackets` nest more than `depth` deep: each round takes away the innermost pairs."""
    for _ in range(depth):
        outer = brackets.replace(b"[]", b"")
        if len(outer) == len(brackets):
            break
        brackets = outer
    return b"[]" in brackets or brackets.count(b"[") > depth


def _may_have_long_number(value: bytes, digits: int) -> bool:
    """False only if no run of digits is longer than `digits`: such a run fills a few samples in a row."""
    samples = value[:: max(1, digits // _SAMPLES)].translate(_DIGITS_AS_ZERO)
    return b"0" * min(_SAMPLES, digits) in samples


def _has_long_number(value: bytes, limits: Limits) -> bool:
    # Looking behind keeps it linear: a run of digits is tried once, not from each of its digits.
    run = rb"(?<![0-9])[0-9]{%d}" % (limits.max_digits + 1)
    return re.search(run, _outside_strings(value, b"", limits)) is not None


def refusal(error: Exception, value: bytes) -> DecodeError:
    """Why msgspec could not read `value`, as the DecodeError to raise: INVALID for a type, else UNDECODABLE."""
    if isinstance(error, RecursionError):
        return _refused("too_deep", "objects and arrays nested too deep")
    if isinstance(error, UnicodeError):
        return _refused("encoding", "not UTF-8 text")
    text = str(error)
    # msgspec reports what does not fit into a number as a validation error: to us it is no readable number.
    if text.startswith(("Number out of range", "Integer value out of range")):
        return _refused("number", text)
    if isinstance(error, msgspec.ValidationError):
        return DecodeError(Reason.INVALID, "schema", one_line(text))
    place = _BYTE.search(text)
    if place and value[int(place[1]) :].startswith((b"NaN", b"Infinity")):
        return _refused("number", f"NaN and Infinity are not JSON {place[0]}")
    return _refused("syntax", text)


def one_line(text: str) -> str:
    """`text` cut to `MESSAGE_LENGTH`, with control characters escaped."""
    text = text if len(text) <= MESSAGE_LENGTH else text[: MESSAGE_LENGTH - 3] + "..."
    if text.isprintable():
        return text
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    return escaped[:MESSAGE_LENGTH]


def _refused(code: str, message: str) -> DecodeError:
    return DecodeError(Reason.UNDECODABLE, code, one_line(message))
