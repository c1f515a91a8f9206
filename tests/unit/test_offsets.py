"""The offset tracker by example; test_metadata_properties.py compares it with a set of numbers."""

from __future__ import annotations

from kworker.core.offsets import OffsetTracker


def tracker(start: int, *offsets: int) -> OffsetTracker:
    tracker = OffsetTracker(start)
    tracker.open_all(list(offsets))
    return tracker


def test_before_anything_is_delivered_the_start_is_committable() -> None:
    new = OffsetTracker(7)
    assert (new.committable, new.open_count, new.window, new.finished_bounds()) == (7, 0, 0, [])


def test_it_moves_only_when_the_first_open_offset_is_finished() -> None:
    some = tracker(5, 5, 6, 7)
    some.finish(6)
    assert (some.committable, some.finished_bounds()) == (5, [6, 7])
    some.finish(7)
    assert (some.committable, some.finished_bounds()) == (5, [6, 8])
    some.finish(5)
    assert (some.committable, some.finished_bounds()) == (8, [])


def test_offsets_that_no_record_has_need_no_special_case() -> None:
    some = tracker(0, 3, 10, 11)
    some.finish(10)
    assert (some.committable, some.finished_bounds()) == (3, [10, 11])
    some.finish(3)
    assert some.committable == 11
    some.finish(11)
    assert some.committable == 12


def test_a_gap_counts_with_what_lies_before_it() -> None:
    some = tracker(0, 0, 1, 5, 9)
    some.finish(1)
    some.finish(5)
    assert some.finished_bounds() == [1, 9]


def test_a_marker_at_the_end_is_no_lag() -> None:
    some = tracker(0, 0)
    assert some.end_reached(2)
    assert some.committable == 0, "what is open still holds it"
    some.finish(0)
    assert some.committable == 2
    assert not some.end_reached(2)
    assert not some.end_reached(1)
    assert some.committable == 2


def test_the_window_is_the_range_or_what_its_runs_cost() -> None:
    assert tracker(0, *range(100)).window == 100
    assert tracker(0, 0, 1_000_000).window == 80
