"""Results of a benchmark: parts of a run add up, goals are judged by them, and the document shows both runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.document import rendered
from benchmarks.goals import GOALS, RAW, THREADS, Goal, flat, ratio
from benchmarks.plan import MIX, STUCK, WORKLOADS, chosen, executor_of, stuck
from benchmarks.roster import ALL
from benchmarks.store import Part, Results, Store, read
from benchmarks.trial import Measurement


def made(path: Path, *parts: list[Measurement]) -> Results:
    """The results of a file that was written in these parts."""
    store = Store(path)
    for number, part in enumerate(parts):
        store.begin(Part(f"part {number}", machine=["a machine"], peers={THREADS: ("1.0", "defaults")}))
        for one in part:
            store.add(one)
    return read(path)


def rate(peer: str, value: float, *faults: str) -> Measurement:
    return Measurement(peer, "W1", {"rate": value, "missing": 0.0, "repeated": 0.0, "lag": 0.0}, list(faults))


def test_a_later_part_adds_and_replaces(tmp_path: Path) -> None:
    first = [rate(THREADS, 1.0), rate(THREADS, 3.0), rate(RAW, 10.0)]
    results = made(tmp_path / "folder" / "a.jsonl", first, [rate(THREADS, 5.0), rate(THREADS, 7.0), rate(THREADS, 6.0)])
    assert results.median("W1", THREADS, "rate") == 6.0
    assert results.median("W1", RAW, "rate") == 10.0
    assert [part.command for part in results.parts] == ["part 0", "part 1"]


def test_a_file_without_results_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").touch()
    with pytest.raises(ValueError, match="holds no results"):
        read(tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    ("ours", "fault", "verdict"),
    [(10.0, [], "met"), (9.99, [], "missed"), (20.0, ["3 of 5 tasks never ran"], "not measured")],
)
def test_a_goal_is_judged_by_valid_runs(tmp_path: Path, ours: float, fault: list[str], verdict: str) -> None:
    results = made(tmp_path / "a.jsonl", [rate(THREADS, ours, *fault), rate(RAW, 10.0)])
    assert Goal("W1", "", ratio("W1", THREADS, RAW), low=1.0).verdict(results) == verdict


def test_flat_is_the_farthest_from_the_middle() -> None:
    assert flat([2.0, 2.2, 2.0, 1.5]) == pytest.approx(0.25)
    assert flat([2.0, None, 2.0]) is None
    assert flat([]) is None


def test_every_goal_names_a_workload_and_a_figure_that_some_peer_has() -> None:
    planned = {workload.name for workload in WORKLOADS}
    for goal in GOALS:
        assert goal.workload in planned or goal.workload == "W8", goal.what
        assert (goal.low is None) != (goal.high is None), goal.what


def test_every_workload_has_a_peer_and_every_peer_a_workload() -> None:
    planned = {workload.name for workload in WORKLOADS}
    assert planned == {name for peer in ALL for name in peer.workloads}
    assert len({peer.name for peer in ALL}) == len(ALL)


def test_two_runs_stand_side_by_side(tmp_path: Path) -> None:
    runs = {
        "first": made(tmp_path / "first.jsonl", [rate(THREADS, 11.0), rate(RAW, 10.0)]),
        "second": made(tmp_path / "second.jsonl", [rate(THREADS, 9.0), rate(RAW, 10.0)]),
    }
    text = rendered(runs)
    assert "| W1 | threads by the raw consume loop | >= 1 | 1.1 | met | 0.9 | missed |" in text
    assert text.index("## Run: first") < text.index("## Run: second")
    assert "| **kworker threads** | 11 | 1.1 | 0 | 0 | 0 | valid |" in text


def test_workloads_are_chosen_by_the_parts_of_their_names() -> None:
    assert [workload.name for workload in chosen(["W2"])] == ["W2-64", "W2-256", "W2-kill"]
    assert [workload.name for workload in chosen(["W8-size-1MiB", "W1"])] == ["W1", "W8-size-1MiB", "W1-kill"]
    assert len(list(chosen([]))) == len(WORKLOADS)


def test_the_mix_is_what_each_executor_can_do_in_the_same_time() -> None:
    assert [MIX.count(kind) for kind in ("thread", "coroutine", "process")] == [16, 16, 5]
    assert {executor_of(n) for n in range(len(MIX), 2 * len(MIX))} == set(MIX)


@pytest.mark.parametrize("gap", [500, 5_000, 50_000])
def test_who_is_stuck_waits_for_one_that_is_not(gap: int) -> None:
    waiting = [n for n in range(200_000) if stuck(gap, n)]
    assert len(waiting) == STUCK * 200_000 // gap
    assert not any(stuck(gap, n + gap - STUCK) for n in waiting)
    assert {n % STUCK for n in waiting} == set(range(STUCK))
