"""The true backlog of a partition, against a set of offsets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kworker.core.backlog import backlog
from kworker.core.metadata import Alphabet, Intervals, encode
from kworker.task import TopicPartition

PLACE = TopicPartition("t", 0)


def _bounds(offsets: set[int]) -> list[int]:
    edges = sorted(offsets ^ {offset + 1 for offset in offsets})
    return edges


@given(
    low=st.integers(0, 60),
    length=st.integers(0, 60),
    committed=st.none() | st.integers(0, 130),
    finished=st.sets(st.integers(0, 150)),
)
def test_it_is_what_lies_in_the_log_and_is_neither_committed_nor_finished(
    low: int, length: int, committed: int | None, finished: set[int]
) -> None:
    end = low + length
    metadata = ""
    done: set[int] = set()
    if committed is not None:
        done = {offset for offset in finished if offset > committed}
        metadata, _ = encode(committed, _bounds(done), Alphabet.ASCII)
    found = backlog(PLACE, low, end, committed, metadata)
    expected = {
        offset for offset in range(low, end) if committed is None or (offset >= committed and offset not in done)
    }
    assert found.known
    assert found.unfinished == len(expected)
    assert {offset for start, stop in found.gaps() for offset in range(start, stop)} == expected
    assert {offset for offset in range(low, end) if not found.is_finished(offset)} == expected


@pytest.mark.parametrize("metadata", ["hello", "kw1w", encode(7, [9, 12])[0]])
def test_metadata_of_others_is_told_and_not_believed(metadata: str) -> None:
    found = backlog(PLACE, 0, 20, 5, metadata)
    assert not found.known
    assert found.unfinished == 15


def test_bounds_of_the_test_itself() -> None:
    assert Intervals(_bounds({1, 2, 3, 7})).bounds == [1, 4, 7, 8]
