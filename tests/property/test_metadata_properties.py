"""Commit metadata and the offset tracker for every pattern, against sets of numbers."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from kworker.core.metadata import LIMIT, Alphabet, Intervals, capacity, decode, encode, filler
from kworker.core.offsets import OffsetTracker

alphabets = st.sampled_from(Alphabet)
bases = st.integers(0, 2**62)
lengths = st.sampled_from([1, 1, 1, 2, 3, 7, 8, 9, 127, 128, 129, 1000, 16_383, 16_384, 50_000]) | st.integers(1, 3000)


@st.composite
def patterns(draw: st.DrawFn, most: int = 400) -> tuple[int, list[int]]:
    """A base, and finished runs above it: start, end, start, end ..."""
    base = at = draw(bases)
    bounds = []
    for index, length in enumerate(draw(st.lists(lengths, max_size=most))):
        at += length
        bounds.append(at if index else at - draw(st.sampled_from([0, length])))  # the first may begin at the base
    return base, bounds[: len(bounds) // 2 * 2]


def ascending(bounds: list[int]) -> list[int]:
    assert bounds == sorted(set(bounds)), "the test's own patterns must be runs"
    return bounds


@given(patterns(), alphabets)
@example((0, [0, 1]), Alphabet.WIDE)
@example((2**62, [2**62 + 1, 2**62 + 2]), Alphabet.ASCII)
def test_what_is_decoded_is_what_was_encoded(pattern: tuple[int, list[int]], alphabet: Alphabet) -> None:
    base, bounds = pattern[0], ascending(pattern[1])
    text, complete = encode(base, bounds, alphabet)
    assert len(text) <= LIMIT
    found = decode(text, base)
    assert found is not None
    assert found.bounds == (bounds if complete else bounds[: len(found.bounds)])
    if not bounds or bounds[-1] - base <= capacity(alphabet):
        assert complete


@given(st.binary(max_size=1200), st.integers(0, 10**12), alphabets)
def test_any_bitmap_is_kept_exactly(bits: bytes, base: int, alphabet: Alphabet) -> None:
    offsets = [base + 8 * byte + bit for byte in range(len(bits)) for bit in range(8) if bits[byte] >> bit & 1]
    bounds: list[int] = []
    for offset in offsets:
        if bounds and bounds[-1] == offset:
            bounds[-1] += 1
        else:
            bounds += [offset, offset + 1]
    text, complete = encode(base, bounds, alphabet)
    assert complete
    assert decode(text, base) == Intervals(bounds)
    longest = filler(base, bounds, alphabet)
    assert len(longest) <= LIMIT
    assert decode(longest, base) == Intervals(bounds)


@given(st.text(max_size=200) | st.text().map("kw1w".__add__) | st.text().map("kw1a".__add__), bases)
def test_no_text_raises_and_none_is_guessed_at(text: str, base: int) -> None:
    assert decode(text, base) is None or text == ""


@given(patterns(60), alphabets, st.data())
@settings(max_examples=300)
def test_damage_is_noticed(pattern: tuple[int, list[int]], alphabet: Alphabet, data: st.DataObject) -> None:
    base, bounds = pattern
    text, _ = encode(base, bounds, alphabet)
    if not text:
        return
    place = data.draw(st.integers(0, len(text) - 1))
    replaced = text[:place] + data.draw(st.sampled_from("A_z0\u3400\u5555\ub3ff")) + text[place + 1 :]
    cut = text[:place]
    swapped = text[:place] + text[place + 1 : place + 2] + text[place : place + 1] + text[place + 2 :]
    for damaged in (
        replaced,
        cut,
        swapped,
        text[:place] + text[place + 1 :],
        text[:place] + text[place] + text[place:],
    ):
        found = decode(damaged, base)
        # What is behind the end of the payload may be anything: it changes nothing.
        assert found is None or found.bounds == bounds or damaged == ""


@given(patterns(60), alphabets, bases)
def test_of_another_offset_it_means_nothing(pattern: tuple[int, list[int]], alphabet: Alphabet, other: int) -> None:
    base, bounds = pattern
    text, _ = encode(base, bounds, alphabet)
    assert not text or other == base or decode(text, other) is None
    assert not text or decode(text, base + 1) is None


@given(
    st.integers(0, 50),
    st.lists(st.sampled_from([1, 1, 1, 2, 5]), max_size=40),
    st.randoms(use_true_random=False),
    st.integers(0, 80),
)
def test_the_tracker_knows_what_a_set_knows(start: int, steps: list[int], random: object, end: int) -> None:
    tracker = OffsetTracker(start)
    unfinished: list[int] = []
    finished: set[int] = set()
    following, last = start, start
    shuffle = getattr(random, "random")  # noqa: B009 - Hypothesis' Random has no type of its own
    for step in steps:
        offset = following + step - 1
        tracker.open_all([offset])
        unfinished.append(offset)
        following = offset + 1
        while unfinished and shuffle() < 0.5:
            one = unfinished.pop(int(shuffle() * len(unfinished)))
            tracker.finish(one)
            finished.add(one)
        committable = min(unfinished, default=following)
        assert tracker.committable == committable
        assert tracker.committable >= last, "it fell"
        last = tracker.committable
        above = {offset for offset in finished if offset > committable}
        assert tracker.open_count == len(unfinished)
        assert tracker.finished_count == len(above)
        assert tracker.highest_finished == max(above, default=committable - 1)
        told = Intervals(tracker.finished_bounds())
        assert {offset for offset in finished | set(unfinished) if offset in told} == above
        bits = tracker.finished_bounds()[-1] - committable if above else 0
        assert bits <= tracker.window or 40 * (len(unfinished) + len(above)) <= tracker.window
    assert tracker.end_reached(following + end) is (end > 0)
    assert tracker.next == following + end
    assert tracker.committable == min(unfinished, default=following + end)
