"""Which letters are resolved: a model of sets says the same, and what is written down reads back as that."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.deadletters import Original, Stored
from kworker.core.metadata import Alphabet, Intervals, decode
from kworker.dlq.choice import Choice
from kworker.dlq.letter import Letter, read
from kworker.dlq.letters import Letters, Read
from kworker.dlq.resolved import Resolved
from kworker.dlq.resolver import RecordRefused, Resolver
from kworker.dlq.restore import Restored, restored
from kworker.dlq.settling import Settling

offsets = st.sets(st.integers(0, 60))


@given(offsets, offsets, st.integers(0, 20), offsets, st.integers(0, 5))
def test_as_sets_say(log: set[int], chosen: set[int], start: int, earlier: set[int], more: int) -> None:
    known = {offset for offset in earlier if offset > start}
    bounds: list[int] = []
    for offset in sorted(known):
        if bounds and bounds[-1] == offset:
            bounds[-1] = offset + 1
        else:
            bounds += [offset, offset + 1]
    state = Resolved(start, Intervals(bounds))
    letters = sorted(offset for offset in log if offset >= start)
    for offset in letters:
        state.seen(offset)
    end = max([start, *letters, *known]) + 1 + more
    state.ended(end)
    now = [offset for offset in letters if offset in chosen and offset not in state]
    copy = state.copy()
    state.resolve(now)
    for offset in letters:
        assert (offset in state) == (offset in known or offset in chosen)
        assert (offset in copy) == (offset in known)
    unresolved = [offset for offset in letters if offset not in state]
    if unresolved:
        assert max(offset for offset in range(start, unresolved[0] + 1)) >= state.base
    else:
        assert state.base == end, "nothing is left, so a lag of 0 is told"
    read_back = decode(state.text(Alphabet.WIDE), state.base)
    assert read_back == Intervals(state.bounds)
    again = Resolved(state.base, read_back)
    assert [offset for offset in letters if offset not in again] == unresolved


def test_what_a_broker_keeps_decides_what_fits() -> None:
    state = Resolved(0)
    for offset in range(5):
        state.seen(offset)
    state.resolve([0, 1])
    assert state.fits(None)
    state.resolve([3])
    assert not state.fits(None)
    assert state.fits(Alphabet.ASCII)
    assert (state.base, state.bounds) == (2, [3, 4])


class FakeLetters(Letters):
    """Letters that are in memory."""

    def __init__(self, letters: Sequence[Letter]) -> None:
        self.topic = "t.dlq"
        self.resolved = {0: Resolved(0)}
        self._letters = letters

    def from_the_first(self, *, resolved: bool = False) -> Iterator[Read]:
        for letter in self._letters:
            self.resolved[0].seen(letter.place.offset)
            if letter.place.offset not in self.resolved[0]:
                yield Read(letter, False)


class FakeResolver(Resolver):
    """Takes everything but records with certain values; keeps what a broker would."""

    def __init__(self, alphabet: Alphabet | None = Alphabet.WIDE, refused: Sequence[bytes] = ()) -> None:
        self.alphabet = alphabet
        self.batches: list[list[bytes | None]] = []
        self.state = Resolved(0)
        self._refuses = refused

    def resolve(self, records: Sequence[Restored], states: Mapping[int, Resolved]) -> None:
        values = [record.publication.value for record in records]
        if any(value in self._refuses for value in values):
            raise RecordRefused("too large")
        self.batches.append(values)
        for state in states.values():
            assert state.fits(self.alphabet)
            self.state = Resolved(state.base, decode(state.text(self.alphabet), state.base))


def settle(
    letters: FakeLetters, resolver: FakeResolver, wanted: Sequence[int], limit: int | None = None
) -> tuple[Settling, list[str]]:
    left: list[str] = []
    chosen = set(wanted)

    class Some(Choice, frozen=True):
        def takes(self, letter: Letter) -> bool:
            return letter.place.offset in chosen

    def make(letter: Letter) -> Restored:
        return restored(letter, None, 3)

    settling = Settling(
        letters,
        resolver,
        Some({}),
        make,
        limit=limit,
        rate=None,
        done=lambda batch: None,
        left=lambda letter, why: left.append(f"{letter.place.offset}: {why}"),
    )
    settling.run()
    return settling, left


def in_log(count: int, every: int = 1) -> FakeLetters:
    return FakeLetters(
        [read(Stored(Original("t", 0, n, b"k", b"%d" % n).letter(), "t.dlq", n * every)) for n in range(count)]
    )


@pytest.mark.parametrize(("alphabet", "window"), [(Alphabet.WIDE, 52_376), (Alphabet.ASCII, 20_912)])
def test_what_cannot_be_written_down_is_not_done(alphabet: Alphabet, window: int) -> None:
    every = 8  # gaps of 8: an interval takes two bytes of runs, or eight bits of a bitmap
    letters, resolver = in_log(9_000, every), FakeResolver(alphabet)
    settling, left = settle(letters, resolver, range(every, 9_000 * every, 2 * every))
    done = sum(map(len, resolver.batches))
    assert settling.progress.done == done < 4_500
    assert left == []
    full = settling.progress.full[0]
    assert full > window * 0.9
    for offset in range(every, 9_000 * every, 2 * every):
        assert (offset in resolver.state) == (offset < full)
    # The oldest first: then there is room again, and all of it is done.
    settle(letters, resolver, range(0, full, 2 * every))
    settling, left = settle(letters, resolver, range(0, 9_000 * every, every))
    assert (settling.progress.full, left) == ({}, [])
    values = [value for batch in resolver.batches for value in batch]
    assert sorted(values, key=lambda value: int(value or b"")) == [b"%d" % n for n in range(9_000)]


def test_without_metadata_only_what_comes_first_can_be_resolved() -> None:
    letters, resolver = in_log(10), FakeResolver(None)
    settling, _ = settle(letters, resolver, [0, 1, 4, 5])
    assert (resolver.batches, settling.progress.full) == ([[b"0", b"1"]], {0: 4})


def test_a_refused_record_stays_alone_and_a_limit_holds() -> None:
    letters, resolver = in_log(10), FakeResolver(refused=[b"3"])
    settling, left = settle(letters, resolver, range(10), limit=6)
    assert left == ["3: the broker does not take it: too large"]
    assert [value for batch in resolver.batches for value in batch] == [b"0", b"1", b"2", b"4", b"5"]
    assert (settling.progress.done, settling.progress.left) == (5, 1)
    assert 3 not in resolver.state
    assert 5 in resolver.state
