"""The limits of a JSON payload and the code of every refusal (FAULTS.md, bad input 2 to 8)."""

from __future__ import annotations

import json
import random
import sys
import tracemalloc
from itertools import chain, product

import msgspec
import pytest

from kworker.codecs.json import MESSAGE_LENGTH, check, refusal
from kworker.codecs.limits import Limits
from kworker.errors import DecodeError
from kworker.task import Reason

DEFAULT = Limits()
SMALL = Limits(max_bytes=10_000, max_depth=3, max_items=10, max_digits=20)


def code(value: bytes, limits: Limits = DEFAULT) -> str:
    """What a payload is refused with, limits first, as the worker does it; '' when it is read."""
    try:
        check(value, limits)
        msgspec.json.decode(value)
    except DecodeError as error:
        found = error
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        found = refusal(error, value)
    else:
        return ""
    assert found.reason is Reason.UNDECODABLE
    assert len(str(found)) <= MESSAGE_LENGTH
    assert str(found).isprintable()
    return found.code


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"NaN", "number"),
        (b'{"a":NaN}', "number"),
        (b"[1, -Infinity]", "number"),
        (b"Infinity", "number"),
        (b"1e999", "number"),
        (b"-1e999", "number"),
        (b"1e" + b"9" * 100, "number"),
        (b"1" * 4300, ""),
        (b"1" * 4301, "number"),
        (b"1" * 100_000, "number"),
        (b'{"a":-' + b"1" * 100_000 + b"}", "number"),
        (b"1." + b"1" * 100_000, "number"),
        (b'"' + b"1" * 100_000 + b'"', ""),
        (b'"' + b"1" * 100_000 + b'\\"", 1', "syntax"),
        (b"18446744073709551616", ""),
        (b"1e-999", ""),
        (b"01", "syntax"),
        (b"+1", "syntax"),
    ],
)
def test_numbers(value: bytes, expected: str) -> None:
    assert code(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b'"\xff"', "encoding"),
        (b'"\xc0\x80"', "encoding"),  # an over-long NUL
        (b'"\xed\xa0\x80"', "encoding"),  # a surrogate in UTF-8
        (b'"\\ud800"', "syntax"),
        (b'"\\udc00\\ud800"', "syntax"),
        (b'"\\ud83d\\ude00"', ""),
        (b"\xef\xbb\xbf{}", "syntax"),
        ("{}".encode("utf-16"), "syntax"),
        (b'"\x00"', "syntax"),
        (b'"\\u0000"', ""),
        (b"{}\x00", "syntax"),
        (b"{} {}", "syntax"),
        (b"[1,]", "syntax"),
        (b"  ", "syntax"),
        (b"{'a':1}", "syntax"),
    ],
)
def test_text(value: bytes, expected: str) -> None:
    assert code(value) == expected


def test_of_duplicate_keys_the_last_wins() -> None:
    check(b'{"a":1,"a":2}', DEFAULT)
    assert msgspec.json.decode(b'{"a":1,"a":2}') == {"a": 2}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (nested(64), ""),
        (nested(65), "too_deep"),
        (nested(100_000), "too_deep"),
        (b"[" * 64, "syntax"),
        (b"[" * 65, "too_deep"),
        (b"[" * 100_000, "too_deep"),
        (b'{"a":' * 100_000, "too_deep"),
        (b'{"a":' * 64 + b"1" + b"}" * 64, ""),
        (b'[{"a":' * 33 + b"1" + b"}]" * 33, "too_deep"),
        (b'"' + b"[" * 100_000 + b'"', ""),
        (b'"\\"' + b"[" * 1000 + b'"', ""),
        (b'"\\\\",' + b"[" * 1000, "too_deep"),
        (b"[" + b"[]," * 1000 + b"[]]", ""),
        (b"]" * 1000 + b"[" * 1000, "too_deep"),
    ],
)
def test_depth(value: bytes, expected: str) -> None:
    assert code(value) == expected


def test_a_recursion_error_is_told_as_too_deep() -> None:
    with pytest.raises(RecursionError) as caught:
        msgspec.json.decode(nested(100_000))
    assert refusal(caught.value, b"").code == "too_deep"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"[" + b"1," * 199_999 + b"1]", ""),
        (b"[" + b"1," * 200_000 + b"1]", "too_many_items"),
        (b"[" + b"{}," * (3 * 1024 * 1024), "too_large"),  # 9 MiB of {}
        (b"[" + b"{}," * (2 * 1024 * 1024), "too_many_items"),
        (b'["' + b"[{," * 300_000 + b'"]', ""),
        (b'["' + b'\\",' * 300_000 + b'"]', ""),
        (b'["' + b'\\\\",' * 300_000 + b'"]', "syntax"),
        (b'["' + b'\\\\","' * 300_000 + b'"]', "too_many_items"),
        (b"[" + b'"["[]' * 1_000_000, "too_many_items"),
        (b'"' + b"x" * (8 * 1024 * 1024 - 2) + b'"', ""),
        (b'"' + b"x" * (8 * 1024 * 1024 - 1) + b'"', "too_large"),
    ],
)
def test_size_and_items(value: bytes, expected: str) -> None:
    assert code(value) == expected


@pytest.mark.parametrize(
    "value",
    [
        b"[" + b",".join([b'{"a":1}'] * 99_990) + b"]",
        b"[" + b",".join([b'{"a":' * 60 + b"0" + b"}" * 60] * 3_270) + b"]",
        b"{" + b",".join(b'"%06x":%d' % (i, i + 1000) for i in range(199_990)) + b"}",
        b'"' + b"a" * (8 * 1024 * 1024 - 6) + "😀".encode() + b'"',
        b"[" + b"{}," * (2 * 1024 * 1024),
        b"[" + b'"["[]' * 1_600_000,
        b'"' + b"1" * 5000 + b'"' + b'"x"1,' * 1_600_000,
    ],
    ids=["objects", "chains", "keys", "wide-text", "empty-objects", "strings", "numbers"],
)
def test_a_payload_within_the_limits_takes_less_than_64_mib(value: bytes) -> None:
    tracemalloc.start()
    try:
        code(value)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 * 1024 * 1024


def measure(document: object) -> tuple[int, int]:
    """Depth and items of a document, counted one by one."""
    children = list(document.values() if isinstance(document, dict) else document if isinstance(document, list) else [])
    inner = [measure(child) for child in children]
    container = isinstance(document, dict | list)
    own = max(1, len(children)) if container else 0
    return container + max((depth for depth, _ in inner), default=0), own + sum(items for _, items in inner)


def document(chance: random.Random, depth: int) -> object:
    text = "".join(chance.choices('ab"\\[]{},:\n é😀1', k=chance.randrange(6)))
    kind = chance.randrange(6) if depth else 0
    if kind >= 4:
        return [document(chance, depth - 1) for _ in range(chance.randrange(5))]
    if kind >= 2:
        return {text + str(i): document(chance, depth - 1) for i in range(chance.randrange(4))}
    return chance.choice([text, chance.randrange(-(10**9), 10**9), None, True, 1.5])


def test_limits_are_exact_for_every_valid_document() -> None:
    chance = random.Random(15)
    seen = set()
    for _ in range(5_000):
        value = document(chance, 5)
        depth, items = measure(value)
        expected = {
            name
            for name, beyond in (("too_deep", depth > SMALL.max_depth), ("too_many_items", items > SMALL.max_items))
            if beyond
        }
        found = code(json.dumps(value, ensure_ascii=chance.random() < 0.5).encode(), SMALL)
        assert found in expected or (not found and not expected), (value, found, expected)
        seen.add(found)
    assert seen == {"", "too_deep", "too_many_items"}


def test_the_limit_of_digits_is_exact_at_every_place() -> None:
    for before, digits in product(range(45), range(15, 30)):
        value = b" " * before + b"1" * digits + b" " * 30
        assert code(value, SMALL) == ("number" if digits > 20 else "")
        assert code(b'"' + value + b'"', SMALL) == ""


def test_long_numbers_are_refused_where_a_plugin_lifted_the_limit_of_the_interpreter() -> None:
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        assert code(b"1" * 100_000) == "number"
    finally:
        sys.set_int_max_str_digits(limit)


def test_malformed_input_is_refused_or_left_to_the_reader() -> None:
    """Every short text over the bytes that matter: the checks end, and never say too_deep of three brackets."""
    for length in range(7):
        for text in product(b'[]"\\,', repeat=length):
            value = bytes(text)
            found = code(value, Limits(max_depth=3))
            assert found in {"", "syntax", "too_deep"}
            assert found != "too_deep" or value.count(b"[") > 3, value


def test_messages_are_one_short_line() -> None:
    name = "\x1b[31m\r\n" + "x" * 5000
    value = json.dumps({name: 1}).encode()

    class Empty(msgspec.Struct, forbid_unknown_fields=True):
        pass

    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.json.decode(value, type=Empty)
    text = str(refusal(caught.value, value))
    assert len(text) <= MESSAGE_LENGTH
    assert text.isprintable()
    assert "\\x1b[31m\\r\\n" in text


def test_every_code_is_reached() -> None:
    values = chain([b"NaN", b'"\xff"', b"[1,]", nested(65)], [b"[" + b"1," * 200_001, b" " * 9_000_000])
    assert {code(value) for value in values} == {
        "number",
        "encoding",
        "syntax",
        "too_deep",
        "too_many_items",
        "too_large",
    }
