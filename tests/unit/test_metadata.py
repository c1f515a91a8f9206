"""Commit metadata by example: what is refused, what is left out, and what a probe writes."""

from __future__ import annotations

import base64

import pytest

from kworker.core.metadata import LIMIT, Alphabet, Intervals, capacity, decode, encode, filler

ALPHABETS = list(Alphabet)
BASE = 123_456


def bounds_of(offsets: range) -> list[int]:
    return [bound for offset in offsets for bound in (offset, offset + 1)]


def test_nothing_finished_is_no_text() -> None:
    assert encode(BASE, []) == ("", True)
    assert decode("", BASE) == Intervals()
    assert decode(None, BASE) == Intervals()


def test_what_a_bitmap_holds_is_what_the_design_counts_on() -> None:
    assert capacity(Alphabet.WIDE) == 52_376
    assert capacity(Alphabet.ASCII) == 20_912


@pytest.mark.parametrize("alphabet", ALPHABETS)
@pytest.mark.parametrize("step", [2, 3, 7])
def test_the_worst_pattern_fits_up_to_the_capacity(alphabet: Alphabet, step: int) -> None:
    bounds = bounds_of(range(BASE, BASE + capacity(alphabet), step))
    text, complete = encode(BASE, bounds, alphabet)
    assert complete
    assert len(text) <= LIMIT
    assert decode(text, BASE) == Intervals(bounds)


@pytest.mark.parametrize("alphabet", ALPHABETS)
def test_what_does_not_fit_leaves_the_highest_out(alphabet: Alphabet) -> None:
    bounds = bounds_of(range(BASE + 1, BASE + 3 * capacity(alphabet), 2))
    text, complete = encode(BASE, bounds, alphabet)
    kept = decode(text, BASE)
    assert not complete
    assert len(text) <= LIMIT
    assert kept is not None
    assert kept.bounds == bounds[: len(kept.bounds)]
    assert kept.end > BASE + capacity(alphabet) - 16


@pytest.mark.parametrize("alphabet", ALPHABETS)
def test_a_long_run_costs_a_few_characters(alphabet: Alphabet) -> None:
    text, complete = encode(BASE, [BASE + 1, BASE + 10_000_000], alphabet)
    assert complete
    assert len(text) < 25


@pytest.mark.parametrize("alphabet", ALPHABETS)
def test_only_characters_that_a_broker_keeps(alphabet: Alphabet) -> None:
    text, _ = encode(BASE, bounds_of(range(BASE, BASE + 9_000, 3)), alphabet)
    assert text.isprintable() or alphabet is Alphabet.WIDE
    assert len(text) == len(text.encode("utf-16-le")) // 2, "a broker counts UTF-16 units"
    assert not any(0xD800 <= ord(char) < 0xE000 or char == "\0" for char in text)
    assert text.isascii() is (alphabet is Alphabet.ASCII)


@pytest.mark.parametrize(
    "text",
    [
        "a tool was here",
        '{"offset": 5}',
        "kw1",
        "kw1w",
        "kw1a",
        "kw1x\u3400\u3400\u3400\u3400\u3400\u3400\u3400",
        "kw1w\u3400\u3400\u3400\u3400\u3400\u3400\u3400",
        "kw1aAAAAAAAAAAAA",
        "kw1aAAAA AAAA",
        "kw1w\ud800\udfff",
        "kw1w" + "\u3400" * 4091,
        "kw2aAAAAAAAAAAAA",
        "\0",
    ],
)
def test_foreign_text_is_nothing(text: str) -> None:
    assert decode(text, BASE) is None


@pytest.mark.parametrize("alphabet", ALPHABETS)
def test_a_text_of_another_offset_is_nothing(alphabet: Alphabet) -> None:
    text, _ = encode(BASE, [BASE + 3, BASE + 5], alphabet)
    assert decode(text, BASE + 1) is None
    assert decode(text, 0) is None


def test_a_form_that_is_not_known_yet_is_nothing() -> None:
    text, _ = encode(0, [1, 2], Alphabet.ASCII)
    payload = bytearray(base64.urlsafe_b64decode(text[4:] + "=" * (-len(text[4:]) % 4)))
    payload[5] = 2
    assert decode("kw1a" + base64.urlsafe_b64encode(payload).decode().rstrip("="), 0) is None


@pytest.mark.parametrize("alphabet", ALPHABETS)
@pytest.mark.parametrize("bounds", [[], [BASE + 1, BASE + 2], [BASE, BASE + 9, BASE + 4_000, BASE + 5_000]])
def test_a_probe_is_as_long_as_it_gets_and_means_the_same(alphabet: Alphabet, bounds: list[int]) -> None:
    text = filler(BASE, bounds, alphabet)
    assert LIMIT - 8 <= len(text) <= LIMIT
    assert decode(text, BASE) == Intervals(bounds)


def test_intervals() -> None:
    some = Intervals([3, 5, 9, 10])
    assert [offset for offset in range(12) if offset in some] == [3, 4, 9]
    assert some.end == 10
    assert Intervals().end == 0
    assert bool(some) is True
    assert bool(Intervals()) is False
    assert some == Intervals([3, 5, 9, 10])
    assert hash(some) == hash(Intervals([3, 5, 9, 10]))
    assert repr(some) == "Intervals(3..4, 9..9)"
    assert [some.above(offset) for offset in (0, 3, 4, 5, 9, 10)] == [
        [3, 5, 9, 10],
        [3, 5, 9, 10],
        [4, 5, 9, 10],
        [9, 10],
        [9, 10],
        [],
    ]
