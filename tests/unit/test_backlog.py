"""The true backlog of a partition, against a set of offsets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kworker.core.backlog import backlog
from kworker.core.metadata import Alphabet, Intervals, encode
from kworker.core.pace import Pace
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
    if committed is None:
        assert found.done is None
    else:  # what the log lost is not finished
        assert found.done == min(committed, end) + sum(offset < end for offset in done)


@pytest.mark.parametrize("metadata", ["hello", "kw1w", encode(7, [9, 12])[0]])
def test_metadata_of_others_is_told_and_not_believed(metadata: str) -> None:
    found = backlog(PLACE, 0, 20, 5, metadata)
    assert not found.known
    assert found.unfinished == 15


def test_bounds_of_the_test_itself() -> None:
    assert Intervals(_bounds({1, 2, 3, 7})).bounds == [1, 4, 7, 8]


def sampled(pace: Pace, now: float, *partitions: tuple[int, int, int | None]) -> None:
    """Sample partitions, each (low, end, committed)."""
    pace.sample(now, [backlog(TopicPartition("t", n), *one, "") for n, one in enumerate(partitions)])


def test_the_time_to_drain_is_told_by_what_was_finished_of_late() -> None:
    pace = Pace()
    assert pace.drain(0) == 0
    assert pace.drain(5) is None
    sampled(pace, 100.0, (0, 1000, 100), (0, 1000, None))
    assert pace.drain(5) is None
    sampled(pace, 110.0, (0, 1000, 120), (0, 1000, None))
    assert pace.drain(30) == 15.0
    sampled(pace, 120.0, (0, 1000, 120), (0, 1000, None))
    assert pace.drain(30) == 30.0
    for turn in range(8):  # no worker: what was finished is forgotten
        sampled(pace, 130.0 + turn, (0, 1000, 120), (0, 1000, None))
    assert pace.drain(30) is None
    assert pace.drain(0) == 0


def test_what_a_log_lost_and_what_is_seen_first_is_no_pace() -> None:
    pace = Pace()
    sampled(pace, 0.0, (0, 1000, 100), (0, 1000, None))
    sampled(pace, 10.0, (500, 1000, 100), (500, 1000, None))
    assert pace.drain(9) is None
    sampled(pace, 20.0, (500, 1000, 100), (500, 1000, 900), (0, 90_000, 80_000))
    assert pace.drain(9) is None
    sampled(pace, 30.0, (500, 1000, 100), (500, 1000, 930), (0, 90_000, 80_000))
    assert pace.drain(9) == 9.0


def test_who_goes_on_behind_what_the_log_lost_has_not_done_it() -> None:
    pace = Pace()
    sampled(pace, 0.0, (0, 1000, 10))
    sampled(pace, 10.0, (500, 1000, 10))
    sampled(pace, 20.0, (500, 1000, 520))
    assert pace.drain(480) == 480.0  # 20 in 20 seconds


def test_offsets_that_were_set_back_begin_anew() -> None:
    pace = Pace()
    sampled(pace, 0.0, (0, 1000, 100))
    sampled(pace, 10.0, (0, 1000, 600))
    sampled(pace, 20.0, (0, 1000, 0))
    assert pace.drain(1000) is None
    sampled(pace, 30.0, (0, 1000, 100))
    assert pace.drain(900) == 90.0
